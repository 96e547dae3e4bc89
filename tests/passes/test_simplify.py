# ruff: noqa: E501
from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from helpers import SHARED, needs_shared, parse, rtx_refuses, run
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.graph import replace_uses, sort
from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.passes.simplify import Simplify


def simplify(model: Model, **options: int) -> PassResult:
    """Run the pass and check what holds for every model."""
    digest = model.digest()
    result = Simplify(**options)(model)
    assert model.digest() == digest
    onnx.checker.check_model(result.model.to_onnx(), full_check=True)
    again = Simplify(**options)(result.model)
    assert again.changes == () and again.model.digest() == result.model.digest()
    assert again.skipped == result.skipped
    assert (result.changes == ()) == (result.model.digest() == digest)
    interface = [[t.name for t in model.graph.inputs], [t.name for t in model.graph.outputs]]
    assert interface == [
        [t.name for t in result.model.graph.inputs],
        [t.name for t in result.model.graph.outputs],
    ]
    return result


def assert_same(before: Model, after: Model, seed: int = 0, *, size: int = 2) -> None:
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, (dtype, shape) in before.inputs().items():
        dims = [d if isinstance(d, int) else size for d in shape]
        values = rng.normal(size=dims) * 3
        feeds[name] = np.asarray(values > 0 if np.dtype(dtype).kind == "b" else values).astype(
            dtype
        )
    for a, b in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def ops(result: PassResult) -> list[str]:
    return [node.op for node in result.model.graph.nodes]


NOOPS = {
    "identity": ("float[N,3] x", "a = Identity (x) y = Relu (a)"),
    "dropout": ("float[N,3] x", "a = Dropout (x) y = Relu (a)"),
    "dropout told not to train": ("float[N,3] x", "t = Constant <value = bool {0}> () r = Constant <value_float = 0.5> () a = Dropout (x, r, t) y = Relu (a)"),
    "cast to its own type": ("float[N,3] x", "a = Cast <to = 1> (x) y = Relu (a)"),
    "cast like its own type": ("float[N,3] x, float z", "a = CastLike (x, z) y = Relu (a)"),
    "reshape to its own shape": ("float[N,3] x", "s = Constant <value_ints = [-1, 3]> () a = Reshape (x, s) y = Relu (a)"),
    "reshape back": ("float[N,3,2] x", "s = Constant <value_ints = [-1, 6]> () t = Constant <value_ints = [0, 3, 2]> () a = Reshape (x, s) b = Reshape (a, t) y = Relu (b)"),
    "flatten of two axes": ("float[N,3] x", "a = Flatten (x) y = Relu (a)"),
    "unsqueeze and squeeze": ("float[N,3] x", "i = Constant <value_ints = [1]> () a = Unsqueeze (x, i) b = Squeeze (a, i) y = Relu (b)"),
    "transpose to the same order": ("float[N,3] x", "a = Transpose <perm = [0, 1]> (x) y = Relu (a)"),
    "pad by nothing": ("float[N,3] x", "p = Constant <value_ints = [0, 0, 0, 0]> () a = Pad (x, p) y = Relu (a)"),
    "slice of everything": ("float[N,3] x", "b = Constant <value_ints = [0, 0]> () e = Constant <value_ints = [9223372036854775807, 3]> () a = Slice (x, b, e) y = Relu (a)"),
    "slice along named axes": ("float[N,3] x", "b = Constant <value_ints = [0]> () e = Constant <value_ints = [7]> () i = Constant <value_ints = [-1]> () a = Slice (x, b, e, i, i1) y = Relu (a)"),
    "concat of one": ("float[N,3] x", "a = Concat <axis = 1> (x) y = Relu (a)"),
    "sum of one": ("float[N,3] x", "a = Sum (x) y = Relu (a)"),
    "split in one": ("float[N,3] x", "n = Constant <value_ints = [3]> () a = Split <axis = 1> (x, n) y = Relu (a)"),
    "add zero": ("float[N,3] x", "z = Constant <value_float = 0.0> () a = Add (z, x) y = Relu (a)"),
    "add zeros": ("float[N,3] x", "z = Constant <value_floats = [0.0, 0.0, 0.0]> () a = Add (x, z) y = Relu (a)"),
    "subtract zero": ("float[N,3] x", "z = Constant <value_float = 0.0> () a = Sub (x, z) y = Relu (a)"),
    "multiply by one": ("float[N,3] x", "z = Constant <value_float = 1.0> () a = Mul (x, z) y = Relu (a)"),
    "divide by one": ("float[N,3] x", "z = Constant <value_float = 1.0> () a = Div (x, z) y = Relu (a)"),
    "to the power of one": ("float[N,3] x", "z = Constant <value_float = 1.0> () a = Pow (x, z) y = Relu (a)"),
    "expand to its own shape": ("float[N,3] x", "s = Constant <value_ints = [1, 3]> () a = Expand (x, s) y = Relu (a)"),
    "tile once": ("float[N,3] x", "s = Constant <value_ints = [1, 1]> () a = Tile (x, s) y = Relu (a)"),
    "resize by one": ("float[1,1,3,3] x", 's = Constant <value_floats = [1.0, 1.0, 1.0, 1.0]> () a = Resize (x, , s) y = Relu (a)'),
    "a chain of them": ("float[N,3] x", "a = Identity (x) b = Dropout (a) c = Cast <to = 1> (b) y = Relu (c)"),
}  # fmt: skip


