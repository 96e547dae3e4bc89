"""TensorRT's own view of a model: the network its ONNX parser made, as values.

The network is walked in the child process that parsed it (decision 5); nothing of TensorRT lives
here. Kinds are names of TensorRT's ``LayerType``: ``CONVOLUTION``, ``QUANTIZE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphopt.engines import ENGINES
from graphopt.errors import MissingDependencyError

if TYPE_CHECKING:
    from graphopt.engines import BuildOptions
    from graphopt.engines._builder import Builder
    from graphopt.model import Model

_READERS = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, slots=True)
class ParsedLayer:
    """One layer of the parsed network.

    Attributes:
        name: TensorRT's name for it.
        kind: its ``LayerType``, such as ``"CONVOLUTION"``.
        node: the ONNX node it was made from, by the parser's own note; "" where it left none.
        inputs: tensor names, in order; "" for one that is not given.
        outputs: tensor names.
        settings: what it was set to, such as ``{"op": "SUM"}``.
    """

    name: str
    kind: str
    node: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParsedNetwork:
    """What a TensorRT parser made of a model.

    Attributes:
        runtime: which: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        version: its version.
        layers: in the order they were added: producers first.
        dtypes: tensor name -> ``"float"``, ``"half"``, ``"int8"``, ``"int64"`` …
        shapes: tensor name -> dimensions, None for one that is free; None where the rank is not
            known.
        inputs: names of the network's inputs.
        outputs: names of its outputs.
        values: name of a constant -> its elements: those of scales, zero-points and scalars.
        unread: what the walk could not read, a line each.
    """

    runtime: str
    version: str
    layers: tuple[ParsedLayer, ...]
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int | None, ...] | None]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What a person calls where this came from: ``"tensorrt-rtx 1.7.1"``."""
        return f"{self.runtime} {self.version}"


def parsed_network(raw: Mapping[str, Any], *, runtime: str, version: str) -> ParsedNetwork:
    """Return what the child process wrote (:func:`graphopt.engines._walk.walk`) as a value."""
    return ParsedNetwork(
        runtime=runtime,
        version=version,
        layers=tuple(
            ParsedLayer(
                name=layer["name"],
                kind=layer["kind"],
                node=layer["node"],
                inputs=tuple(layer["inputs"]),
                outputs=tuple(layer["outputs"]),
                settings=layer["settings"],
            )
            for layer in raw["layers"]
        ),
        dtypes={name: told[0] for name, told in raw["tensors"].items()},
        shapes={name: _shape(told[1]) for name, told in raw["tensors"].items()},
        inputs=tuple(raw["inputs"]),
        outputs=tuple(raw["outputs"]),
        values={name: tuple(values) for name, values in raw["values"].items()},
        unread=tuple(raw["unread"]),
    )


def _shape(dimensions: list[int] | None) -> tuple[int | None, ...] | None:
    if dimensions is None:
        return None
    return tuple(d if d >= 0 else None for d in dimensions)


def reader() -> str | None:
    """Return the TensorRT installed here that can parse, standard TensorRT first, or None."""
    for name in _READERS:
        if ENGINES.load(name)().missing() is None:
            return name
    return None


def read_network(model: Model, options: BuildOptions, runtime: str | None = None) -> ParsedNetwork:
    """Parse a model with TensorRT, in a process of its own, and return the network it makes.

    Args:
        model: any model.
        options: the target; nothing is built.
        runtime: ``"tensorrt"`` or ``"tensorrt-rtx"``; by default the one :func:`reader` names.

    Raises:
        MissingDependencyError: neither, or not the one named, is installed.
        EnvironmentProblem: its libraries cannot be loaded.
        UnsupportedModelError: the parser refuses the model; the message names the node.
    """
    name = runtime or reader()
    if name is None:
        raise MissingDependencyError(
            'TensorRT is not installed here: pip install "graphopt[rtx]" parses without a GPU'
        )
    engine: Builder = ENGINES.load(name)()
    return engine.network(model, options)
