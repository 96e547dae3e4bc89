"""The recipe: everything a build was asked for, as one value that TOML and the flags both fill.

::

    [prune]                        [data]
    ratio = 0.3                    calibration = "images/"
    importance = "obs"             evaluation = "test/"
    align = 8                      preprocess = "imagenet"
    keep = ["head*"]               samples = 512
                                   seed = 0
    [prune.ratios]
    "layer3.*" = 0.5               [recover]
                                   method = "least-squares"
    [quantize]
    int8 = true                    [engine]
    calibrator = "entropy"         name = "auto"
    exclude = ["Gemm", "/fc/*"]    device = "t4"
    rounding = "second-order"
    fp16 = true                    [engine.shapes.input]
                                   min = [1, 3, 224, 224]
    [optimize]                     opt = [8, 3, 224, 224]
    passes = ["my-pass"]           max = [32, 3, 224, 224]

    [gate]                         [[engine.more_shapes]]
    max_drop = 0.5                 input.min = … (a second optimization profile)
    max_regression = "3%"

Flags override the file. The recipe with every default written out is saved beside the outputs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from graphopt.errors import RecipeError, UsageError
from graphopt.percent import parse_percent, spell_percent
from graphopt.registry import did_you_mean
from graphopt.toml import dump_toml, load_toml

DEFAULT_SAMPLES = 512
Dims = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=16)]
# Written back with its sign, which a value below 1 needs to be read again.
Percent = Annotated[
    float,
    BeforeValidator(parse_percent),
    PlainSerializer(spell_percent, return_type=str),
    WithJsonSchema({"type": ["number", "string"]}),
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Optimize(_Part):
    """More passes by name, run in this order with default options once BatchNorm is folded."""

    passes: tuple[str, ...] = ()


class Prune(_Part):
    """Which channels to remove; ``ratio`` is the fraction of every prunable group.

    ``to`` is a target in place of a ratio, ``"macs=0.5"``: what remains. ``ratios`` holds patterns
    of groups, nodes or weights and the ratio for each; the first that matches counts. ``plan`` is
    the path of a plan to replay. What is not given is decided, and said.
    """

    ratio: float | None = Field(default=None, gt=0, lt=1)
    to: str | None = None
    importance: str | None = None
    allocation: str | None = None
    align: int | None = Field(default=None, ge=1, le=1024)
    floor: int | None = Field(default=None, ge=1)
    keep: tuple[str, ...] = ()
    ratios: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    steps: int | None = Field(default=None, ge=1, le=32)
    heads: bool = False
    plan: str | None = None

    @property
    def asked(self) -> bool:
        """Whether anything is to be pruned."""
        return any((self.ratio, self.to, self.ratios, self.plan))


class Recover(_Part):
    """How lost accuracy is won back; ``original`` is what a model pruned elsewhere was before."""

    method: str | None = None
    original: str | None = None


class Weights(_Part):
    """Fewer weights in layers that keep their channels.

    ``sparsity`` is ``"2:4"`` or a share of zeros such as 0.5, chosen by ``sparsity_by``;
    ``low_rank`` is the share of the model's multiply-accumulates that factorized layers leave.
    """

    sparsity: str | None = None
    sparsity_by: str | None = None
    low_rank: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _number(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("sparsity"), float):
            return {**values, "sparsity": f"{values['sparsity']:g}"}
        return values

    @property
    def asked(self) -> bool:
        """Whether anything is to be done."""
        return self.sparsity is not None or self.low_rank is not None


class Quantize(_Part):
    """Fewer bits.

    ``int8`` quantizes weights and activations: ``quantization`` is ``"explicit"``, by Q/DQ in the
    graph, or ``"implicit"``, by ranges beside it that TensorRT 8 to 10 reads, or with
    ``gpu_calibration`` measures by itself. ``weights`` quantizes weights alone, to ``"int4"`` or
    ``"int8"``; ``fp16`` is for all that stays floating point. ``table`` is the path of a
    calibration made before, ``exclude`` holds patterns over node names and operator types. What is
    None is decided, and said: ``rounding`` of weights (``"second-order"`` or ``"nearest"``),
    ``bias`` correction, ``equalize`` (channels between layers), ``smooth`` (outliers behind
    normalizations move into weights).
    """

    int8: bool = False
    quantization: Literal["explicit", "implicit"] | None = None
    gpu_calibration: bool = False
    fp16: bool = False
    weights: Literal["int4", "int8"] | None = None
    block: int | None = Field(default=None, ge=16, le=1024)
    calibrator: str | None = None
    table: str | None = None
    exclude: tuple[str, ...] = ()
    rounding: Literal["second-order", "nearest"] | None = None
    bias: bool | None = None
    equalize: bool | None = None
    smooth: bool | None = None

    @property
    def asked(self) -> bool:
        """Whether any bits are to be saved."""
        return self.int8 or self.fp16 or self.weights is not None


class Data(_Part):
    """Where samples come from; see docs/data.md for what a SPEC may be.

    ``memory`` bounds what calibration holds, like ``"2GB"``.
    """

    calibration: str | None = None
    evaluation: str | None = None
    preprocess: str | None = None
    samples: int = Field(default=DEFAULT_SAMPLES, ge=1)
    seed: int = Field(default=0, ge=0)
    synthetic: bool = False
    memory: str | None = None


class Shapes(_Part):
    """The shapes of one dynamic input."""

    min: Dims
    opt: Dims
    max: Dims

    @model_validator(mode="after")
    def _ordered(self) -> Shapes:
        ranks = {len(self.min), len(self.opt), len(self.max)}
        if len(ranks) != 1:
            raise ValueError("min, opt and max must have the same number of dimensions")
        if any(not a <= b <= c for a, b, c in zip(self.min, self.opt, self.max, strict=True)):
            raise ValueError("every dimension must satisfy min <= opt <= max")
        return self


class Engine(_Part):
    """What runs the result, and where.

    ``host`` is where trtexec builds, over ssh; ``trtexec`` its path there. ``tensorrt`` is the
    version that the model is written for. ``shapes`` is the first optimization profile,
    ``more_shapes`` holds the others. ``dla`` is a core's number; what it cannot run goes to the
    GPU unless ``gpu_fallback`` is off. ``time_limit`` is in seconds.
    """

    name: str = "auto"
    device: str = "host"
    host: str | None = Field(default=None, min_length=1)
    trtexec: str | None = Field(default=None, min_length=1)
    tensorrt: str | None = None
    dla: int | None = Field(default=None, ge=0, le=15)
    gpu_fallback: bool = True
    level: int | None = Field(default=None, ge=0, le=5)
    workspace: str | None = None
    timing_cache: str | None = None
    time_limit: float | None = Field(default=None, gt=0, le=1_000_000)
    shapes: dict[str, Shapes] = Field(default_factory=dict)
    more_shapes: tuple[dict[str, Shapes], ...] = ()


class Gate(_Part):
    """Limits: those of a build, and those that ``graphopt check`` holds a candidate to.

    ``max_drop`` is in points of top-1 accuracy (of agreement where there are no labels),
    ``min_sqnr`` in dB: a build's search for layers to leave in floating point tries to meet both,
    over all outputs. The others are for ``check`` alone, against its baseline: median latency,
    99th percentile, throughput, peak memory and size of the file in percent (``"3%"``), and
    ``max_latency``, in ms, of the median by itself.
    """

    max_drop: float | None = Field(default=None, ge=0, le=100)
    min_sqnr: float | None = Field(default=None, ge=0, le=200)
    max_regression: Percent | None = None
    max_p99: Percent | None = None
    max_throughput_drop: Percent | None = Field(default=None, lt=100)
    max_latency: float | None = Field(default=None, gt=0, le=1_000_000)
    max_memory: Percent | None = None
    max_size: Percent | None = None

    @property
    def asked(self) -> bool:
        """Whether there is a limit for a build."""
        return self.max_drop is not None or self.min_sqnr is not None


class Recipe(_Part):
    """Everything a build was asked for, apart from the model and the output folder."""

    optimize: Optimize = Optimize()
    prune: Prune = Prune()
    recover: Recover = Recover()
    weights: Weights = Weights()
    quantize: Quantize = Quantize()
    data: Data = Data()
    engine: Engine = Engine()
    gate: Gate = Gate()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "the recipe") -> Recipe:
        """Check plain values.

        Raises:
            RecipeError: all that is wrong, in one line; unknown keys with "did you mean".
        """
        try:
            return cls.model_validate(values)
        except ValidationError as problem:
            told = "; ".join(_tell(error) for error in problem.errors())
            raise RecipeError(f"{where}: {told}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a TOML recipe.

        Raises:
            UsageError: there is no such file, or it cannot be read.
            RecipeError: it is not TOML, or asks for something unknown.
        """
        return cls.from_dict(load_toml(path), where=str(Path(path)))

    def override(self, changes: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """Return a recipe with flags laid over it: ``{"prune": {"ratio": 0.3}}``; None is unset."""
        values = self.model_dump()
        for part, items in changes.items():
            values[part].update({k: v for k, v in items.items() if v is not None})
        return type(self).from_dict(values, where="the options")

    def to_toml(self) -> str:
        """Return the recipe with every default written out."""
        return dump_toml(self.model_dump(mode="json"))


# Where pydantic speaks of Python, and a recipe is TOML.
_PLAIN = {
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list, in brackets",
}


def _tell(error: Any) -> str:
    path = [str(p) for p in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'{did_you_mean(path[-1], _known(path[:-1]))}"
    message = _PLAIN.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
    return f"'{key}': {message[:1].lower()}{message[1:]} (got {error['input']!r})"


def _known(path: list[str]) -> list[str]:
    part: Any = Recipe
    for name in path:
        field = part.model_fields.get(name) if hasattr(part, "model_fields") else None
        part = field.annotation if field is not None else Shapes
    return list(getattr(part, "model_fields", {}))


def parse_shapes(
    minimum: tuple[str, ...], optimum: tuple[str, ...], maximum: tuple[str, ...]
) -> list[dict[str, dict[str, Any]]]:
    """Turn ``--min-shapes in:1x3x224x224,…`` and its two sisters into the recipe's form.

    As with trtexec, a missing one is taken from ``opt``; ``opt`` from ``max``, then ``min``. An
    input that a flag names again begins the next optimization profile; one that is named once is
    the same in all.

    Returns:
        A value for each profile: input name -> ``{"min", "opt", "max"}``; none for no flags.

    Raises:
        UsageError: a spec is not of the form ``name:1x3x224x224``, or the flags disagree on how
            many profiles there are.
    """
    given = [
        _parse_one(flag, specs)
        for flag, specs in (
            ("--min-shapes", minimum),
            ("--opt-shapes", optimum),
            ("--max-shapes", maximum),
        )
    ]
    names = sorted(set().union(*given))
    counts = {name: max(len(part.get(name, ())) for part in given) for name in names}
    most = max(counts.values(), default=0)
    for name in names:
        for part in given:
            if len(part.get(name, ())) not in (0, 1, most):
                raise UsageError(
                    f"input '{name}' has {len(part[name])} shapes where there are {most} "
                    f"optimization profiles: give one, or one for each"
                )
    profiles = []
    for index in range(most):
        shapes = {}
        for name in names:
            low, mid, high = (
                part[name][index if len(part[name]) > 1 else 0] if name in part else None
                for part in given
            )
            mid = mid or high or low
            shapes[name] = {"min": low or mid, "opt": mid, "max": high or mid}
        profiles.append(shapes)
    return profiles


def parse_one_profile(
    minimum: tuple[str, ...], optimum: tuple[str, ...], maximum: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Do as :func:`parse_shapes` does, where there can be one profile only.

    Raises:
        UsageError: there are several, or a spec is not of the form ``name:1x3x224x224``.
    """
    profiles = parse_shapes(minimum, optimum, maximum)
    if len(profiles) > 1:
        raise UsageError("an input is named twice: several optimization profiles are for a build")
    return profiles[0] if profiles else {}


def _parse_one(flag: str, specs: tuple[str, ...]) -> dict[str, list[tuple[int, ...]]]:
    parsed: dict[str, list[tuple[int, ...]]] = {}
    for spec in (piece for text in specs for piece in text.split(",")):
        name, _, dims = spec.rpartition(":")
        try:
            shape = tuple(int(d) for d in dims.split("x"))
        except ValueError:
            shape = (0,)
        if not name or min(shape) < 1:
            raise UsageError(f"{flag} '{spec}' is not of the form input:1x3x224x224")
        parsed.setdefault(name, []).append(shape)
    return parsed
