"""What the stand-in trtexec computes: inputs from files, the model run, values as text.

Strict where the real one is not: a file whose length is not the binding's is refused, while the
real one reads what there is and leaves the rest to chance. An engine of implicit INT8 is computed
in floating point: what TensorRT makes of a calibration cache is not in the model.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

Version = tuple[int, int, int]


class Wrong(Exception):
    """The run cannot be set up; args: the [E] lines."""


def embedded(path: Path) -> str:
    """Return the model with all its weights, as text."""
    import onnx

    return base64.b64encode(onnx.load(str(path)).SerializeToString()).decode()


def _model(facts: dict[str, Any]) -> Any:
    import onnx

    return onnx.load_from_string(base64.b64decode(facts["onnx"]))


def feeds(
    options: Any, facts: dict[str, Any], version: Version, say: Callable[..., None]
) -> dict[str, Any]:
    """Return each input's values: loaded, or none where they are random."""
    files = _files(options.get("--loadInputs"))
    for name in files:
        if name not in facts["inputs"]:
            raise Wrong(
                f'Cannot find input tensor with name "{name}" in the engine bindings! Please make '
                "sure the input tensor names are correct.",
                "Invalid tensor names found in --loadInputs flag.",
            )
    found: dict[str, Any] = {}
    for name, declared in facts["inputs"].items():
        shape = _shape(name, declared, options, facts, version, say)
        if name in files:
            say(f"Using values loaded from {files[name]} for input {name}")
            found[name] = _load(name, Path(files[name]), shape, facts, version)
        else:
            say(f"Using random values for input {name}")
        shown = "x".join(map(str, shape))
        if version < (10, 0, 0):
            say(f"Created input binding for {name} with dimensions {shown}")
        else:
            say(f"Input binding for {name} with dimensions {shown} is created.")
    return found


def _files(text: str) -> dict[str, str]:
    """Split at commas, then at the last colon; quotes are taken out of names."""
    files = {}
    for part in (p for p in text.split(",") if p):
        name, _, path = part.rpartition(":")
        files[name.replace("'", "")] = path
    return files


def _shape(
    name: str,
    declared: list[int],
    options: Any,
    facts: dict[str, Any],
    version: Version,
    say: Callable[..., None],
) -> tuple[int, ...]:
    """The shape told counts only where a dimension is free; a free one not told is 1."""
    if -1 not in declared:
        return tuple(declared)
    shape = options.shapes.get(name)
    if shape is None:
        if options.has("--loadEngine"):
            shape = tuple(1 if d < 0 else d for d in declared)
            say(
                f"Dynamic dimensions required for input: {name}, but no shapes were provided. "
                f"Automatically overriding shape to: {'x'.join(map(str, shape))}",
                "W",
            )
        else:  # what it was just tuned for
            shape = tuple(facts["shapes"][name])
    low, high = facts["ranges"][name]
    if len(shape) != len(low) or not all(
        a <= d <= b for a, d, b in zip(low, shape, high, strict=True)
    ):
        raise Wrong(
            "Error[3]: [executionContext.cpp::setInputShape::2068] Error Code 3: API Usage Error "
            "(Parameter check failed, condition: engineDims.d[i] == dims.d[i]. Static dimension "
            f"mismatch while setting input shape. {name}: {list(shape)} is not in {low} to {high})"
        )
    return tuple(shape)


def _load(
    name: str, path: Path, shape: tuple[int, ...], facts: dict[str, Any], version: Version
) -> Any:
    import numpy as np
    from onnx import helper

    (value,) = [v for v in _model(facts).graph.input if v.name == name]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    stored = dtype
    if dtype == np.float64:
        stored = np.dtype(np.float32)
    elif dtype == np.int64 and version < (10, 0, 0):
        stored = np.dtype(np.int32)
    if not path.is_file():
        raise Wrong(f"Cannot open file {path}!")
    data = path.read_bytes()
    if len(data) != stored.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise Wrong(
            f"stand-in: {path} has {len(data)} bytes, and input {name} is {shape} of {stored}"
        )
    return np.frombuffer(data, stored).reshape(shape).astype(dtype)


def run(facts: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return output name -> values, as the graph is written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _model(facts).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    if set(given) != set(facts["inputs"]):
        raise AssertionError("the stand-in makes up no values of which it could tell any")
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def values_text(values: dict[str, Any], version: Version) -> str:
    """Return what ``--exportOutput`` writes; names are not escaped, and come in any order."""
    records = []
    for name in sorted(values, reverse=True):
        array = values[name]
        records.append(
            f'{{ "name" : "{name}"\n  , "dimensions" : "{"x".join(map(str, array.shape))}"\n'
            f'  , "values" : [ {", ".join(_text(v, version) for v in array.ravel())} ]\n  }}\n'
        )
    return "[\n  " + ", ".join(records) + "]\n"


def _text(value: Any, version: Version) -> str:
    """A number as a C++ stream writes it: six digits, and int8 as a character before 8.6."""
    kind = value.dtype
    if kind.kind == "b":
        return str(int(value))
    if kind.name == "int8" and version < (8, 6, 0):
        return chr(int(value) % 256)
    if kind.kind in "iu":
        return str(int(value))
    number = float(value)
    if number != number:
        return "-nan"
    return f"{number:.6g}"
