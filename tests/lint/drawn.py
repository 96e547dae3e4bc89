"""Small quantized graphs, drawn in a few lines of ONNX text with two shorthands.

``d = QDQ(x, 0.1)`` is a Q and a DQ with that scale, named ``d_Q`` and ``d_DQ``; ``w = WEIGHT(8, 8,
3, 3)`` a float weight behind Q and DQ with a scale for each index of axis 0 (``WEIGHT1`` for axis
1); ``w = FLOAT(8, 8)`` a plain initializer.
"""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.engines import BuildOptions
from graphopt.engines.network import ParsedNetwork, read_network
from graphopt.lint.finding import Finding
from graphopt.lint.from_onnx import read_onnx
from graphopt.lint.fusion import Account, Accounting
from graphopt.lint.run import Lint, lint
from graphopt.model import Model
from graphopt.profiles import DeviceProfile

HOST = DeviceProfile(name="host", title="a machine without a GPU")
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)
INT8 = np.dtype(np.int8)
_SHORT = re.compile(r"^\s*(\w+) = (QDQ|WEIGHT1?|FLOAT)\(([^)]*)\)\s*$")


def draw(
    body: str,
    outputs: str = "float[N,32,8,8] y",
    inputs: str = "float[N,32,8,8] x",
    *,
    opset: int = 17,
    integer: np.dtype = INT8,
    zero: int = 0,
) -> Model:
    """Make a model of these lines; nodes are named after their first output."""
    rng = np.random.default_rng(5)
    constants: list[onnx.TensorProto] = []
    quant: dict[str, list[onnx.NodeProto]] = {}
    lines, order = [], []

    def put(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(name: str, source: str, scale: np.ndarray, zeros: np.ndarray, **attrs: int) -> None:
        rest = [put(f"{name}_scale", scale), put(f"{name}_zero", zeros)]
        q, dq = f"{name}_Q", f"{name}_DQ"
        quant[name] = [
            helper.make_node("QuantizeLinear", [source, *rest], [f"{name}_int"], q, **attrs),
            helper.make_node("DequantizeLinear", [f"{name}_int", *rest], [name], dq, **attrs),
        ]

    for line in filter(str.strip, body.splitlines()):
        match = _SHORT.match(line)
        if match is None:
            lines.append(line)
            order.append(None)
            continue
        name, what, given = match.groups()
        if what == "QDQ":
            source, scale = (part.strip() for part in given.split(","))
            pair(name, source, np.float32(scale), np.array(zero, integer))
            order.append(name)
            continue
        shape = [int(part) for part in given.split(",")]
        value = rng.normal(0, 0.2, shape).astype(np.float32)
        if what == "FLOAT":
            put(name, value)
            continue
        axis = 1 if what == "WEIGHT1" else 0
        put(f"{name}_float", value)
        scales = np.full(shape[axis], 0.01, np.float32)
        pair(name, f"{name}_float", scales, np.zeros(shape[axis], np.int8), axis=axis)
        order.append(name)
    text = "\n".join(lines)
    domains = f'"" : {opset}, "other" : 1, "com.microsoft" : 1'
    proto = onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: [{domains}]>\ndrawn ({inputs}) => ({outputs}) {{ {text} }}"
    )
    for node in proto.graph.node:
        node.name = node.name or node.output[0]
    plain = iter(list(proto.graph.node))
    nodes: list[onnx.NodeProto] = []
    for name in order:
        nodes += [next(plain)] if name is None else quant[name]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(constants)
    onnx.checker.check_model(proto)
    return Model.from_onnx(proto)


def accounts(model: Model) -> dict[str, Account]:
    """Return what becomes of each Q and DQ, as the file has it."""
    return {account.name: account for account in Accounting(read_onnx(model)).accounts}


def verdicts(model: Model) -> dict[str, str]:
    """Return Q or DQ -> verdict."""
    return {name: account.verdict for name, account in accounts(model).items()}


def found(rule: str, model: Model, device: DeviceProfile | None = None) -> list[Finding]:
    """Return what one rule finds."""
    return list(lint(model, device=device, rules=[rule]).findings)


def parsed(model: Model) -> ParsedNetwork:
    """Return TensorRT-RTX's network of a model."""
    return read_network(model, BuildOptions(HOST), "tensorrt-rtx")


def both(model: Model) -> tuple[Lint, Lint]:
    """Return the linter's view of the file, and of the parsed network."""
    return lint(model), lint(model, network=parsed(model))
