"""What trtexec says while it works: progress as it comes, and the one line that tells what failed.

The log comes from another machine and is hostile until read: lines and lists are bounded, and
control characters never reach a terminal. Formats: ``samples/common/sampleReporting.cpp`` and
``logger.cpp`` of NVIDIA/TensorRT, and logs of 8.5 to 11 in public issues. trtexec writes warnings
and errors to stderr and the rest to stdout: read both, in any interleaving.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from graphopt.engines._messages import builder_message, parser_message
from graphopt.engines.releases import Version
from graphopt.engines.trtexec.features import banner_number, banner_version

_MOST_CHARACTERS = 4000
_MOST_KEPT = 200
_STAMPED = re.compile(r"^(?:\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] ?)?\[([IWEV])\] ?(.*)$")
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]")
_NODE = re.compile(r'While parsing node number (\d+) \[([\w.]+)(?: -> "([^"]*)")?')
_NODE_NAME = re.compile(r'^(?:\S+\.cpp:\d+: )?name: "([^"]*)"')
_NODE_10 = re.compile(
    r"In node (-?\d+) with name: ?(.*?) and operator: ?([\w.]*) \(\w+\): (?:[A-Z_]+: )?(.*)"
)
_IMPORTER = re.compile(r"ERROR: \S+:\d+ In function \w+:")
_INVALID = re.compile(r"^\[\d+\] ?(?:Invalid Node - (\S*) ?)?")
_NUMBERED = re.compile(r"^Error\[\d+\]: |^\[TRT\] ")
_BUILT = re.compile(r"^Engine (built|loaded|deserialized) in ([\d.eE+-]+) sec")
_THROUGHPUT = re.compile(r"^Throughput: ([\d.eE+-]+) qps")
_SUMMARY = re.compile(
    r"^(Latency|Enqueue Time|H2D Latency|GPU Compute Time|D2H Latency): (min = .*)$"
)
_VALUE = re.compile(r"(\w+)(?:\(([\d.]+)%\))? = ([\d.eE+-]+) ms")
_PEAK = re.compile(r"Peak memory usage.*?CPU:? (\d+) MiB(?:, GPU:? (\d+) MiB)?")
_GENERIC = (
    "Failed to parse onnx file",
    "Parsing model failed",
    "Network And Config setup failed",
    "Required optimization profile is invalid",
    "Engine could not be created from network",
    "Building engine failed",
    "Failed to create engine from model",
    "Engine set up failed",
    "Engine deserialization failed",
    "Got invalid engine",
    "Inference set up failed",
    "Error occurred during inference",
)
_SHOWN = (
    "Start parsing network model",
    "Finish parsing network model",
    "Finished parsing network model",
    "Global timing cache in use",
    "Local timing cache in use",
    "Starting Calibration",
    "Reading Calibration Cache",
    "Engine generation completed",
    "Engine built in",
    "Engine loaded in",
    "Starting inference",
    "Timing trace has",
    "Throughput:",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a log told.

    Attributes:
        version: of the TensorRT, by the banner; None where there was none.
        passed: what trtexec itself said; None where it said neither (it was killed, or is running).
        errors: its errors cut down, the most useful one first.
        warnings: its warnings cut down, each once.
        engine_s: seconds it took to build or load the engine, or None.
        throughput_qps: queries, not items, a second, or None.
        summaries: by name (``"GPU Compute Time"``) -> ``"min"``, ``"median"``, ``"p99"`` … in ms.
        peak_cpu_mib: memory at the peak of the build, where it was printed.
        peak_gpu_mib: likewise on the GPU.
        recalibrated: TensorRT did not take the calibration cache, and began to calibrate.
    """

    version: Version | None = None
    passed: bool | None = None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    engine_s: float | None = None
    throughput_qps: float | None = None
    summaries: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    peak_cpu_mib: int | None = None
    peak_gpu_mib: int | None = None
    recalibrated: bool = False

    def problem(self, status: int | None = None) -> str | None:
        """Return what went wrong in one line, or None if trtexec passed.

        Args:
            status: its exit status as a shell tells it (137: killed), or negative for a signal.
        """
        if self.passed and status in (0, None):
            return None
        if self.recalibrated and self.errors:
            first = "that of its own version and algorithm"
            if self.version is not None:
                first = f"TRT-{banner_number(self.version)}-EntropyCalibration2"
            return (
                "TensorRT did not take the calibration cache and began to calibrate: its first "
                f"line must be {first} ({self.errors[0]})"
            )
        if self.errors:
            return self.errors[0]
        if status in (137, -9):
            return "trtexec was killed: the device most likely ran out of memory"
        if status in (126, 127):
            return "trtexec cannot be started on the device"
        if self.passed:
            return f"trtexec said PASSED and ended with status {status}"
        if self.passed is None:
            return f"trtexec stopped without saying why (status {status})"
        return "trtexec failed without saying why"


