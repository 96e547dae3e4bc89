"""A stand-in for TensorRT's trtexec, one version at a time, strict about what that version takes.

``install(folder, "8.5.2")`` writes an executable ``trtexec``. It checks an ONNX model as that
version's parser would, and writes that version's log and files, with times computed from the
model's multiply-accumulates: the same model gives the same times, a pruned one less. Its engines
hold the model, and their values are computed by ONNX Runtime, as the graph is written.

What it can be made to do: see :class:`Behaviour`.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from trtexec_run import Trtexec  # noqa: E402

STAGES = ("start", "parse", "build", "save", "load", "inference", "export")


@dataclass
class Behaviour:
    """How one stand-in behaves.

    Attributes:
        gpu, sm, dla_cores: the device it finds.
        build: the fourth number of its version.
        slow: seconds each step takes: one a stage, one a layer built.
        fail: a stage -> the error it ends with there.
        killed: the stage at which the system's out-of-memory killer ends it.
        full: the files for which the disk is full: "save", "times", "profile", "layers", "cache",
            "values".
        garbage: "help" (no help of trtexec's), "log" (bytes that are no text among the lines),
            "times" (NaN and negative times), "hang" (goes on for ever while measuring).
        record: a file to which each command line is added, as JSON.
        cannot_start: what the dynamic linker says instead of running it.
    """

    version: tuple[int, int, int]
    gpu: str = "Tesla T4"
    sm: str = "7.5"
    dla_cores: int = 0
    build: int = 2
    slow: float = 0.0
    fail: dict[str, str] = field(default_factory=dict)
    killed: str = ""
    full: tuple[str, ...] = ()
    garbage: str = ""
    record: str = ""
    cannot_start: str = ""


def install(folder: str | Path, version: str | tuple[int, int, int], **behaviour: Any) -> Path:
    """Write an executable ``trtexec`` into ``folder`` and return its path.

    Args:
        folder: made if it is not there.
        version: ``"8.5.2"`` or ``(8, 5, 2)``.
        **behaviour: fields of :class:`Behaviour`.
    """
    if isinstance(version, str):
        parts = [*(int(part) for part in version.split(".")), 0, 0]
        version = (parts[0], parts[1], parts[2])
    settings = asdict(Behaviour(version=version, **behaviour))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / ".trtexec.json"
    told.write_text(json.dumps(settings), encoding="utf-8")
    program = folder / "trtexec"
    command = shlex.join([sys.executable, str(HERE / "trtexec.py"), str(told.resolve())])
    program.write_text(f'#!/bin/sh\nexec {command} "$0" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return program


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raw = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    raw["version"] = tuple(raw["version"])
    behaviour = Behaviour(**raw)
    if behaviour.record:
        with Path(behaviour.record).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(argv[3:]) + "\n")
    if behaviour.cannot_start:
        print(behaviour.cannot_start, file=sys.stderr)
        return 127
    return Trtexec(behaviour, argv[2:]).main()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