def model_of(inputs: str, body: str, outputs: str = "float[] y") -> Model:
    constants = "<int64[1] i1 = {1}>" if "i1)" in body else ""
    return parse(f"g ({inputs}) => ({outputs}) {constants} {{ {body} }}")


@pytest.mark.parametrize("case", NOOPS)
def test_what_changes_nothing_goes(case: str) -> None:
    inputs, body = NOOPS[case]
    model = model_of(inputs, body)
    result = simplify(model)
    assert ops(result) == ["Relu"]
    assert "removed-noop" in result.counts()
    assert_same(model, result.model)


@pytest.mark.parametrize("case", NOOPS)
def test_what_changes_nothing_goes_from_before_an_output(case: str) -> None:
    model = model_of(*NOOPS[case])
    # The Relu first: now the node that does nothing writes the graph output.
    graph = model.graph
    relu, x = graph.nodes[-1], graph.inputs[0]
    last, first = relu.inputs[0], relu.outputs[0]
    relu.inputs = []
    replace_uses(graph, x, first)
    relu.inputs = [x]
    first.name, first.shape, last.name, graph.outputs = "first", x.shape, "y", [last]
    sort(graph)
    model = Model.from_onnx(model.to_onnx())
    result = simplify(model)
    assert ops(result) == ["Relu"]
    assert_same(model, result.model)


