"""What is told of an engine that trtexec built, and of its times: wherever that was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphopt.engines.releases import Version, release_of, spell_whole

if TYPE_CHECKING:
    from graphopt.engines.remote.probe import Probe

CLOCK = "GPU compute time by trtexec"


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that built and timed, as it tells of itself.

    Attributes:
        version: of its TensorRT; None where it is not known.
        gpu: its name and compute capability, as in a sidecar; empty where it is not known.
        system: kernel and architecture, ``"Linux aarch64"``.
        more: what else builds and times depend on: ``driver``, ``l4t``, ``power_mode`` …
    """

    version: Version | None
    gpu: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, probe: Probe) -> Machine:
        """Return the machine that was probed."""
        facts = probe.facts()
        more = {key: value for key, value in facts.items() if key not in ("tensorrt", "gpu")}
        system = f"{probe.system} {probe.machine}".strip()
        return cls(probe.tensorrt, facts.get("gpu", {}), system, more)

    def environment(self, words: Sequence[str]) -> dict[str, str]:
        """Return what times that were taken with these words of trtexec depend on."""
        told = {
            "engine": "tensorrt",
            "engine_version": "unknown" if self.version is None else spell_whole(self.version),
            "gpu": str(self.gpu.get("name") or "unknown"),
            "clock": CLOCK,
            "cuda_graph": "no" if "--noCudaGraph" in words else "yes",
            "system": self.system,
        }
        return {**told, **{key: str(value) for key, value in self.more.items()}}

    def sidecar(self, words: Sequence[str], profiles: Sequence[Any]) -> dict[str, Any]:
        """Return what the sidecar of an engine tells that was built with these words.

        Args:
            words: of trtexec's command line, files by their names.
            profiles: every optimization profile, as plain values.
        """
        strong = "--stronglyTyped" in words or (
            self.version is not None and not release_of(self.version).weak_typing
        )
        return {
            "runtime": "tensorrt",
            "runtime_version": None if self.version is None else spell_whole(self.version),
            "gpu": dict(self.gpu) or None,
            "host": {**({"system": self.system} if self.system else {}), **self.more},
            "shapes": profiles[0] if profiles else {},
            "more_shapes": list(profiles[1:]),
            "typing": "strong" if strong else "weak",
            "trtexec": list(words),
        }
