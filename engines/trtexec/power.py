"""The power that an engine draws where trtexec runs it: a job of its own, beside a meter.

For ``graphopt profile ENGINE --power``, here and with ``--host``::

    result = Trtexec(host).power(path, sizes, seconds=10.0, say=say)
    figures = result.figures()
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.engines.header import is_engine
from graphopt.engines.known import known_batch
from graphopt.engines.remote import power as meter
from graphopt.engines.remote.job import Job
from graphopt.engines.safety import check_engine
from graphopt.engines.trtexec.command import Request, Timing, command
from graphopt.engines.trtexec.device import mark
from graphopt.engines.trtexec.requests import FILES
from graphopt.engines.trtexec.takes import dla_core
from graphopt.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from graphopt.engines.trtexec.engine import Trtexec
    from graphopt.engines.trtexec.exchange import Say
    from graphopt.profiles.power import PowerResult

IDLE_S = 3.0
"""Seconds to listen to the idle device before; an NVIDIA GPU comes to rest slowly."""
_LOADING_S = 600.0


@dataclass(frozen=True, slots=True)
class Metered:
    """One run of trtexec with a meter beside it.

    Attributes:
        title: what others who wait for the device are told.
        program: the path of trtexec there.
        words: after it.
        inputs: name -> file here, the meter's script among them.
        readings: where the readings go here.
        seconds: that it runs.
    """

    title: str
    program: str
    words: tuple[str, ...]
    inputs: Mapping[str, Path]
    readings: Path
    seconds: float

    @property
    def runs(self) -> int:
        """One."""
        return 1

    def job(self) -> Job:
        """Return the job."""
        run = meter.metered(self.program, self.words, IDLE_S)
        return Job(
            words=("sh", "-c", f"{mark(0)}\n{run}"),
            inputs=self.inputs,
            outputs={meter.READINGS: self.readings},
            title=self.title,
            time_limit_s=self.seconds + IDLE_S + _LOADING_S,
        )


def measure_power(
    tool: Trtexec,
    path: Path,
    sizes: Mapping[str, tuple[int, ...]],
    seconds: float,
    *,
    say: Say,
    warn: Say | None = None,
) -> PowerResult:
    """Measure what an engine draws; see :meth:`Trtexec.power`."""
    lacks = tool.missing()
    if lacks:
        raise EnvironmentProblem(lacks)
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    if not is_engine(path):
        raise UsageError(
            f"{path.name} is no engine of TensorRT's: power is measured of one that is built "
            "(graphopt build)"
        )
    if not 1 <= seconds <= 3600:
        raise UsageError(f"power is measured for 1 to 3600 seconds, not {seconds:g}")
    probe = tool.probe()
    check_engine(path, probe.place(), warn=warn)
    asked = command(
        Request(
            load=FILES.engine,
            dla=dla_core(path),
            timing=Timing(duration_s=math.ceil(seconds)),
            shapes=sizes,
        ),
        tool.features(),
    )
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        folder = Path(scratch)
        work = Metered(
            title=f"measuring the power of {path.name}",
            program=probe.trtexec,
            words=asked.words,
            inputs={FILES.engine: path, meter.SCRIPT: meter.write_script(folder)},
            readings=folder / meter.READINGS,
            seconds=seconds,
        )
        done = tool.run(work, say)
        if done.finished.status == meter.NO_METER:
            raise EnvironmentProblem(
                f"nothing on {probe.where} tells power: looked for tegrastats (a Jetson) and "
                "nvidia-smi's power.draw"
            )
        done.check(f"run {path.name}")
        told = meter.read_told(work.readings)
    qps = done.outcomes[0].throughput_qps
    batch = next((shape[0] for shape in sizes.values() if shape), None) or known_batch(path)
    return meter.result(told, runs_per_s=qps or 0.0, batch=max(1, batch))