KEPT = {
    "identity from input to output": ("float[N,3] x", "y = Identity (x)"),
    "cast to another type": ("float[N,3] x", "a = Cast <to = 11> (x) b = Relu (a) y = Cast <to = 1> (b)"),
    "reshape to another shape": ("float[4,3] x", "a = Flatten <axis = 0> (x) y = Relu (a)"),
    "reshape that fixes the batch": ("float[N,3] x, int64[2] s", "a = Reshape (x, s) y = Relu (a)"),
    "transpose": ("float[3,3] x", "a = Transpose (x) y = Relu (a)"),
    "dropout in training": ("float[N,3] x, bool t, float r", "a = Dropout (x, r, t) y = Relu (a)"),
    "add to fewer axes": ("float[3] x, float[1,1] z", "a = Add (x, z) y = Relu (a)"),
    "zero minus": ("float[3] x, float[3] z", "a = Sub (z, x) y = Relu (a)"),
    "random": ("float[3] x", "a = RandomNormal <shape = [3], seed = 1.0> () y = Add (x, a)"),
    "custom": ("float[3] x", "a = com.example.Identity (x) y = Relu (a)"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_does_something_stays(case: str) -> None:
    inputs, body = KEPT[case]
    head = '<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]> '
    output = "float[3] y" if case == "custom" else "float[] y"
    model = parse(f"{head} g ({inputs}) => ({output}) {{ {body} }}")
    result = simplify(model)
    assert result.changes == ()


@pytest.mark.parametrize(
    "body",
    [
        "z = Constant <value_float = 0.0> () y = Sub (z, x)",
        "z = Constant <value_float = 1.0> () y = Div (z, x)",
        "z = Constant <value_float = 1.0> () y = Pow (z, x)",
        "z = Constant <value_floats = [0.0, 0.0]> () w = Constant <value = float[1,1,1] {0}> () a = Relu (x) y = Add (a, w)",
        "s = Constant <value_ints = [2, 1, 3]> () y = Expand (x, s)",
        "p = Constant <value_ints = [0, 0, 0, 1]> () y = Pad (x, p)",
        "b = Constant <value_ints = [1]> () e = Constant <value_ints = [9]> () y = Slice (x, b, e)",
        "s = Constant <value_ints = [1, 3]> () a = Relu (x) y = Reshape (a, s)",
    ],
)
def test_close_to_doing_nothing_is_not_nothing(body: str) -> None:
    model = model_of("float[N,3] x", body)
    result = simplify(model)
    assert "removed-noop" not in result.counts()
    assert_same(model, result.model, size=1)


def test_an_identity_between_two_outputs_stays() -> None:
    model = model_of("float[N,3] x", "z = Relu (x) y = Identity (z)", "float[] y, float[] z")
    result = simplify(model)
    assert ops(result) == ["Relu", "Identity"]
    assert_same(model, result.model)


def test_two_identities_to_two_outputs() -> None:
    model = model_of(
        "float[N,3] x", "a = Relu (x) y = Identity (a) z = Identity (a)", "float[] y, float[] z"
    )
    result = simplify(model)
    assert sorted(ops(result)) == ["Identity", "Relu"]
    assert_same(model, result.model)


def test_a_dropout_whose_mask_is_read_stays_and_says_so() -> None:
    model = parse(
        '<ir_version: 7, opset_import: ["" : 12]> g (float[N,3] x) => (float[] y, bool[] m) { y, m = Dropout (x) }'
    )
    result = simplify(model)
    assert result.changes == () and "mask is read" in result.skipped[0].reason


# --- folding ---------------------------------------------------------------------------------


def test_constants_fold_in_chains_and_nodes_become_initializers() -> None:
    model = model_of(
        "float[N,2] x",
        "a = Constant <value = float[2,2] {1, 2, 3, 4}> () b = Transpose (a) c = Neg (b) d = MatMul (a, c) y = MatMul (x, d)",
    )
    result = simplify(model)
    assert ops(result) == ["MatMul"] and result.counts() == {"folded": 4}
    assert_same(model, result.model)


def test_a_constant_that_is_an_output_keeps_one_node() -> None:
    model = model_of(
        "float[N,2] x",
        "a = Constant <value_floats = [1.0, 2.0]> () z = Neg (a) y = Relu (x)",
        "float[] y, float[] z",
    )
    result = simplify(model)
    assert ops(result) == ["Neg", "Relu"]
    assert_same(model, result.model)


def test_what_would_blow_up_the_model_is_not_folded() -> None:
    model = model_of(
        "float[1] x",
        "s = Constant <value_ints = [1024, 1024, 64]> () a = ConstantOfShape (s) b = ReduceSum (a) y = Add (x, b)",
    )
    result = simplify(model)
    assert "ConstantOfShape" in ops(result)
    assert "would add 256 MiB to the model (limit 16 MiB)" in result.skipped[0].reason
    small = simplify(
        model_of(
            "float[1] x",
            "s = Constant <value_ints = [8, 8]> () a = ConstantOfShape (s) b = ReduceSum (a) y = Add (x, b)",
        )
    )
    assert ops(small) == ["Add"]
    model = model_of(
        "float[64] x", "s = Constant <value_ints = [64]> () a = ConstantOfShape (s) y = Add (x, a)"
    )
    assert "limit 0 MiB" in simplify(model, largest=100).skipped[0].reason


def test_quantization_is_not_undone() -> None:
    model = model_of(
        "float[N,2] x",
        "w = Constant <value = int8[2,2] {1, 2, 3, 4}> () s = Constant <value_float = 0.5> () z = Constant <value = int8 {0}> () d = DequantizeLinear (w, s, z) y = MatMul (x, d)",
    )
    result = simplify(model)
    assert ops(result) == ["DequantizeLinear", "MatMul"]
    assert_same(model, result.model)


def test_shapes_of_static_tensors_fold() -> None:
    model = model_of(
        "float[2,3,4] x",
        "s = Shape (x) i = Constant <value = int64 {1}> () c = Gather (s, i) f = Cast <to = 1> (c) y = Mul (x, f)",
    )
    result = simplify(model)
    assert ops(result) == ["Mul"]
    assert_same(model, result.model)


def test_static_dimensions_fold_beside_a_dynamic_batch() -> None:
    model = model_of(
        "float[N,3,4] x",
        "s = Shape (x) i = Constant <value = int64 {2}> () c = Gather (s, i) f = Cast <to = 1> (c) y = Mul (x, f)",
    )
    result = simplify(model)
    assert ops(result) == ["Mul"]
    for batch in (1, 5):
        assert_same(model, result.model, size=batch)


TARGETS = {
    "the batch copied": ("s = Shape (x) z = Constant <value = int64 {0}> () n = Gather (s, z) i = Constant <value_ints = [0]> () u = Unsqueeze (n, i) r = Constant <value_ints = [-1]> () t = Concat <axis = 0> (u, r) y = Reshape (x, t)", [0, -1]),
    "the batch last": ("s = Shape (x) z = Constant <value_ints = [0]> () n = Gather (s, z) r = Constant <value_ints = [3, 4]> () t = Concat <axis = 0> (r, n) y = Reshape (x, t)", [3, 4, -1]),
    "a product": ("s = Shape (x) z = Constant <value_ints = [0]> () o = Constant <value_ints = [1]> () e = Constant <value_ints = [9]> () n = Gather (s, z) c = Slice (s, o, e) p = Gather (c, z) q = Gather (c, o) m = Mul (p, q) t = Concat <axis = 0> (n, m) y = Reshape (x, t)", [0, 12]),
    "half": ("s = Shape (x) z = Constant <value_ints = [0]> () o = Constant <value_ints = [1]> () w = Constant <value_ints = [2]> () n = Gather (s, z) p = Gather (s, w) h = Div (p, w) t = Concat <axis = 0> (n, o, h, six) y0 = Reshape (x, t) y = Relu (y0)", [0, 1, 2, 6]),
}  # fmt: skip


@pytest.mark.parametrize("case", TARGETS)
def test_reshape_targets_become_constants(case: str) -> None:
    body, target = TARGETS[case]
    model = parse(f"g (float[N,3,4] x) => (float[] y) <int64[1] six = {{6}}> {{ {body} }}")
    result = simplify(model)
    reshape = next(node for node in result.model.graph.nodes if node.op == "Reshape")
    assert reshape.inputs[1].values.tolist() == target
    assert set(ops(result)) <= {"Reshape", "Relu"}
    for batch in (1, 2, 7):
        assert_same(model, result.model, size=batch)


def test_two_unknown_dimensions_are_not_guessed() -> None:
    model = parse(
        """g (float[N,3,M] x) => (float[] y)
        <int64[1] z = {0}, int64[1] one = {1}, int64[1] two = {2}> {
            s = Shape (x) m = Gather (s, two) n = Gather (s, z) three = Gather (s, one)
            t = Concat <axis = 0> (m, n, three) y = Reshape (x, t)
        }"""
    )
    result = simplify(model)
    assert "Shape" in ops(result)
    assert_same(model, result.model, size=5)


def test_a_target_that_does_not_copy_from_its_place_is_no_zero() -> None:
    model = parse(
        """g (float[N,6] x, float[M,6] o) => (float[] y) <int64[1] z = {0}, int64[1] r = {6}> {
            s = Shape (o) m = Gather (s, z) t = Concat <axis = 0> (m, r) y = Reshape (x, t)
        }"""
    )
    result = simplify(model)
    reshape = next(node for node in result.model.graph.nodes if node.op == "Reshape")
    assert reshape.inputs[1].values.tolist() == [-1, 6]


def test_expand_to_the_shape_of_itself() -> None:
    model = parse(
        """g (float[N,1] x) => (float[] y) <int64[1] z = {0}, int64[1] r = {6}> {
            s = Shape (x) m = Gather (s, z) t = Concat <axis = 0> (m, r) y = Expand (x, t)
        }"""
    )
    result = simplify(model)
    assert ops(result) == ["Expand"]
    assert_same(model, result.model, size=4)


def test_dead_nodes_are_removed_and_named() -> None:
    model = model_of("float[N,3] x", "a = Neg (x) b = Abs (a) y = Relu (x)")
    result = simplify(model)
    assert [(c.kind, c.where) for c in result.changes] == [
        ("removed-dead", "Neg_a"),
        ("removed-dead", "Abs_b"),
    ]


def test_a_model_with_nothing_to_do_comes_back_the_same() -> None:
    model = model_of("float[N,3] x", "a = Relu (x) y = Neg (a)")
    result = simplify(model)
    assert result.changes == () and result.skipped == ()


# --- bodies, functions, custom operators -----------------------------------------------------


def test_bodies_read_folded_constants_and_bypassed_tensors() -> None:
    model = parse(
        """g (bool c, float[1,2] x) => (float[] y) {
            k = Constant <value_floats = [1.0, 2.0]> () k2 = Neg (k) i = Identity (x)
            y = If (c) <then_branch = t () => (float[1,2] o) { o = Add (i, k2) },
                        else_branch = e () => (float[1,2] p) { d = Dropout (i) p = Mul (d, k2) }>
        }"""
    )
    result = simplify(model)
    assert ops(result) == ["If"]
    branches = {b.name: [n.op for n in b.nodes] for b in result.model.graph.subgraphs()}
    assert branches == {"t": ["Add"], "e": ["Dropout", "Mul"]}
    for seed in range(4):
        assert_same(model, result.model, seed)


def test_a_loop_stays_as_it_is() -> None:
    model = parse(
        """g (float[2] x) => (float[2] y) {
            n = Constant <value = int64 {3}> () c = Constant <value = bool {1}> ()
            k = Constant <value_floats = [1.0, 2.0]> ()
            y = Loop (n, c, x) <body = b (int64 i, bool d, float[2] s) => (bool o, float[2] t) {
                o = Identity (d) t = Add (s, k) }>
        }"""
    )
    result = simplify(model)
    assert ops(result) == ["Loop"]
    assert_same(model, result.model)


def test_local_functions_are_inlined() -> None:
    model = Model.from_onnx(
        onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
            g (float[N,3] x) => (float[N,3] y) { a = local.Same (x) y = local.Twice (a) }
            <domain: "local", opset_import: ["" : 17]> Same (v) => (o) { o = Identity (v) }
            <domain: "local", opset_import: ["" : 17]> Twice (v) => (o) { o = Add (v, v) }"""
        )
    )
    result = simplify(model)
    assert ops(result) == ["Add"] and result.counts() == {"inlined": 2, "removed-noop": 1}
    assert_same(model, result.model)


def test_old_opsets_have_attributes_for_inputs() -> None:
    model = parse(
        """<ir_version: 6, opset_import: ["" : 9]> g (float[N,3] x) => (float[] y) {
            a = Slice <axes = [1], starts = [0], ends = [2147483647]> (x)
            b = Pad <pads = [0, 0, 0, 0]> (a) c = Dropout <ratio = 0.5> (b)
            s = Shape (c) i = Constant <value = int64 {0}> () n = Gather (s, i)
            u = Unsqueeze <axes = [0]> (n) r = Constant <value = int64[1] {-1}> ()
            t = Concat <axis = 0> (u, r) d = Relu (c) y = Reshape (d, t) }"""
    )
    result = simplify(model)
    # The target [0, -1] says the same shape again.
    assert ops(result) == ["Relu"]
    assert_same(model, result.model)


# --- random graphs ---------------------------------------------------------------------------

_UNARY = ["Relu", "Neg", "Identity", "Abs", "Dropout", "Sigmoid"]
_PIECES = st.sampled_from(
    [
        *(f"{{o}} = {op} ({{i}})" for op in _UNARY),
        "{o}c = Constant <value_float = 0.0> () {o} = Add ({i}, {o}c)",
        "{o}c = Constant <value_float = 1.0> () {o} = Mul ({o}c, {i})",
        "{o}c = Constant <value_float = 0.5> () {o} = Sub ({o}c, {i})",
        "{o} = Add ({i}, {j})",
        "{o} = Mul ({i}, {j})",
        "{o} = Transpose <perm = [0, 1, 2]> ({i})",
        "{o}a = Transpose <perm = [0, 2, 1]> ({i}) {o} = Transpose <perm = [0, 2, 1]> ({o}a)",
        "{o}s = Shape ({j}) {o} = Reshape ({i}, {o}s)",
        "{o}f = Flatten ({i}) {o}s = Shape ({j}) {o} = Reshape ({o}f, {o}s)",
        "{o}s = Shape ({i}) {o} = Expand ({j}, {o}s)",
        "{o}s = Shape ({i}) {o}k = ConstantOfShape ({o}s) {o} = Add ({j}, {o}k)",
        "{o}b = Constant <value_ints = [0]> () {o}e = Constant <value_ints = [99]> () {o}x = Constant <value_ints = [1]> () {o} = Slice ({i}, {o}b, {o}e, {o}x)",
        "{o}u = Constant <value_ints = [1]> () {o}v = Unsqueeze ({i}, {o}u) {o} = Squeeze ({o}v, {o}u)",
        "{o}w = Constant <value_floats = [1.0, 2.0]> () {o}n = Neg ({o}w) {o} = Add ({i}, {o}n)",
        "{o}w = Cast <to = 11> ({i}) {o} = CastLike ({o}w, {j})",
    ]
)


@settings(max_examples=40)
@given(
    pieces=st.lists(_PIECES, min_size=1, max_size=8),
    picks=st.lists(st.integers(0, 99), min_size=20, max_size=20),
    batch=st.sampled_from(["2", "N"]),
)
def test_random_graphs_compute_the_same(pieces: list[str], picks: list[int], batch: str) -> None:
    body, names = [], ["x"]
    for n, piece in enumerate(pieces):
        i, j = (names[picks[2 * n + k] % len(names)] for k in (0, 1))
        body.append(piece.format(i=i, j=j, o=f"t{n}"))
        names.append(f"t{n}")
    second = names[1 + picks[19] % (len(names) - 1)]
    outputs = dict.fromkeys([names[-1], second])
    model = parse(
        f"g (float[{batch},3,2] x) => ({', '.join(f'float[] {o}' for o in outputs)}) {{ {' '.join(body)} }}"
    )
    result = simplify(model)
    for size in (2, 5):
        assert_same(model, result.model, size=size)


# --- real models -----------------------------------------------------------------------------

REAL = {
    "resnet20_cifar10": ((2, 3, 32, 32), {"Conv", "Relu", "Add", "Slice", "Pad", "GlobalAveragePool", "Flatten", "Gemm"}),
    "resnet56_cifar10": ((2, 3, 32, 32), {"Conv", "BatchNormalization", "Relu", "Add", "Slice", "Pad", "ReduceMean", "Reshape", "Gemm"}),
    "face_rfb320": ((1, 3, 240, 320), {"Conv", "Relu", "BatchNormalization", "Transpose", "Reshape", "Slice", "Concat", "Mul", "Add", "Div", "Softmax", "Exp", "Sub"}),
    "face_yunet_n": ((2, 3, 64, 96), {"Conv", "Relu", "Transpose", "Reshape", "Sigmoid", "MaxPool", "Resize", "Add"}),
}  # fmt: skip


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_real_models_come_down_to_their_operators(name: str) -> None:
    shape, expected = REAL[name]
    model = Model.load(SHARED / "models" / f"{name}.onnx")
    result = simplify(model)
    assert set(Counter(ops(result))) == expected
    x = {next(iter(model.inputs())): np.random.default_rng(0).normal(size=shape).astype("f4")}
    for before, after in zip(run(model, x), run(result.model, x), strict=True):
        np.testing.assert_array_equal(before, after)


@needs_shared
def test_tensorrt_rtx_parses_what_it_refused() -> None:
    result = Simplify()(Model.load(SHARED / "models" / "resnet56_cifar10.onnx"))
    assert rtx_refuses(result.model) is None


def shuffles(count: int, *, space: str) -> Model:
    """Channel shuffles one after the other, each with the shape of the one before it computed."""
    block = """
        s{i} = Shape (x{i})
        n{i} = Gather (s{i}, zero) c{i} = Gather (s{i}, one)
        h{i} = Gather (s{i}, two) w{i} = Gather (s{i}, three)
        d{i} = Div (c{i}, two)
        a{i} = Concat <axis = 0> (n{i}, two, d{i}, h{i}, w{i})
        v{i} = Reshape (x{i}, a{i})
        t{i} = Transpose <perm = [0, 2, 1, 3, 4]> (v{i})
        b{i} = Concat <axis = 0> (n{i}, c{i}, h{i}, w{i})
        x{j} = Reshape (t{i}, b{i})"""
    body = "".join(block.format(i=i, j=i + 1) for i in range(count))
    return parse(
        f"""g (float[N,6,{space}] x0) => (float[N,6,{space}] y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}}>
        {{ {body} y = Relu (x{count}) }}"""
    )


@pytest.mark.parametrize("space", ["4,4", "H,W"])
def test_what_a_fold_teaches_is_known_in_the_same_walk(
    space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shuffles(12, space=space)
    rounds: list[None] = []
    whole = Model.infer_shapes
    monkeypatch.setattr(Model, "infer_shapes", lambda m: (rounds.append(None), whole(m))[1])
    result = Simplify()(model)
    # Not one inference of the whole model for each view.
    assert len(rounds) <= 4
    assert not any(op in ops(result) for op in ("Div", *(["Shape"] if space == "4,4" else [])))
    shapes = {n.name: n.outputs[0].shape for n in result.model.graph.nodes if n.op == "Transpose"}
    assert len(shapes) == 12 and all(s[1:3] == [3, 2] for s in shapes.values())
    x = {"x0": np.random.default_rng(0).normal(size=(2, 6, 4, 4)).astype("f4")}
    np.testing.assert_array_equal(run(model, x)[0], run(result.model, x)[0])
