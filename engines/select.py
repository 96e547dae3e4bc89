"""Which engine to build with: the one asked for, or the best that can build here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graphopt.engines import AUTO_ORDER, ENGINES, Engine
from graphopt.errors import EnvironmentProblem, MissingDependencyError

if TYPE_CHECKING:
    from graphopt.profiles import DeviceProfile

AUTO = "auto"
_WHY = {
    "tensorrt": "builds here, on the GPU it runs on",
    "trtexec": "builds here, on the GPU it runs on, without TensorRT's Python package",
    "tensorrt-rtx": "builds here without a GPU",
    "onnxruntime": "runs everywhere, on the processor",
}


def choose(
    name: str,
    device: DeviceProfile,
    *,
    precision: str = "fp32",
    make: Callable[[str], Engine] | None = None,
) -> tuple[Engine, str]:
    """Return an engine that can build here for the device, and why this one.

    Args:
        name: an engine's name, or ``"auto"`` for the first of ``AUTO_ORDER`` that can.
        device: the target.
        precision: ``"fp32"`` or ``"int8"``: some engines cannot do it for some devices.
        make: makes an engine of a name; with its defaults where there is none.

    Raises:
        UsageError: no engine has this name.
        MissingDependencyError: the engine asked for is not installed; the message says how.
        EnvironmentProblem: nothing here can build for the device.
    """
    make = make or _plain
    if name != AUTO:
        engine = make(name)
        missing = engine.missing()
        if missing:
            raise MissingDependencyError(missing)
        reason = engine.cannot_build(device, precision)
        if reason:
            raise EnvironmentProblem(reason)
        return engine, f"{engine.name}: asked for"
    passed_over: list[str] = []
    elsewhere = device.sm is not None and device.name != "host"
    for candidate in AUTO_ORDER:
        if candidate == "onnxruntime" and elsewhere:
            break  # a model placed for this processor is not what was asked for
        engine = make(candidate)
        reason = engine.missing() or engine.cannot_build(device, precision)
        if reason is None:
            return engine, "; ".join([f"{engine.name}: {_WHY[candidate]}", *passed_over])
        passed_over.append(f"not {engine.name}: {reason}")
    why = "; ".join(passed_over)
    if elsewhere:
        raise EnvironmentProblem(
            f"no engine for {device.name} can be built here: {why}",
            hint="--host USER@HOST builds on the device, over ssh; graphopt bundle … --device "
            f"{device.name} packs what a device out of reach builds by itself; graphopt optimize … "
            f"--device {device.name} makes the ONNX model alone",
        )
    raise MissingDependencyError(f"no engine can build here: {why}")


def _plain(name: str) -> Engine:
    made: Engine = ENGINES.load(name)()
    return made


def not_installed(names: list[str], command: str) -> str:
    """Return "a and b are not installed: command"."""
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not installed: {command}"
