"""The options of engines: what one has not is refused, what is open is decided and said."""

from __future__ import annotations

from pathlib import Path

from graphopt.engines import ENGINES, BuildOptions, Engine
from graphopt.engines.releases import parse_release, spell_version
from graphopt.engines.target import Target, rtx_target, target_of
from graphopt.errors import UsageError
from graphopt.files import output_error, scratch_beside
from graphopt.model import Model
from graphopt.profiles import DeviceProfile
from graphopt.quantize_options import parse_size
from graphopt.recipe import Recipe
from graphopt.wording import one_of

TRTEXEC = "trtexec"
_LEAST_WORKSPACE = 1 << 20


def engine_name(recipe: Recipe) -> str:
    """Return the engine that is asked for: with a host that is trtexec, unless one was named.

    Raises:
        UsageError: another was named, or there is none of the name.
    """
    wanted = recipe.engine
    name = wanted.name if wanted.name == "auto" else ENGINES.canonical(wanted.name)
    for flag, value in (("--host", wanted.host), ("--trtexec", wanted.trtexec)):
        if value is not None and name not in ("auto", TRTEXEC):
            raise UsageError(
                f"{flag} is for the engine trtexec, and --engine {name} builds here: "
                "leave one of the two out"
            )
    return TRTEXEC if wanted.host or wanted.trtexec else name


def make_engine(name: str, recipe: Recipe) -> Engine:
    """Return an engine of this name, where it is to work."""
    kind = ENGINES.load(name)
    if "host" in kind.takes:
        made: Engine = kind(host=recipe.engine.host, program=recipe.engine.trtexec)
    else:
        made = kind()
    return made


def check_engine(recipe: Recipe, engine: Engine) -> None:
    """Refuse what is asked of an engine that has no such thing.

    Raises:
        UsageError: one line that names the flag, and engines that have it.
    """
    wanted = recipe.engine
    asked = {
        "more_shapes": ("a second optimization profile", bool(wanted.more_shapes)),
        "implicit": ("--quantization implicit", recipe.quantize.quantization == "implicit"),
        "calibration": ("--calibrate-on-gpu", recipe.quantize.gpu_calibration),
        "dla": ("--dla", wanted.dla is not None),
        "level": ("--builder-level", wanted.level is not None),
        "workspace_bytes": ("--workspace", wanted.workspace is not None),
        "timing_cache": ("--timing-cache", wanted.timing_cache is not None),
        "time_limit_s": ("--time-limit", wanted.time_limit is not None),
    }
    for field, (flag, given) in asked.items():
        if given and field not in engine.takes:
            others = [n for n in ENGINES.names() if field in ENGINES.load(n).takes]
            chosen = " (chosen for this device)" if wanted.name == "auto" else ""
            raise UsageError(
                f"the engine {engine.name}{chosen} has no {flag}: leave it out, or use --engine "
                f"{one_of(others)}"
            )


def choose_target(recipe: Recipe, engine: Engine, device: DeviceProfile, *, built: bool) -> Target:
    """Return how the model is to be written: for the TensorRT that is known, or all there may be.

    Args:
        recipe: what was asked for.
        engine: what builds, or what the model is placed for.
        device: the target.
        built: the engine builds now, so that its version is the one.

    Raises:
        UsageError: the device, or its TensorRT, cannot do what is asked.
    """
    wanted, quantize = recipe.engine, recipe.quantize
    given = None if wanted.tensorrt is None else parse_release(wanted.tensorrt)
    if engine.name not in ("tensorrt", TRTEXEC):
        if given is not None:
            raise UsageError(
                f"--trt-version is about TensorRT, and the engine is {engine.name}: leave it out, "
                "or use --engine tensorrt or trtexec"
            )
        if wanted.dla is not None:
            raise UsageError(f"the engine {engine.name} has no --dla: use --engine trtexec")
        if engine.name == "tensorrt-rtx":
            return rtx_target(device, int8=quantize.int8)
        return Target(device, quantization="explicit" if quantize.int8 else None)
    told = engine.version() if built else None
    found = given if told is None else parse_release(told)
    if given is not None and found is not None and found[:2] != given[:2]:
        raise UsageError(
            f"--trt-version is {spell_version(given)}, and the TensorRT that builds is "
            f"{spell_version(found)}: leave --trt-version out, or write for the other one with "
            "graphopt optimize"
        )
    if built and wanted.more_shapes and engine.name == TRTEXEC and found and found < (10, 0, 0):
        raise UsageError(
            f"trtexec of TensorRT {spell_version(found)} builds for one optimization profile, and "
            f"{1 + len(wanted.more_shapes)} are asked for: give one that covers them"
        )
    return target_of(
        device,
        version=found,
        int8=quantize.int8,
        fp16=quantize.fp16,
        quantization=quantize.quantization,
        dla=wanted.dla,
    )


