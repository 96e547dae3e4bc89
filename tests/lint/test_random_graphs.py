"""Whatever the graph, each Q and DQ has one account, and it is told why."""

from __future__ import annotations

from drawn import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.lint.fusion import ALONE, FUSED, VERDICTS
from graphopt.lint.run import lint

STEPS = ("conv", "float conv", "relu", "add", "silu", "pool", "average", "softmax", "quantize",
         "concat", "split")  # fmt: skip


@st.composite
def bodies(draw_from):
    """Lines in which every step reads tensors made before."""
    tensors, lines = ["x"], []
    steps = draw_from(st.lists(st.sampled_from(STEPS), min_size=1, max_size=14))
    for i, step in enumerate(steps):
        a = draw_from(st.sampled_from(tensors[-4:]))
        b = draw_from(st.sampled_from(tensors[-4:]))
        scale = draw_from(st.sampled_from(["0.1", "0.2"]))
        out = f"t{i}"
        lines += {
            "conv": [f"{out}a = QDQ({a}, {scale})", f"{out}w = WEIGHT(32, 32, 1, 1)",
                     f"{out} = Conv({out}a, {out}w)"],
            "float conv": [f"{out}w = FLOAT(32, 32, 1, 1)", f"{out} = Conv({a}, {out}w)"],
            "relu": [f"{out} = Relu({a})"],
            "add": [f"{out} = Add({a}, {b})"],
            "silu": [f"{out}s = Sigmoid({a})", f"{out} = Mul({a}, {out}s)"],
            "pool": [f"{out} = MaxPool<kernel_shape=[1,1]>({a})"],
            "average": [f"{out} = AveragePool<kernel_shape=[1,1]>({a})"],
            "softmax": [f"{out} = Softmax({a})"],
            "quantize": [f"{out} = QDQ({a}, {scale})"],
            "concat": [f"{out}c = Concat<axis=1>({a}, {b})",
                       f"{out}w = FLOAT(32, 64, 1, 1)", f"{out} = Conv({out}c, {out}w)"],
            "split": [f"{out}l, {out}r = Split<axis=1>({a})",
                      f"{out} = Concat<axis=1>({out}r, {out}l)"],
        }[step]  # fmt: skip
        tensors.append(out)
    return "\n".join(lines), tensors[-1]


@given(bodies())
@settings(max_examples=60)
def test_every_q_and_dq_has_one_account(body):
    lines, last = body
    model = draw(lines, f"float[N,32,8,8] {last}")
    made = lint(model)
    names = [n.name for n in model.graph.nodes if n.op in ("QuantizeLinear", "DequantizeLinear")]
    assert [a.name for a in made.accounts] == names
    for account in made.accounts:
        assert account.verdict in VERDICTS
        assert account.detail
        assert bool(account.kernels) == (account.verdict == FUSED)
        assert bool(account.cause) == (account.verdict == ALONE)
    told = made.counts
    assert sum(told[v] for v in VERDICTS) == told["q"] + told["dq"] == len(names)
    assert lint(model).to_json() == made.to_json()
    for finding in made.findings:
        assert "\n" not in finding.line()
