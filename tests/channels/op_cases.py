"""One graph per operator: text, and what is expected of it. See ``test_ops.py``."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from graphopt.errors import UnsupportedModelError
from graphopt.model import Model


class Case(NamedTuple):
    text: str
    widths: tuple[int, ...]
    exact: bool = True
    opset: int = 17
    frozen: str = ""


def model_of(tools, case: Case, *, integer: bool = False) -> Model:
    """Build a case; skip where this ONNX Runtime is too old for its operators."""
    domains = ', "com.microsoft": 1' if "com.microsoft" in case.text else ""
    model = tools.graph(case.text, case.opset, domains=domains, integer=integer)
    if case.opset > 18:
        try:
            tools.run(model, tools.feeds(model))
        except (UnsupportedModelError, RuntimeException) as problem:
            pytest.skip(f"this ONNX Runtime does not run it: {problem}")
    return model


HEAD = "y = Conv(h, w9)"
IMAGE = "float[N,3,8,6] x"
OUT = "=> (float[N,5,p,q] y)"

CASES = {
    "chain": Case(
        f"""g ({IMAGE}, float[8,3,3,3] w1, float[8] b1, float[5,8,1,1] w9) {OUT} {{
        c = Conv<pads=[1,1,1,1]>(x, w1, b1)  h = Relu(c)  {HEAD} }}""",
        (8,),
    ),
    "residual": Case(
        f"""g ({IMAGE}, float[8,3,3,3] w1, float[8,8,3,3] w2, float[8] b,
        float[5,8,1,1] w9) {OUT} {{
        a = Conv<pads=[1,1,1,1]>(x, w1)  b2 = Conv<pads=[1,1,1,1]>(a, w2, b)
        s = Add(a, b2)  h = Relu(s)  {HEAD} }}""",
        (8,),
    ),
    "option-a shortcut": Case(
        f"""g ({IMAGE}, float[4,3,1,1] w1, float[8,4,1,1] w2, float[5,8,1,1] w9) {OUT} {{
        a = Conv(x, w1)  b = Conv<strides=[2,2]>(a, w2)
        zero = Constant<value_ints=[0,0]>()  end = Constant<value_ints=[9,9]>()
        axes = Constant<value_ints=[2,3]>()  two = Constant<value_ints=[2,2]>()
        s = Slice(a, zero, end, axes, two)
        pads = Constant<value_ints=[0,2,0,0,0,2,0,0]>()
        p = Pad(s, pads)  h = Add(b, p)  {HEAD} }}""",
        (4, 4),
    ),
    "pad opset 9": Case(
        f"""g ({IMAGE}, float[4,3,1,1] w1, float[6,4,1,1] w2, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  b = Conv(a, w2)  p = Pad<pads=[0,1,0,0,0,1,0,0]>(a)
        h = Add(b, p)  {HEAD} }}""",
        (2, 4),
        opset=9,
    ),
    "pad axes crop": Case(
        f"""g ({IMAGE}, float[8,3,1,1] w1, float[5,7,1,1] w9) {OUT} {{
        a = Conv(x, w1)  pads = Constant<value_ints=[-2,1]>()  axes = Constant<value_ints=[-3]>()
        v = Constant<value_float=2.0>()  p = Pad(a, pads, v, axes)  h = Relu(p)  {HEAD} }}""",
        (2, 6),
        opset=18,
    ),
    "concat": Case(
        f"""g ({IMAGE}, float[4,3,1,1] w1, float[6,3,1,1] w2, float[5,14,1,1] w9) {OUT} {{
        a = Conv(x, w1)  b = Conv(x, w2)  n = Neg(a)  h = Concat<axis=1>(a, b, n)  {HEAD} }}""",
        (4, 6),
    ),
    "split sizes": Case(
        f"""g ({IMAGE}, float[10,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  s = Constant<value_ints=[4,6]>()  l, h = Split<axis=1>(a, s)  {HEAD} }}""",
        (6, 4),
    ),
    "split gated": Case(
        f"""g ({IMAGE}, float[12,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  l, r = Split<axis=1, num_outputs=2>(a)  h = Mul(l, r)  {HEAD} }}""",
        (6,),
        opset=18,
    ),
    "split opset 11": Case(
        f"""g ({IMAGE}, float[9,3,1,1] w1, float[5,3,1,1] w9) {OUT} {{
        a = Conv(x, w1)  l, m, r = Split<axis=-3>(a)  t = Mul(l, r)  h = Add(t, m)  {HEAD} }}""",
        (3,),
        opset=11,
    ),
    "slice": Case(
        f"""g ({IMAGE}, float[9,3,1,1] w1, float[5,7,1,1] w9) {OUT} {{
        a = Conv(x, w1)  s = Constant<value_ints=[1,-5]>()  e = Constant<value_ints=[-1,100]>()
        ax = Constant<value_ints=[1,2]>()  h = Slice(a, s, e, ax)  {HEAD} }}""",
        (2, 7),
    ),
    "slice strided": Case(
        f"""g ({IMAGE}, float[12,3,1,1] w1, float[5,6,1,1] w9, float[5,6,1,1] w8) {OUT} {{
        a = Conv(x, w1)  s = Constant<value_ints=[0]>()  t = Constant<value_ints=[1]>()
        e = Constant<value_ints=[99]>()  ax = Constant<value_ints=[1]>()
        st = Constant<value_ints=[2]>()
        l = Slice(a, s, e, ax, st)  h = Slice(a, t, e, ax, st)
        z = Conv(l, w8)  q = Conv(h, w9)  y = Add(z, q) }}""",
        (6, 6),
    ),
    "slice reversed": Case(
        f"""g ({IMAGE}, float[8,3,1,1] w1, float[5,8,1,1] w9) {OUT} {{
        a = Conv(x, w1)  s = Constant<value_ints=[-1]>()  e = Constant<value_ints=[-100]>()
        ax = Constant<value_ints=[1]>()  st = Constant<value_ints=[-1]>()
        h = Slice(a, s, e, ax, st)  {HEAD} }}""",
        (8,),
    ),
    "slice opset 9": Case(
        f"""g ({IMAGE}, float[9,3,1,1] w1, float[5,4,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = Slice<axes=[1], starts=[2], ends=[6]>(a)  {HEAD} }}""",
        (5, 4),
        opset=9,
    ),
    "gather permutes": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,7,1,1] w9) {OUT} {{
        a = Conv(x, w1)  i = Constant<value_ints=[5,0,-2,3,3,1,2]>()
        h = Gather<axis=1>(a, i)  {HEAD} }}""",
        (5,),
    ),
    "gather scalar": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        h = Conv(x, w1)  i = Constant<value_int=-4>()  one = Gather<axis=1>(h, i)
        ax = Constant<value_ints=[1]>()  u = Unsqueeze(one, ax)  v = Conv(h, w9)
        y = Add(v, u) }}""",
        (5,),
    ),
    "depthwise": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6,1,3,3] w2, float[6] b,
        float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = Conv<group=6, pads=[1,1,1,1]>(a, w2, b)  {HEAD} }}""",
        (6,),
    ),
    "depthwise multiplier": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[18,1,3,3] w2, float[18] b,
        float[5,18,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = Conv<group=6, pads=[1,1,1,1]>(a, w2, b)  {HEAD} }}""",
        (6,),
    ),
    "grouped, columns": Case(
        f"""g ({IMAGE}, float[8,3,1,1] w1, float[12,4,1,1] w2, float[12] b,
        float[5,12,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = Conv<group=2>(a, w2, b)  {HEAD} }}""",
        (4, 6),
    ),
    "grouped, rows": Case(
        f"""g ({IMAGE}, float[12,3,1,1] w1, float[12,2,1,1] w2, float[12] b,
        float[5,12,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = Conv<group=6>(a, w2, b)  {HEAD} }}""",
        (6,),
    ),
    "channel shuffle": Case(
        f"""g ({IMAGE}, float[16,3,1,1] w1, float[16,8,1,1] w2, float[16,8,1,1] w3,
        float[5,16,1,1] w9) {OUT} {{
        a = Conv(x, w1)  b = Conv<group=2>(a, w2)
        s1 = Constant<value_ints=[0,2,8,8,6]>()  s2 = Constant<value_ints=[0,16,8,6]>()
        r = Reshape(b, s1)  t = Transpose<perm=[0,2,1,3,4]>(r)  m = Reshape(t, s2)
        h = Conv<group=2>(m, w3)  {HEAD} }}""",
        (8, 4, 8),
    ),
    "conv transpose": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6,8,2,2] w2, float[8] b,
        float[5,8,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = ConvTranspose<strides=[2,2]>(a, w2, b)  {HEAD} }}""",
        (6, 8),
    ),
    "conv transpose grouped": Case(
        f"""g ({IMAGE}, float[8,3,1,1] w1, float[8,6,2,2] w2, float[12] b,
        float[5,12,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = ConvTranspose<group=2>(a, w2, b)  {HEAD} }}""",
        (4, 6),
    ),
    "conv transpose depthwise": Case(
        f"""g ({IMAGE}, float[8,3,1,1] w1, float[8,1,2,2] w2, float[8] b,
        float[5,8,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = ConvTranspose<group=8>(a, w2, b)  {HEAD} }}""",
        (8,),
    ),
    "conv 1d": Case(
        """g (float[N,3,9] x, float[6,3,3] w1, float[4,6,1] w2) => (float[N,4,p] y) {
        h = Conv(x, w1)  y = Conv(h, w2) }""",
        (6,),
    ),
    "flatten gemm": Case(
        f"""g ({IMAGE}, float[4,3,1,1] w1, float[7,192] w2, float[7] b,
        float[7,5] w3) => (float[N,5] y) {{
        a = Conv(x, w1)  f = Flatten(a)  h = Gemm<transB=1>(f, w2, b)  y = MatMul(h, w3) }}""",
        (4, 7),
    ),
    "reshape gemm": Case(
        f"""g ({IMAGE}, float[4,3,1,1] w1, float[192,7] w2, float[1,7] b,
        float[7,5] w3) => (float[N,5] y) {{
        a = Conv(x, w1)  s = Constant<value_ints=[-1,192]>()  f = Reshape(a, s)
        h = Gemm(f, w2, b)  y = Gemm<alpha=2.0>(h, w3) }}""",
        (4, 7),
    ),
    "nhwc flatten": Case(
        f"""g ({IMAGE}, float[4,3,1,1] w1, float[192,5] w2) => (float[N,5] y) {{
        a = Conv(x, w1)  t = Transpose<perm=[0,2,3,1]>(a)
        f = Flatten(t)  y = Gemm(f, w2) }}""",
        (4,),
    ),
    "linear to view": Case(
        """g (float[N,10] x, float[10,24] w1, float[24] b,
        float[5,6,1,1] w2) => (float[N,5,2,2] y) {
        a = MatMul(x, w1)  c = Add(a, b)  s = Constant<value_ints=[0,6,2,2]>()
        h = Reshape(c, s)  y = Conv(h, w2) }""",
        (6,),
    ),
    "matmul from the left": Case(
        """g (float[3,7] x, float[6,3] w1, float[5,6] w2) => (float[5,7] y) {
        h = MatMul(w1, x)  y = MatMul(w2, h) }""",
        (6,),
    ),
    "attention": Case(
        """g (float[N,4,6] x, float[6,6] wq, float[6,6] wk, float[6,6] wv, float[6,6] wo)
        => (float[N,4,6] y) {
        q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        s = Constant<value_ints=[0,4,2,3]>()  back = Constant<value_ints=[0,4,6]>()
        q1 = Reshape(q, s)  k1 = Reshape(k, s)  v1 = Reshape(v, s)
        q2 = Transpose<perm=[0,2,1,3]>(q1)  k2 = Transpose<perm=[0,2,3,1]>(k1)
        v2 = Transpose<perm=[0,2,1,3]>(v1)
        a = MatMul(q2, k2)  p = Softmax<axis=-1>(a)  o = MatMul(p, v2)
        o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, back)  y = MatMul(o2, wo) }""",
        (3, 3),
        exact=False,
    ),
    "batch norm": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6] g1, float[6] b, float[6] m, float[6] var1,
        float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = BatchNormalization(a, g1, b, m, var1)  {HEAD} }}""",
        (6,),
        exact=False,
    ),
    "instance norm": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6] g1, float[6] b, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = InstanceNormalization(a, g1, b)  {HEAD} }}""",
        (6,),
        exact=False,
    ),
    "group norm 21": Case(
        f"""g ({IMAGE}, float[12,3,1,1] w1, float[12] g1, float[12] b, float[5,12,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = GroupNormalization<num_groups=4>(a, g1, b)  {HEAD} }}""",
        (4,),
        exact=False,
        opset=21,
    ),
    "group norm as torch writes it": Case(
        f"""g ({IMAGE}, float[12,3,1,1] w1, float[4] one, float[4] zero, float[12,1,1] g1,
        float[12,1,1] b, float[5,12,1,1] w9) {OUT} {{
        a = Conv(x, w1)  s = Constant<value_ints=[0,4,-1]>()  r = Reshape(a, s)
        n = InstanceNormalization(r, one, zero)  i = Shape(a)  back = Reshape(n, i)
        m = Mul(back, g1)  h = Add(m, b)  {HEAD} }}""",
        (4,),
        exact=False,
    ),
    "prelu": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6,1,1] a1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = PRelu(a, a1)  {HEAD} }}""",
        (6,),
    ),
    "squeeze-excite": Case(
        f"""g ({IMAGE}, float[8,3,1,1] w1, float[4,8,1,1] w2, float[8,4,1,1] w3,
        float[5,8,1,1] w9) {OUT} {{
        a = Conv(x, w1)  p = GlobalAveragePool(a)  q = Conv(p, w2)  r = Relu(q)
        s = Conv(r, w3)  t = HardSigmoid(s)  h = Mul(a, t)  {HEAD} }}""",
        (8, 4),
        exact=False,
    ),
    "spatial attention stays untied": Case(
        f"""g ({IMAGE}, float[8,3,1,1] w1, float[1,8,1,1] w2, float[5,8,1,1] w9) {OUT} {{
        a = Conv(x, w1)  s = Conv(a, w2)  h = Mul(a, s)  {HEAD} }}""",
        (8,),
    ),
    "depth to space DCR": Case(
        f"""g ({IMAGE}, float[24,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = DepthToSpace<blocksize=2>(a)  {HEAD} }}""",
        (6,),
    ),
    "depth to space CRD": Case(
        f"""g ({IMAGE}, float[24,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = DepthToSpace<blocksize=2, mode="CRD">(a)  {HEAD} }}""",
        (6,),
    ),
    "space to depth": Case(
        f"""g ({IMAGE}, float[4,3,1,1] w1, float[5,16,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = SpaceToDepth<blocksize=2>(a)  {HEAD} }}""",
        (4,),
    ),
    "resize scales": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  s = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
        h = Resize(a, , s)  {HEAD} }}""",
        (6,),
    ),
    "resize sizes": Case(
        """g (float[2,3,8,6] x, float[6,3,1,1] w1, float[5,6,1,1] w9) => (float[2,5,16,12] y) {
        a = Conv(x, w1)  s = Constant<value_ints=[2,6,16,12]>()
        h = Resize(a, , , s)  y = Conv(h, w9) }""",
        (6,),
    ),
    "resize to another tensor": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6,6,2,2] w2, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  b = Conv<strides=[2,2]>(a, w2)  i = Shape(a)
        o = Constant<value_ints=[0]>()  f = Constant<value_ints=[4]>()
        t = Constant<value_ints=[2]>()
        nc = Slice(i, o, t, o)  hw = Slice(i, t, f, o)  s = Concat<axis=0>(nc, hw)
        u = Resize(b, , , s)  h = Add(u, a)  {HEAD} }}""",
        (6,),
    ),
    "upsample opset 9": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[4] scale, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  s = Constant<value = float[4] {{1.0,1.0,2.0,2.0}}>()
        h = Upsample(a, s)  {HEAD} }}""",
        (6,),
        opset=9,
    ),
    "old clip and squeeze": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6] w2) => (float[N,5] y) {{
        a = Conv(x, w1)  c = Clip<min=-4.0, max=4.0>(a)  p = GlobalMaxPool(c)
        s = Squeeze<axes=[2,3]>(p)  y = Gemm<transB=1>(s, w2, z) }}""".replace(
            ", z)", ", b)"
        ).replace("float[5,6] w2", "float[5,6] w2, float[5] b"),
        (6,),
        opset=9,
    ),
    "squeeze without axes": Case(
        """g (float[2,3,8,6] x, float[6,3,1,1] w1, float[6,5] w2) => (float[2,5] y) {
        a = Conv(x, w1)  p = GlobalMaxPool(a)  s = Squeeze(p)  y = MatMul(s, w2) }""",
        (6,),
    ),
    "pools": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,12,1,1] w9) {OUT} {{
        a = Conv(x, w1)  m = MaxPool<kernel_shape=[2,2]>(a)  v = AveragePool<kernel_shape=[2,2]>(a)
        h = Concat<axis=1>(m, v)  {HEAD} }}""",
        (6,),
    ),
    "reduce mean over space": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6,5] w2) => (float[N,5] y) {{
        a = Conv(x, w1)  m = ReduceMean<axes=[2,3], keepdims=0>(a)  y = MatMul(m, w2) }}""",
        (6,),
        exact=False,
    ),
    "reduce sum over channels": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        h = Conv(x, w1)  ax = Constant<value_ints=[1]>()  s = ReduceSum(h, ax)  v = Conv(h, w9)
        y = Add(v, s) }}""",
        (6,),
    ),
    "channel L2 norm": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  n = ReduceL2<axes=[1]>(a)  h = Div(a, n)  {HEAD} }}""",
        (6,),
        exact=False,
    ),
    "where and compare": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6,3,1,1] w2, float[6,1,1] t,
        float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  b = Conv(x, w2)  c = Greater(a, t)  h = Where(c, a, b)  {HEAD} }}""",
        (6,),
    ),
    "variadic and scalar": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6,3,1,1] w2, float[1] k, float s, float[1,6,1,1] b,
        float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  c = Conv(x, w2)  m = Max(a, c, k, b)  n = Sum(m, a)  q = Mul(s, n)
        h = Sub(b, q)  {HEAD} }}""",
        (6,),
    ),
    "expand and tile": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6,3,1,1] w2, float[5,12,1,1] w9) {OUT} {{
        a = Conv(x, w1)  p = GlobalMaxPool(a)  i = Shape(a)  e = Expand(p, i)
        t = Constant<value_ints=[1,2,1,1]>()  h = Tile(e, t)  {HEAD} }}""",
        (6,),
    ),
    "bias expanded from a weight's shape": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        i = Shape(w1)  o = Constant<value_ints=[0]>()  one = Constant<value_ints=[1]>()
        n = Slice(i, o, one)  z = Constant<value_float=1.0>()  b = Expand(z, n)
        h = Conv(x, w1, b)  {HEAD} }}""",
        (6,),
    ),
    "view through shapes": Case(
        f"""g ({IMAGE}, float[4,3,1,1] w1, float[192,5] w2) => (float[N,5] y) {{
        a = Conv(x, w1)  i = Shape(a)  o = Constant<value_int=0>()  n = Gather(i, o)
        ax = Constant<value_ints=[0]>()  u = Unsqueeze(n, ax)  r = Constant<value_ints=[192]>()
        s = Concat<axis=0>(u, r)  f = Reshape(a, s)  y = MatMul(f, w2) }}""",
        (4,),
    ),
    "heads through shapes": Case(
        """g (float[N,T,6] x, float[6,8] w1, float[8,5] w2) => (float[N,T,5] y) {
        a = MatMul(x, w1)  i = Shape(a)  o = Constant<value_ints=[0]>()
        two = Constant<value_ints=[2]>()  nt = Slice(i, o, two)  r = Constant<value_ints=[2,4]>()
        s = Concat<axis=0>(nt, r)  b = Reshape(a, s)  c = Transpose<perm=[0,1,3,2]>(b)
        e = Constant<value_ints=[8]>()  s2 = Concat<axis=0>(nt, e)  h = Reshape(c, s2)
        y = MatMul(h, w2) }""",
        (4,),
    ),
    "constants in nodes": Case(
        """g (float[N,2] x, float[4,5] w2) => (float[N,5] y) {
        w = Constant<value = float[2,4] {1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0}>()
        b = Constant<value_floats=[1.0,2.0,3.0,4.0]>()
        a = MatMul(x, w)  h = Add(a, b)  y = MatMul(h, w2) }""",
        (4,),
    ),
    "quantized weight": Case(
        f"""g ({IMAGE}, int8[6,3,1,1] w1, float[6] s1, float[5,6,1,1] w9) {OUT} {{
        w = DequantizeLinear<axis=0>(w1, s1)  sx = Constant<value_float=0.5>()
        a = Conv(x, w)  q = QuantizeLinear(a, sx)  h = DequantizeLinear(q, sx)  {HEAD} }}""",
        (6,),
    ),
    "dropout and identity": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  d, mask = Dropout(a)  m = Cast<to=1>(mask)  i = Identity(d)
        h = Mul(i, m)  {HEAD} }}""",
        (6,),
    ),
    "weight used twice": Case(
        """g (float[N,6,8,6] x, float[6,6,1,1] w1, float[5,6,1,1] w9) => (float[N,5,p,q] y) {
        a = Conv(x, w1)  h = Conv(a, w1)  y = Conv(h, w9) }""",
        (),
    ),
    "weight used in two branches": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,12,1,1] w9) {OUT} {{
        n = Neg(x)  a = Conv(x, w1)  b = Conv(n, w1)  h = Concat<axis=1>(a, b)  {HEAD} }}""",
        (6,),
    ),
    "shared scale and bias": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6,6,1,1] w2, float[6] b, float[6,1,1] s,
        float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1, b)  m = Mul(a, s)  c = Conv(m, w2, b)  h = Mul(c, s)  {HEAD} }}""",
        (6, 6),
    ),
    "outer product": Case(
        """g (float[N,4] x, float[4,3] w1, float[9,5] w2) => (float[N,5] y) {
        a = MatMul(x, w1)  r = Constant<value_ints=[2]>()  c = Constant<value_ints=[1]>()
        u = Unsqueeze(a, r)  v = Unsqueeze(a, c)  p = Mul(u, v)
        s = Constant<value_ints=[0,9]>()  f = Reshape(p, s)  y = MatMul(f, w2) }""",
        (),
    ),
    "einsum attention": Case(
        """g (float[N,7,4] x, float[4,6] w1, float[4,6] w2, float[4,8] w3, float[8,5] w9)
        => (float[N,7,5] y) {
        q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)
        a = Einsum<equation="bqc, bkc -> bqk">(q, k)
        h = Einsum<equation="bqk,bkc->bqc">(a, v)  y = MatMul(h, w9) }""",
        (6, 8),
    ),
    "einsum with a weight": Case(
        """g (float[N,7,4] x, float[4,6] w1, float[6,8] w2, float[2,8,5] w9)
        => (float[N,2,5] y) {
        a = MatMul(x, w1)  r = Relu(a)  h = Einsum<equation="ntc,cd->ntd">(r, w2)
        y = Einsum<equation="ntd,gde->nge">(h, w9) }""",
        (6, 8),
    ),
    "einsum without a result term": Case(
        """g (float[3,4] x, float[4,6] w1, float[6,5] w9) => (float[3,5] y) {
        h = MatMul(x, w1)  y = Einsum<equation="ab,bc">(h, w9) }""",
        (6,),
    ),
    "einsum over heads": Case(
        """g (float[N,7,4] x, float[4,6] w1, float[4,6] w2, float[7,5] w9) => (float[N,2,7,5] y) {
        q = MatMul(x, w1)  k = MatMul(x, w2)  s = Constant<value_ints=[0,0,2,3]>()
        a = Reshape(q, s)  b = Reshape(k, s)
        h = Einsum<equation="bqhd,bkhd->bhqk">(a, b)  y = MatMul(h, w9) }""",
        (3,),
    ),
    "lstm": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[2,16,6] w2, float[2,16,4] r, float[2,32] b,
        float[4,5] w9) => (float[p,2,N,5] y) {{
        a = Conv(x, w1)  c = ReduceMax<axes=[3], keepdims=0>(a)
        t = Transpose<perm=[2,0,1]>(c)
        h = LSTM<hidden_size=4, direction="bidirectional">(t, w2, r, b)
        y = MatMul(h, w9) }}""",
        (4, 6),
        exact=False,
    ),
    "gru that sums over few": Case(
        """g (float[3,N,4] x, float[4,6] w1, float[1,12,6] w2, float[1,12,4] r)
        => (float[3,1,N,4] y) {
        a = MatMul(x, w1)  y = GRU<hidden_size=4, layout=0>(a, w2, r) }""",
        (6,),
        exact=False,
    ),
    "sum over two pruned axes": Case(
        """g (float[N,4] x, float[4,3] w1, float[4,6] w2, float[1,5] w9) => (float[N,5] y) {
        a = MatMul(x, w1)  b = MatMul(x, w2)
        u = Constant<value_ints=[2]>()  v = Constant<value_ints=[1]>()
        c = Unsqueeze(a, u)  d = Unsqueeze(b, v)  p = Mul(c, d)
        axes = Constant<value_ints=[1,2]>()  s = ReduceSum<keepdims=0>(p, axes)
        h = Unsqueeze(s, v)  y = MatMul(h, w9) }""",
        (3, 6),
    ),
    "training batch norm": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[6] g1, float[6] b, float[6] m, float[6] var1,
        float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)
        h, rm, rv = BatchNormalization<training_mode=1>(a, g1, b, m, var1)  {HEAD} }}""",
        (6,),
        exact=False,
    ),
}