def check_build(engine: Engine, model: Model, options: BuildOptions) -> None:
    """Refuse before any work what would be refused after it.

    Raises:
        OutputError: the file for kernel timings cannot be written.
        GraphoptError: trtexec cannot be told of these shapes or sizes.
    """
    from graphopt.engines.trtexec.engine import Trtexec

    cache = options.timing_cache
    if cache is not None:
        try:
            if cache.exists() and not cache.is_file():
                raise UsageError(f"--timing-cache {cache} is no file: name one")
            with scratch_beside(cache):
                pass
        except OSError as problem:
            raise output_error(cache, problem) from problem
    if isinstance(engine, Trtexec):
        engine.check(model, options)


def check_recipe(recipe: Recipe) -> None:
    """Refuse contradictions before anything is read.

    Raises:
        UsageError: one line.
    """
    wanted, quantize = recipe.engine, recipe.quantize
    if wanted.workspace is not None and parse_size(wanted.workspace) < _LEAST_WORKSPACE:
        raise UsageError(
            f"--workspace {wanted.workspace} is less than 1 MiB: write it like 2GB or 512MB"
        )
    if not wanted.gpu_fallback and wanted.dla is None:
        raise UsageError("--no-gpu-fallback is about the DLA: give --dla 0")
    if wanted.dla is not None and not (quantize.int8 or quantize.fp16):
        raise UsageError("a DLA computes in INT8 or FP16: give --int8 or --fp16 with --dla")
    if quantize.gpu_calibration and quantize.quantization != "implicit":
        raise UsageError("--calibrate-on-gpu is for implicit INT8: give --quantization implicit")
    if quantize.gpu_calibration and not recipe.data.calibration:
        raise UsageError("--calibrate-on-gpu needs samples: give --data")
    if quantize.quantization is not None and not quantize.int8:
        raise UsageError("--quantization says how INT8 is told: give --int8")
    if quantize.quantization == "implicit":
        refuse_explicit(recipe)


def refuse_explicit(recipe: Recipe) -> None:
    """Refuse what implicit quantization cannot do: TensorRT chooses layers, and rounds weights.

    Raises:
        UsageError: one line that names the flag.
    """
    quantize = recipe.quantize
    asked = {
        "--exclude-nodes": bool(quantize.exclude),
        "--rounding second-order": quantize.rounding == "second-order",
        "--bias-correction": bool(quantize.bias),
    }
    for flag, given in asked.items():
        if given:
            raise UsageError(
                f"{flag} needs Q/DQ in the graph, and quantization is implicit: TensorRT chooses "
                "the layers and rounds the weights by itself"
            )


def build_options(recipe: Recipe, device: DeviceProfile) -> BuildOptions:
    """Return what the recipe says of building; shapes and precision are not yet in it."""
    wanted = recipe.engine
    return BuildOptions(
        device=device,
        dla=wanted.dla,
        gpu_fallback=wanted.gpu_fallback,
        sparse=recipe.weights.sparsity == "2:4",
        level=wanted.level,
        workspace_bytes=None if wanted.workspace is None else parse_size(wanted.workspace),
        timing_cache=None if wanted.timing_cache is None else Path(wanted.timing_cache),
        time_limit_s=wanted.time_limit,
    )
