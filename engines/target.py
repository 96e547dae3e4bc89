"""What a device and its TensorRT decide about the file that is written for them.

Nothing here asks a TensorRT: it is for ONNX files made beforehand. Where the version is not known
the file is written for the oldest that the device runs with, so that every one takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphopt.engines.releases import (
    DLA,
    RELEASES,
    Release,
    Version,
    has_dla,
    release_of,
    releases_between,
    spell_version,
)
from graphopt.errors import UsageError
from graphopt.profiles import DeviceProfile

Quantization = Literal["explicit", "implicit"]
Typing = Literal["strong", "weak"]

RTX_MAX_OPSET = 26
"""The newest opset that the parser of TensorRT-RTX 1.7 takes (tried)."""
_LAST_IMPLICIT = (10, 999, 999)
_DLA_STRONG = DLA[-1][0]


@dataclass(frozen=True, slots=True)
class Target:
    """How a model is written for one device.

    Attributes:
        device: the device.
        version: its TensorRT, or None where that is not known.
        max_opset: what is newer is parsed by no TensorRT that could be meant; None: no limit.
        safe_opset: what every TensorRT that could be meant parses; ``max_opset`` where the version
            is known.
        int8_weights: weights are written as int8 initializer -> DQ; else fp32 -> Q -> DQ.
        quantization: how INT8 is said: by Q/DQ in the graph, or by a calibration cache beside it;
            None without INT8.
        typing: how the network is typed; None where the versions that could be meant differ.
        fp16_in_graph: FP16 is written into the graph; else it is a flag of the builder, and the
            graph stays fp32.
        dla: the core of the deep-learning accelerator, or None for the GPU.
        reasons: what was decided and why, one line each, for people.
    """

    device: DeviceProfile
    version: Version | None = None
    max_opset: int | None = None
    safe_opset: int | None = None
    int8_weights: bool = False
    quantization: Quantization | None = None
    typing: Typing | None = None
    fp16_in_graph: bool = True
    dla: int | None = None
    reasons: tuple[str, ...] = ()


def target_of(
    device: DeviceProfile,
    *,
    version: Version | None = None,
    int8: bool = False,
    fp16: bool = False,
    quantization: Quantization | None = None,
    dla: int | None = None,
) -> Target:
    """Return what TensorRT on a device wants to be given.

    Args:
        device: the target.
        version: its TensorRT, or None where that is not known.
        int8: the model runs in INT8.
        fp16: what is not INT8 runs in FP16.
        quantization: what was asked for; None leaves it open.
        dla: the core of a deep-learning accelerator, counted from 0, or None.

    Raises:
        UsageError: the device, its TensorRT or its DLA cannot do it; the message has the way out.
    """
    _check_precisions(device, int8=int8, fp16=fp16, dla=dla)
    _check_version(device, version)
    how = _quantization(device, version, quantization, dla) if int8 else None
    span = _meant(device, version, how, dla)
    releases = span.releases() or (release_of(version) if version else RELEASES[-1],)
    reasons = _said(device, version, span, how, dla)
    int8_weights = all(release.int8_weights for release in releases)
    if how == "explicit" and not int8_weights:
        oldest = next(release for release in releases if not release.int8_weights)
        reasons.append(
            f"weights fp32 behind Q/DQ: TensorRT {oldest.name} on {device.name} takes no int8 "
            "initializers"
        )
    opsets = [_opset(release, device) for release in releases]
    typing = _typing(releases, how, dla)
    if how == "implicit" and not fp16:
        reasons.append("FP16 for layers without a range, or slower in INT8: implicit INT8 has both")
    elif fp16 and typing == "weak":
        reasons.append("FP16 is a flag of the builder, and the graph stays fp32")
    return Target(
        device=device,
        version=version,
        max_opset=max(opsets),
        safe_opset=min(opsets),
        int8_weights=how == "explicit" and int8_weights,
        quantization=how,
        typing=typing,
        fp16_in_graph=typing != "weak",
        dla=dla,
        reasons=tuple(reasons),
    )


def rtx_target(device: DeviceProfile, *, int8: bool = False) -> Target:
    """Return what TensorRT-RTX wants to be given, whichever device it builds for.

    It is strongly typed, takes Q/DQ only, and int8 initializers.
    """
    return Target(
        device=device,
        max_opset=RTX_MAX_OPSET,
        safe_opset=RTX_MAX_OPSET,
        int8_weights=int8,
        quantization="explicit" if int8 else None,
        typing="strong",
    )


def _title(device: DeviceProfile) -> str:
    return device.title or device.name


def _check_precisions(device: DeviceProfile, *, int8: bool, fp16: bool, dla: int | None) -> None:
    for asked, precision in ((int8, "int8"), (fp16, "fp16")):
        if asked and device.sm is not None and precision not in device.precisions:
            raise UsageError(
                f"{_title(device)} has no {precision.upper()} in hardware: leave --{precision} out"
            )
    if dla is None:
        return
    if not device.dla:
        raise UsageError(f"{_title(device)} has no DLA: leave --dla out to build for its GPU")
    if not 0 <= dla < device.dla:
        cores = " and ".join(str(core) for core in range(device.dla))
        raise UsageError(
            f"{_title(device)} has no DLA core {dla}: its {device.dla} cores are {cores}"
            if device.dla > 1
            else f"{_title(device)} has no DLA core {dla}: its only core is 0"
        )
    if not int8 and not fp16:
        raise UsageError("a DLA computes in FP16 and INT8 only: add --int8, --fp16 or both")


def _check_version(device: DeviceProfile, version: Version | None) -> None:
    if version is None:
        return
    release_of(version)
    oldest, newest = device.oldest_tensorrt, device.newest_tensorrt
    if oldest is not None and version < oldest:
        side = f"starts at {spell_version(oldest)}"
    # A last version without a patch stands for its whole line.
    elif newest is not None and version[: 3 if newest[2] else 2] > newest[: 3 if newest[2] else 2]:
        side = f"ends at {spell_version(newest)}"
    else:
        return
    raise UsageError(
        f"TensorRT {spell_version(version)} does not run on {_title(device)}, for which TensorRT "
        f"{side}: build with that one, or name another --device"
    )


def _quantization(
    device: DeviceProfile,
    version: Version | None,
    asked: Quantization | None,
    dla: int | None,
) -> Quantization:
    """Return how INT8 is said; refuse what no TensorRT that could be meant understands."""
    releases = [r for r in _all_of(device, version).releases() if r.implicit]
    if dla is None:
        if asked == "implicit" and not releases:
            said = f"TensorRT {_all_of(device, version)}"
            raise UsageError(
                f"{said} has no implicit INT8, which ended with TensorRT 10: use --quantization "
                "explicit"
            )
        return asked or "explicit"
    explicit_only = not releases
    if explicit_only and not device.dla_explicit:
        raise UsageError(
            f"the DLA of {_title(device)} takes implicit INT8 only, and TensorRT "
            f"{_all_of(device, version)} has none: build with 8.5 to 10.7, or leave --dla out"
        )
    if asked == "implicit" and explicit_only:
        raise UsageError(
            f"TensorRT {_all_of(device, version)} has no implicit INT8, which ended with TensorRT "
            "10: its DLA takes Q/DQ, with --quantization explicit"
        )
    if asked == "explicit" and not explicit_only:
        if device.dla_explicit and version is None:
            return "explicit"
        raise UsageError(
            f"the DLA of {_title(device)} takes no Q/DQ: use --quantization implicit (the ONNX "
            "without Q/DQ, and a calibration cache), or leave --dla out"
        )
    return asked or ("explicit" if explicit_only else "implicit")


@dataclass(frozen=True, slots=True)
class _Span:
    """The versions that could be meant; None leaves a side open."""

    oldest: Version | None
    newest: Version | None

    def cut(self, oldest: Version | None, newest: Version | None) -> _Span:
        """Return what of it lies in another span."""
        lower = [v for v in (self.oldest, oldest) if v is not None]
        upper = [v for v in (self.newest, newest) if v is not None]
        return _Span(max(lower, default=None), min(upper, default=None))

    def releases(self) -> tuple[Release, ...]:
        """Return the lines in it, oldest first."""
        if self.oldest and self.newest and self.oldest > self.newest:
            return ()
        return releases_between(self.oldest, self.newest)

    def __str__(self) -> str:
        """``8.5.2``, ``8.5 to 10.7`` or ``8.5 and newer``."""
        oldest = spell_version(self.oldest or RELEASES[0].version)
        if self.newest is None:
            return f"{oldest} and newer"
        # A part of 999 stands for the last there is.
        newest = spell_version(self.newest).replace(".999", "")
        return oldest if newest == oldest else f"{oldest} to {newest}"


def _all_of(device: DeviceProfile, version: Version | None) -> _Span:
    if version is not None:
        return _Span(version, version)
    return _Span(device.oldest_tensorrt, device.newest_tensorrt)


def _meant(
    device: DeviceProfile,
    version: Version | None,
    how: Quantization | None,
    dla: int | None,
) -> _Span:
    """Return the versions that could be meant, which can do what is asked."""
    span = _all_of(device, version)
    if dla is not None and version is not None and not has_dla(version):
        raise UsageError(
            f"TensorRT {spell_version(version)} builds for no DLA: 10.7 was the last before "
            f"{spell_version(_DLA_STRONG)}; build with one of those, or leave --dla out"
        )
    if how == "implicit":
        span = span.cut(None, _LAST_IMPLICIT)
    if dla is not None and version is None:
        # Two ranges, which are told INT8 and FP16 in different ways: the older, where there is one.
        older = span.cut(*DLA[0])
        span = older if older.releases() and how != "explicit" else span.cut(_DLA_STRONG, None)
        if not span.releases():
            raise UsageError(
                f"no TensorRT for {_title(device)} builds for its DLA: leave --dla out"
            )
    return span


def _opset(release: Release, device: DeviceProfile) -> int:
    return min(release.max_opset, device.max_opset or release.max_opset)


def _typing(
    releases: tuple[Release, ...], how: Quantization | None, dla: int | None
) -> Typing | None:
    """Strong where each can; implicit INT8 and the DLA of TensorRT up to 10 are weak."""
    strong = all(release.strong_typing for release in releases)
    if how == "implicit" or (dla is not None and all(r.weak_typing for r in releases)):
        return "weak"
    if strong:
        return "strong"
    return None if any(release.strong_typing for release in releases) else "weak"


def _said(
    device: DeviceProfile,
    version: Version | None,
    span: _Span,
    how: Quantization | None,
    dla: int | None,
) -> list[str]:
    said = []
    if version is not None or device.sm is None:
        pass  # Told, or no device to speak of.
    elif span.oldest is not None and span.oldest == span.newest:
        said.append(f"for TensorRT {span}, the only one for {device.name}")
    else:
        said.append(
            f"for TensorRT {span}, whichever {device.name} has: --trt-version names one, and may "
            "allow more"
        )
    if how == "implicit":
        before = f" before TensorRT {spell_version(_DLA_STRONG)}" if device.dla_explicit else ""
        why = "asked for" if dla is None else f"the DLA of {device.name} takes no Q/DQ{before}"
        said.append(f"implicit INT8, no Q/DQ in the graph: {why}")
    return said