class LogReader:
    """Reads a log line by line."""

    def __init__(self) -> None:
        self._version: Version | None = None
        self._passed: bool | None = None
        self._errors: list[str] = []
        self._warnings: list[str] = []
        self._node_errors: list[str] = []
        self._node = ("", "", "")  # number, operator, name
        self._importer: list[str] | None = None
        self._in_node = False
        self._engine_s: float | None = None
        self._throughput: float | None = None
        self._summaries: dict[str, dict[str, float]] = {}
        self._peak: tuple[int | None, int | None] = (None, None)
        self._recalibrated = False

    def feed(self, line: str) -> str | None:
        """Take one line; return it cleaned if it is worth showing as progress."""
        line = _UNPRINTABLE.sub("", line.rstrip("\r\n")[:_MOST_CHARACTERS])
        if line.startswith("&&&& "):
            self._verdict(line)
            return None
        stamped = _STAMPED.match(line)
        if stamped is None:
            self._continued(line)
            return None
        self._flush()
        level, text = stamped[1], stamped[2].strip()
        if level == "E":
            self._error(text)
        elif level == "W":
            _keep(self._warnings, _NUMBERED.sub("", text))
        elif level == "I":
            return self._told(text)
        return None

    def outcome(self) -> Outcome:
        """Return what the lines so far have told."""
        self._flush()
        useful = [e for e in self._errors if not e.startswith(_GENERIC)]
        generic = [e for e in self._errors if e.startswith(_GENERIC)]
        return Outcome(
            version=self._version,
            passed=self._passed,
            errors=(*self._node_errors, *useful, *generic),
            warnings=tuple(self._warnings),
            engine_s=self._engine_s,
            throughput_qps=self._throughput,
            summaries={name: dict(values) for name, values in self._summaries.items()},
            peak_cpu_mib=self._peak[0],
            peak_gpu_mib=self._peak[1],
            recalibrated=self._recalibrated,
        )

    def _verdict(self, line: str) -> None:
        self._flush()
        if line.startswith("&&&& RUNNING"):
            self._version = banner_version(line) or self._version
        elif line.startswith("&&&& PASSED"):
            self._passed = True
        elif line.startswith("&&&& FAILED"):
            self._passed = False

    def _told(self, text: str) -> str | None:
        plain = _NUMBERED.sub("", text)
        if plain.startswith("Starting Calibration"):
            self._recalibrated = True
        built = _BUILT.match(plain)
        if built and built[1] != "deserialized":
            self._engine_s = _number(built[2])
        throughput = _THROUGHPUT.match(plain)
        if throughput:
            self._throughput = _number(throughput[1])
        summary = _SUMMARY.match(plain)
        if summary:
            self._summaries[summary[1]] = _values(summary[2])
        peak = _PEAK.search(plain)
        if peak:
            self._peak = (int(peak[1][:9]), int(peak[2][:9]) if peak[2] else None)
        return plain if plain.startswith(_SHOWN) else None

    def _error(self, text: str) -> None:
        node = _NODE.search(text)
        if node:
            self._node = (node[1], node[2], "")
            return
        if "--- Begin node ---" in text:
            self._in_node = True
            return
        if "--- End node ---" in text:
            self._in_node = False
            return
        if self._in_node:
            self._continued(_NUMBERED.sub("", text))
            return
        if _IMPORTER.search(text):
            self._importer = []
            return
        newer = _NODE_10.search(text)
        if newer:
            self._at_node(newer[1], newer[3], newer[2], newer[4])
            return
        _keep(self._errors, _cut_down(text))

    def _continued(self, line: str) -> None:
        """A line without a stamp: more of a node, or of what its importer says."""
        if self._importer is not None:
            if len(self._importer) < _MOST_KEPT:
                self._importer.append(line)
        elif self._in_node and not self._node[2]:
            name = _NODE_NAME.match(line)
            if name:
                self._node = (self._node[0], self._node[1], name[1])

    def _flush(self) -> None:
        if self._importer is None:
            return
        text = " ".join(self._importer)
        self._importer = None
        number, operator, name = self._node
        invalid = _INVALID.match(text)
        if invalid:
            name = name or (invalid[1] or "")
            text = text[invalid.end() :]
        self._at_node(number, operator, name, text)
        self._node = ("", "", "")

    def _at_node(self, number: str, operator: str, name: str, text: str) -> None:
        said = parser_message(text, operator)
        where = f"node '{name}'" if name else f"node {number}" if number else ""
        if where:
            kind = f" ({operator})" if operator else ""
            said = f"{where}{kind}: {said}"
        _keep(self._node_errors, said)


def read_log(lines: str | Iterable[str]) -> Outcome:
    """Read a whole log."""
    reader = LogReader()
    for line in lines.splitlines() if isinstance(lines, str) else lines:
        reader.feed(line)
    return reader.outcome()


def _keep(kept: list[str], text: str) -> None:
    if text and text not in kept and len(kept) < _MOST_KEPT:
        kept.append(text)


def _cut_down(text: str) -> str:
    return builder_message(_NUMBERED.sub("", text)).removesuffix(" .")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _values(text: str) -> dict[str, float]:
    found = {}
    for name, percent, number in _VALUE.findall(text):
        value = _number(number)
        if value is not None:
            found[f"p{float(percent):g}" if percent else name] = value
    return found
