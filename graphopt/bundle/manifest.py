"""The manifest of a bundle: what each file is, for which device, and every hash."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.engines.sidecar import read_json
from graphopt.errors import UsageError
from graphopt.files import sha256
from graphopt.profiles.device import version_of

SCHEMA = 1
KIND = "graphopt-bundle"
MANIFEST, SUMS = "manifest.json", "manifest.sha256"
_HEX = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``manifest.json`` holds, checked.

    Attributes:
        value: all of it.
        digest: the SHA-256 of the file: what results are tied to.
    """

    value: Mapping[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """The folder a bundle unpacks into: the model's name and the device's."""
        return str(self.value["name"])

    @property
    def device(self) -> str:
        """The name of the device."""
        return str(self.value["device"]["name"])

    @property
    def precision(self) -> str:
        """What the model carries: a column of the report."""
        return str(self.value["precision"])

    @property
    def onnx(self) -> str:
        """The name of the model's file."""
        return str(self.value["onnx"])

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Input name -> ``{"min", "opt", "max"}``, the first optimization profile."""
        profiles = self.value["profiles"]
        return profiles[0] if profiles else {}

    @property
    def batch(self) -> int:
        """Items in one run as it is timed: the first dimension of the first input, or 1."""
        for name, (_, shape) in self.value["inputs"].items():
            size = self.shapes.get(name, {}).get("opt", shape or [1])
            if size and isinstance(size[0], int) and size[0] >= 1:
                return int(size[0])
        return 1

    @classmethod
    def load(cls, folder: Path, where: str) -> Manifest:
        """Read the manifest of an unpacked bundle, and check every file against it.

        Raises:
            UsageError: it is none, or a file is missing, too many, or not what it says.
        """
        value = read_json(folder / MANIFEST, f"manifest of a bundle ({where})")
        if not isinstance(value, dict) or value.get("kind") != KIND:
            raise UsageError(f"{where} is not a bundle made by graphopt")
        if value.get("schema") != SCHEMA:
            raise UsageError(
                f"{where} is a bundle of schema {value.get('schema')}; this graphopt reads {SCHEMA}"
            )
        try:
            _check(value)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise UsageError(f"{where}: its manifest is damaged: {problem}") from problem
        told = {name: str(each["sha256"]) for name, each in value["files"].items()}
        there = {p.name for p in folder.iterdir()} - {MANIFEST, SUMS}
        for name in sorted(there ^ set(told)):
            what = "does not tell of" if name in there else "tells of"
            also = "" if name in there else ", which is not there"
            raise UsageError(f"{where}: its manifest {what} {name}{also}")
        for name in sorted(told):
            if sha256(folder / name) != told[name]:
                raise UsageError(f"{where}: {name} is not what its manifest says: make it again")
        return cls(value, sha256(folder / MANIFEST))


def describe(files: Mapping[str, tuple[str, Path]]) -> dict[str, dict[str, Any]]:
    """Return name -> what it is, its length and its SHA-256."""
    return {
        name: {"what": what, "bytes": path.stat().st_size, "sha256": sha256(path)}
        for name, (what, path) in sorted(files.items())
    }


def sums(value: Mapping[str, Any], digest: str) -> str:
    """Return ``manifest.sha256``, as ``sha256sum -c`` reads it."""
    hashes = {name: each["sha256"] for name, each in value["files"].items()}
    hashes[MANIFEST] = digest
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))


def parse_sums(text: str, where: str) -> dict[str, str]:
    """Read lines of ``sha256sum``: file name -> SHA-256.

    Raises:
        UsageError: a line is none of its, or names a file twice.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        digest, gap, name = line[:64], line[64:66], line[66:]
        if not _HEX.fullmatch(digest) or gap not in ("  ", " *") or not _NAME.fullmatch(name):
            raise UsageError(f"{where} is not a list of SHA-256 sums: {line[:40]!r}")
        if name in found:
            raise UsageError(f"{where} names {name} twice")
        found[name] = digest
    return found


def _check(value: Mapping[str, Any]) -> None:
    """Raise where a manifest is not as one is written."""
    for key in ("name", "onnx", "precision"):
        if not isinstance(value[key], str):
            raise ValueError(f"'{key}' is no text")
    if not _NAME.fullmatch(value["name"]) or not isinstance(value["device"]["name"], str):
        raise ValueError("it names no device")
    for name, each in value["files"].items():
        if not _NAME.fullmatch(name) or not _HEX.fullmatch(each["sha256"]):
            raise ValueError(f"file {name!r}")
    if value["onnx"] not in value["files"]:
        raise ValueError("its model is not among its files")
    for _, shape in value["inputs"].values():
        if shape is not None and not isinstance(shape, list):
            raise ValueError("an input has no shape")
    device = value["device"]
    for version in [device.get("sm") or [], *(device.get("tensorrt_versions") or [])]:
        if not all(isinstance(part, int) for part in version):
            raise ValueError("a version is not of numbers")
    for line in value["tensorrt"]:
        if not isinstance(line["name"], str):
            raise ValueError("a TensorRT has no name")
        version_of(line["since"])
    for profile in value["profiles"]:
        for each in profile.values():
            if not all(isinstance(d, int) for which in each.values() for d in which):
                raise ValueError("a shape is not of numbers")
