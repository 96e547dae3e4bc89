"""One run of the stand-in trtexec: the log, the loading of engines, the measuring."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import trtexec_computes as computing
import trtexec_options as options_of
import trtexec_writes as writes
from trtexec_build import Building, Failed


class Trtexec(Building):
    """One run."""

    def __init__(self, behaviour: Any, argv: list[str]) -> None:
        self.behaviour = behaviour
        self.argv = argv
        self.version = behaviour.version
        unit = 1000 if self.version[0] < 10 else 10000
        number = self.version[0] * unit + self.version[1] * 100 + self.version[2]
        build = f" [b{behaviour.build}]" if self.version >= (10, 4, 0) else ""
        self.banner = f"TensorRT.trtexec [TensorRT v{number}]{build} # {' '.join(argv)}"

    def say(self, text: str, level: str = "I") -> None:
        stream = sys.stdout if level in "IV" else sys.stderr
        stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
        for line in text.split("\n")[:1]:
            print(f"[{stamp}] [{level}] {line}", file=stream, flush=True)
        for line in text.split("\n")[1:]:
            print(line, file=stream, flush=True)

    def step(self, stage: str) -> None:
        if self.behaviour.slow:
            time.sleep(self.behaviour.slow)
        if self.behaviour.killed == stage:
            os.kill(os.getpid(), signal.SIGKILL)
        if stage in self.behaviour.fail:
            raise Failed(self.behaviour.fail[stage])

    def main(self) -> int:
        words = self.argv[1:]
        print(f"&&&& RUNNING {self.banner}", flush=True)
        if self.behaviour.garbage == "help" and "--help" in words:
            print("\x1b[31m\0\ufffd\n  --onnx\n  --on", flush=True)
            return 0
        if "--help" in words or "-h" in words:
            print(options_of.help_text(self.version), flush=True)
            return 0
        try:
            options = options_of.parse(words, self.version)
            problems = [f"Unknown option: {flag} {value}" for flag, value in options.unknown]
            if not (options.has("--onnx") or options.has("--loadEngine")):
                problems.append("Model missing or format not recognized")
        except options_of.Wrong as wrong:
            problems = [str(wrong)]
        if problems:
            for problem in problems:
                self.say(problem, "E")
            print(options_of.help_text(self.version), flush=True)
            return self.end(False)
        try:
            self.run(options)
        except Failed as failed:
            for line in failed.args:
                self.say(line, "E")
            return self.end(False)
        return self.end(True)

    def end(self, passed: bool) -> int:
        print(f"&&&& {'PASSED' if passed else 'FAILED'} {self.banner}", flush=True)
        return 0 if passed else 1

    def run(self, options: options_of.Options) -> None:
        self.about(options)
        self.step("start")
        start = time.monotonic()
        if options.has("--onnx"):
            facts = self.built(options)
        else:
            facts = self.loaded(Path(options.get("--loadEngine")))
        word = "built" if options.has("--onnx") else "loaded"
        self.say(f"Engine {word} in {time.monotonic() - start:.6g} sec.")
        if self.behaviour.garbage == "log":
            sys.stdout.buffer.write(b"\xff\xfe\x00 not text\n\x1b[2J" + b"x" * 100_000 + b"\n")
            sys.stdout.flush()
        self.write(
            options.get("--exportLayerInfo"), "layers", writes.layers_text(facts, self.version)
        )
        only = next((f for f in ("--skipInference", "--buildOnly") if options.has(f)), None)
        if only:
            self.say(f"Skipped inference phase since {only} is added.")
        else:
            self.measure(options, facts)

    def about(self, options: options_of.Options) -> None:
        self.say("=== Model Options ===")
        self.say(f"Format: {'ONNX' if options.has('--onnx') else '*'}")
        self.say(f"Model: {options.get('--onnx')}")
        self.say("=== Build Options ===")
        self.say(f"Precision: {self.precision(options)}")
        self.say(f"Calibration: {options.get('--calib')}")
        self.say("=== Device Information ===")
        self.say(f"Selected Device: {self.behaviour.gpu}")
        self.say(f"Compute Capability: {self.behaviour.sm}")
        self.say("")
        self.say(f"TensorRT version: {'.'.join(map(str, self.version))}")

    def precision(self, options: options_of.Options) -> str:
        if self.version >= (11, 0, 0) or options.has("--stronglyTyped"):
            return "Strongly Typed"
        fp16, int8 = options.has("--fp16"), options.has("--int8")
        return "FP32" + ("+FP16" if fp16 else "") + ("+INT8" if int8 else "")

    def write(self, path: str, what: str, data: str | bytes) -> bool:
        """Write a file; with a full disk half of it, as an ofstream does, which nobody checks."""
        if not path:
            return True
        raw = data.encode() if isinstance(data, str) else data
        full = what in self.behaviour.full
        try:
            Path(path).write_bytes(raw[: len(raw) // 2] if full else raw)
        except OSError:
            return False
        return not full

    def loaded(self, path: Path) -> dict[str, Any]:
        self.step("load")
        if not path.is_file():
            raise Failed(f"Error opening engine file: {path}", "Engine set up failed")
        size = path.stat().st_size
        self.say(f"[TRT] Loaded engine size: {size >> 20} MiB")
        try:
            return writes.read_engine(path, self.version, self.behaviour.build, self.behaviour.sm)
        except writes.NotAnEngine as problem:
            head = (
                "Error[6]: "
                if self.version[0] < 10
                else ("IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (")
            )
            tail = "" if self.version[0] < 10 else ")"
            raise Failed(
                f"{head}{problem}{tail}",
                "Error[4]: [runtime.cpp::deserializeCudaEngine::66] Error Code 4: Internal Error "
                "(Engine deserialization failed.)",
                "Engine deserialization failed",
                "Got invalid engine!",
                "Inference set up failed",
            ) from None

    def measure(self, options: options_of.Options, facts: dict[str, Any]) -> None:
        if int(options.number("--useProfile", 0)) >= facts["profiles"]:
            raise Failed("Optimization profile index is out of range", "Inference set up failed")
        if facts["dla"] is not None and not options.has("--useDLACore"):
            self.say("[TRT] Using an engine built for a DLA core on core 0", "W")
        scale = 1.0
        for name, shape in options.shapes.items():
            built_for = facts["shapes"].get(name)
            if built_for is None:
                raise Failed(
                    f'Cannot find input tensor with name "{name}" in the engine bindings! Please '
                    "make sure the input tensor names are correct.",
                    "Inference set up failed",
                )
            scale *= shape[0] / built_for[0] if shape and built_for else 1.0
        try:
            feeds = computing.feeds(options, facts, self.version, self.say)
        except computing.Wrong as wrong:
            raise Failed(*wrong.args, "Inference set up failed") from None
        self.say("Starting inference")
        self.step("inference")
        while self.behaviour.garbage == "hang":
            time.sleep(1)
        newer = "--noCudaGraph" in options_of.known(self.version)
        graph = not options.has("--noCudaGraph") if newer else options.has("--useCudaGraph")
        transfers = (
            options.has("--includeDataTransfers") if newer else not options.has("--noDataTransfers")
        )
        layers = len(facts["layers"])
        mean = facts["ms"] * scale + (0.01 if graph else 0.01 + 0.003 * layers)
        warmup, duration = options.number("--warmUp", 200), options.number("--duration", 3)
        runs = int(max(options.number("--iterations", 10), min(2000, 1000 * duration / mean)))
        seed = json.dumps([facts["layers"], scale])
        found = writes.traces(mean, max(1, runs), warmup, transfers=transfers, seed=seed)
        self.say(f"Warmup completed {int(warmup / mean) or 1} queries over {warmup:g} ms")
        self.say(f"Timing trace has {len(found)} queries over {duration:g} s")
        self.say("\n=== Trace details ===")
        percentiles = [float(p) for p in options.get("--percentile", "90,95,99").split(",")]
        for line in writes.summary(found, percentiles):
            self.say(line)
        self.step("export")
        text = writes.times_text(found)
        if self.behaviour.garbage == "times":
            text = text.replace(
                f'"computeMs" : {found[0]["computeMs"]:.6g}', '"computeMs" : nan', 1
            )
        self.write(options.get("--exportTimes"), "times", text)
        if options.has("--exportOutput"):
            values = computing.run(facts, feeds)
            text = computing.values_text(values, self.version)
            self.write(options.get("--exportOutput"), "values", text)
        self.write(
            options.get("--exportProfile"),
            "profile",
            writes.profile_text(facts["layers"], len(found), mean),
        )
