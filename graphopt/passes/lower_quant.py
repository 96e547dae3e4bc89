"""Cast, QuantizeLinear and DequantizeLinear for an older opset."""

from __future__ import annotations

import numpy as np
import onnx

from graphopt.graph import Node, constant
from graphopt.passes.lower_site import (
    Plan,
    Site,
    drop,
    drop_inputs,
    input_at,
    schema_at,
    spell_type,
    type_number,
)

_FLOAT = int(onnx.TensorProto.FLOAT)
_FLOAT16 = int(onnx.TensorProto.FLOAT16)


def cast(node: Node, site: Site) -> Plan | str | None:
    """19: what happens beyond the range of eight-bit floats; 24: how their scales are rounded."""
    schema = schema_at("Cast", site.ceiling)
    made = int(node.attrs["to"])
    if schema is None or f"tensor({spell_type(made)})" not in schema.outputs[0].types:
        return f"it casts to {spell_type(made)}"
    return castlike(node, site)


def castlike(node: Node, site: Site) -> Plan | str | None:
    """As Cast: neither attribute means anything for the types there were before."""
    gone = [
        name
        for name, since in (("saturate", 19), ("round_mode", 24))
        if name in node.attrs and site.ceiling < since
    ]
    if not gone:
        return None

    def apply() -> str:
        drop(node, *gone)
        return f"{' and '.join(gone)} left out: its types have no use for it"

    return apply


def quantize(node: Node, site: Site) -> Plan | str | None:
    """19: scales in 16 bits; 21: blocks, and the type as an attribute; 23: scales of any type."""
    problem = _shared(node, site)
    if problem is not None:
        return problem
    scale = type_number(node.inputs[1])
    value = type_number(node.inputs[0])
    if site.ceiling < 23:
        if int(node.attrs.get("precision", 0)) not in (0, scale):
            return "it divides in another precision than its scale has, which is of opset 23"
        if None not in (scale, value) and scale != value:
            return "its scale has another type than what it quantizes, which is of opset 23"
    wanted = int(node.attrs.get("output_dtype", 0))
    given = input_at(node, 2)
    new_zero = given is None and bool(wanted) and site.ceiling < 21
    if new_zero and wanted not in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8):
        return f"it quantizes to {spell_type(wanted)}"
    values = constant(node.inputs[1])
    if new_zero and values is None:
        return "its scale is computed at run time"
    widen = _FLOAT16 in (scale, value) and site.ceiling < 19
    gone = [n for n, v in _QUANT_ATTRIBUTES.items() if n in node.attrs and site.ceiling < v]
    if not (gone or widen or new_zero):
        return None

    def apply() -> str:
        drop(node, *gone)
        if new_zero:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(wanted)
            shape = () if values is None else values.shape
            zero = site.constant(f"{node.outputs[0].name}_zero_point", np.zeros(shape, dtype))
            drop_inputs(node, 2)
            node.inputs.append(zero)
        if widen:
            site.cast_input(node, 0, np.float32)
            site.cast_input(node, 1, np.float32)
        return "it quantizes fp32" if widen else "its type is said by its zero-point"

    return apply


def dequantize(node: Node, site: Site) -> Plan | str | None:
    """19: scales in 16 bits; 21: blocks; 23: the type of what comes out."""
    problem = _shared(node, site)
    if problem is not None:
        return problem
    scale = type_number(node.inputs[1])
    wanted = int(node.attrs.get("output_dtype", 0)) or scale
    widen = scale == _FLOAT16 and site.ceiling < 19
    other = "output_dtype" in node.attrs and site.ceiling < 23 and wanted != scale
    if other and (wanted not in (_FLOAT, _FLOAT16) or scale not in (_FLOAT, _FLOAT16)):
        return "it dequantizes to another type than its scale has, which is of opset 23"
    gone = [n for n, v in _DEQUANT_ATTRIBUTES.items() if n in node.attrs and site.ceiling < v]
    if not (gone or widen):
        return None

    def apply() -> str:
        drop(node, *gone)
        if widen or (other and scale == _FLOAT16):
            # A product of an int8 and an fp16 number is exact in fp32: rounded once, as before.
            site.cast_input(node, 1, np.float32)
        if wanted == _FLOAT16 and (widen or other):
            site.cast_output(node, np.float16, np.float32)
        return "its scale is fp32" if widen else "its type is that of its scale"

    return apply


_QUANT_ATTRIBUTES = {"saturate": 19, "block_size": 21, "output_dtype": 21, "precision": 23}
_DEQUANT_ATTRIBUTES = {"block_size": 21, "output_dtype": 23}


def _shared(node: Node, site: Site) -> str | None:
    """Return what neither has before opset 21."""
    if site.ceiling < 21 and int(node.attrs.get("block_size", 0)):
        return "it has blocks of weights, which are of opset 21"
    return None
