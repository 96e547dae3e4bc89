"""One graph per operator, those that transformers and detectors brought. See ``test_ops.py``."""

from __future__ import annotations

from op_cases import HEAD, IMAGE, OUT, Case

MODERN = {
    "lstm with everything": Case(
        """g (float[3,N,4] x, float[4,6] w1, float[1,16,6] w2, float[1,16,4] r, float[1,32] b,
        float[1,2,4] h0, float[1,2,4] c0, float[1,12] peep, float[4,5] w9, float[4,7] w8)
        => (float[p,1,N,5] y, float[1,N,7] z) {
        a = MatMul(x, w1)
        h, last = LSTM<hidden_size=4>(a, w2, r, b, , h0, c0, peep)
        y = MatMul(h, w9)  z = MatMul(last, w8) }""",
        (4, 6),
        exact=False,
    ),
    "lrn": Case(
        f"""g ({IMAGE}, float[9,3,1,1] w1, float[5,9,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = LRN<size=3, alpha=0.9>(a)  {HEAD} }}""",
        (9,),
        exact=False,
    ),
    "lrn opset 9": Case(
        f"""g ({IMAGE}, float[9,3,1,1] w1, float[5,9,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = LRN<size=5, alpha=0.9>(a)  {HEAD} }}""",
        (9,),
        exact=False,
        opset=9,
    ),
    "lp norm over channels": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  h = LpNormalization<axis=1, p=2>(a)  {HEAD} }}""",
        (6,),
        exact=False,
    ),
    "mean over channels that nothing is centered by": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1)  m = ReduceMean<axes=[1]>(a)  h = Mul(a, m)  {HEAD} }}""",
        (6,),
        exact=False,
    ),
    "maximum of what is not negative": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,6,1,1] w9) {OUT} {{
        c = Conv(x, w1)  a = Relu(c)  m = ReduceMax<axes=[1]>(a)  h = Sub(a, m)  {HEAD} }}""",
        (6,),
    ),
    "rms norm": Case(
        """g (float[N,7,4] x, float[4,6] w1, float[6] g1, float[6,5] w9) => (float[N,7,5] y) {
        a = MatMul(x, w1)  h = RMSNormalization<epsilon=0.1>(a, g1)  y = MatMul(h, w9) }""",
        (6,),
        exact=False,
        opset=23,
    ),
    "rms norm over two axes": Case(
        """g (float[N,3,7] x, float[6,3] w1, float[6,7] g1, float[5,6] w9) => (float[N,5,7] y) {
        a = MatMul(w1, x)  h = RMSNormalization<axis=1>(a, g1)  y = MatMul(w9, h) }""",
        (6,),
        exact=False,
        opset=23,
    ),
    "attention operator, grouped": Case(
        """g (float[N,7,4] x, float[4,24] w1, float[4,12] w2, float[4,10] w3, float[20,5] w9)
        => (float[N,7,5] y) {
        q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)
        h = Attention<q_num_heads=4, kv_num_heads=2, is_causal=1>(q, k, v)  y = MatMul(h, w9) }""",
        (6, 5),
        exact=False,
        opset=23,
    ),
    "attention operator, many heads": Case(
        """g (float[N,7,4] x, float[4,12] w1, float[4,12] w2, float[4,6] w3, float[6,7,7] bias,
        float[6,5] w9) => (float[N,7,5] y) {
        q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)
        h = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v, bias)  y = MatMul(h, w9) }""",
        (2,),
        exact=False,
        opset=23,
    ),
    "attention operator of rank four": Case(
        """g (float[N,7,4] x, float[4,12] w1, float[4,12] w2, float[4,12] w3, float[12,5] w9)
        => (float[N,7,5] y) {
        q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)
        s = Constant<value_ints=[0,7,2,6]>()  t = Constant<value_ints=[0,7,12]>()
        q1 = Reshape(q, s)  k1 = Reshape(k, s)  v1 = Reshape(v, s)
        q2 = Transpose<perm=[0,2,1,3]>(q1)  k2 = Transpose<perm=[0,2,1,3]>(k1)
        v2 = Transpose<perm=[0,2,1,3]>(v1)  a, pk, pv = Attention(q2, k2, v2)
        a1 = Transpose<perm=[0,2,1,3]>(a)  h = Reshape(a1, t)  y = MatMul(h, w9) }""",
        (6, 6),
        exact=False,
        opset=23,
    ),
    "rotary embedding": Case(
        """g (float[N,7,4] x, float[4,12] w1, float[4,12] w2, float[2,7,3] cos, float[2,7,3] sin)
        => (float[N,2,7,7] y) {
        a = MatMul(x, w1)  b = MatMul(x, w2)
        c = RotaryEmbedding<num_heads=2>(a, cos, sin)
        d = RotaryEmbedding<num_heads=2>(b, cos, sin)
        s = Constant<value_ints=[0,7,2,6]>()  e = Reshape(c, s)  f = Reshape(d, s)
        q = Transpose<perm=[0,2,1,3]>(e)  k = Transpose<perm=[0,2,3,1]>(f)  y = MatMul(q, k) }""",
        (3,),
        opset=23,
    ),
    "rotary embedding, interleaved": Case(
        """g (float[N,2,7,4] x, float[4,8] w1, float[2,7,4] cos, float[2,7,4] sin, float[8,5] w9)
        => (float[N,2,7,5] y) {
        a = MatMul(x, w1)  h = RotaryEmbedding<interleaved=1>(a, cos, sin)  y = MatMul(h, w9) }""",
        (4,),
        opset=23,
    ),
    "deformable convolution": Case(
        """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[8,6,1,1] w2, float[8] b,
        float[2,2,8,6] o, float[5,8,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1)  h = DeformConv(a, w2, o, b)  y = Conv(h, w9) }""",
        (6, 8),
        exact=False,
        opset=19,
    ),
    "columns to image": Case(
        """g (float[N,3,9] x, float[24,3] w1, float[5,6,1,1] w9) => (float[N,5,4,4] y) {
        a = MatMul(w1, x)  i = Constant<value_ints=[4,4]>()  b = Constant<value_ints=[2,2]>()
        h = Col2Im(a, i, b)  y = Conv(h, w9) }""",
        (6,),
        opset=18,
    ),
    "gather nd": Case(
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[5,7,1,1] w9) {OUT} {{
        a = Conv(x, w1)  t = Transpose<perm=[1,0,2,3]>(a)
        i = Constant<value = int64[7,1] {{5, 0, 3, 3, 1, 2, 0}}>()  g1 = GatherND(t, i)
        h = Transpose<perm=[1,0,2,3]>(g1)  {HEAD} }}""",
        (2, 3),
    ),
    "gather nd of pixels": Case(
        """g (float[1,3,8,6] x, float[6,3,1,1] w1, float[6,5] w9) => (float[3,5] y) {
        a = Conv(x, w1)  t = Transpose<perm=[0,2,3,1]>(a)
        i = Constant<value = int64[3,3] {0, 5, 0, 0, 3, 3, 0, 2, 0}>()  h = GatherND(t, i)
        y = MatMul(h, w9) }""",
        (6,),
    ),
    "gather elements": Case(
        """g (float[2,3,8,6] x, float[6,3,1,1] w1, float[6,3,1,1] w2, float[5,6,1,1] w9)
        => (float[2,5,8,3] y) {
        a = Conv(x, w1)  b = Conv(x, w2)  k = Constant<value_ints=[3]>()  s, i = TopK(b, k)
        h = GatherElements<axis=3>(a, i)  y = Conv(h, w9) }""",
        (6,),
    ),
    "scatter elements": Case(
        """g (float[2,3,8,6] x, float[6,3,1,1] w1, float[5,6,1,1] w9) => (float[2,5,8,6] y) {
        a = Conv(x, w1)  k = Constant<value_ints=[3]>()  s, i = TopK(a, k)  z = Mul(a, a)
        h = ScatterElements<axis=3>(z, i, s)  y = Conv(h, w9) }""",
        (6,),
    ),
    "scatter nd over tokens": Case(
        """g (float[7,4] x, float[4,6] w1, float[2,6] u, float[6,5] w9) => (float[7,5] y) {
        a = MatMul(x, w1)  i = Constant<value = int64[2,1] {5, 0}>()  v = Neg(u)
        h = ScatterND(a, i, v)  y = MatMul(h, w9) }""",
        (6,),
    ),
    "triangle, and time reversed": Case(
        """g (float[2,3,5,5] x, float[6,3,1,1] w1, float[5,6,1,1] w9) => (float[2,5,5,5] y) {
        a = Conv(x, w1)  u = Trilu(a)  t = Transpose<perm=[2,0,1,3]>(u)
        l = Constant<value_ints=[3,5]>()  r = ReverseSequence(t, l)
        h = Transpose<perm=[1,2,0,3]>(r)  y = Conv(h, w9) }""",
        (6,),
    ),
    "compress and crop": Case(
        """g (float[2,3,8,6] x, float[6,3,1,1] w1, float[5,6,1,1] w9) => (float[2,5,p,q] y) {
        a = Conv(x, w1)  c = Constant<value = bool[6] {1, 0, 1, 1, 0, 0}>()
        b = Compress<axis=3>(a, c)  s = Constant<value_ints=[4,4]>()
        h = CenterCropPad<axes=[2,3]>(b, s)  y = Conv(h, w9) }""",
        (6,),
        opset=18,
    ),
    "one hot of tokens": Case(
        """g (float[N,7,4] x, float[4,9] w1, float[9,6] w2, float[6,5] w9) => (float[N,7,5] y) {
        a = MatMul(x, w1)  i = ArgMax<axis=2, keepdims=0>(a)  d = Constant<value_int=9>()
        v = Constant<value_floats=[0.0,1.0]>()  o = OneHot(i, d, v)
        h = MatMul(o, w2)  y = MatMul(h, w9) }""",
        (6,),
    ),
    "gelu as onnx runtime fuses it": Case(
        """g (float[N,7,4] x, float[4,6] w1, float[6] b, float[6,5] w9) => (float[N,7,5] y) {
        a = MatMul(x, w1)  c = com.microsoft.BiasGelu (a, b)  h = com.microsoft.QuickGelu (c)
        y = MatMul(h, w9) }""",
        (6,),
        exact=False,
        opset=17,
    ),
    "einsum with ellipses": Case(
        """g (float[N,7,4] x, float[4,6] w1, float[6,5] w9) => (float[N,7,5] y) {
        h = Einsum<equation="...i,io->...o">(x, w1)  y = Einsum<equation="...i , io">(h, w9) }""",
        (6,),
    ),
    "heads in the batch axis": Case(
        """g (float[7,N,6] x, float[6,8] w1, float[8,5] w9) => (float[7,N,5] y) {
        a = MatMul(x, w1)  s = Constant<value_ints=[7,-1,4]>()  b = Reshape(a, s)
        c = Abs(b)  t = Constant<value_ints=[-1,8]>()  d = Reshape(c, t)
        u = Constant<value_ints=[7,-1,8]>()  h = Reshape(d, u)  y = MatMul(h, w9) }""",
        (4,),
    ),
    "states made of zeros": Case(
        """g (float[N,7,4] x, float[4,6] w1, float[6,5] w9) => (float[N,7,5] y) {
        h = MatMul(x, w1)  i = Shape<start=0, end=2>(h)  six = Constant<value_ints=[6]>()
        s = Concat<axis=0>(i, six)  z = ConstantOfShape<value = float[1] {2.0}>(s)
        p = Mul(h, z)  y = MatMul(p, w9) }""",
        (6,),
    ),
}
