"""Layers after layers of a pruned model: what can be won back is, and nothing gets worse."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import conv_net, image_samples, run, sqnr
from recovery_nets import Net, batched, halved

from graphopt.channels import analyze, make_plan
from graphopt.channels.apply import apply_plan, survivors
from graphopt.model import Model
from graphopt.recovery import RECOVERIES, dual, recover
from graphopt.recovery.least_squares import least_squares
from graphopt.recovery.targets import Kept, targets
from graphopt.statistics import gram

NETS = {
    "Conv": Net(
        """g (float[N,4,H,W] x, float[12,4,3,3] w, float[12] b, float[5,12,3,3] v, float[5] c)
        => (float[N,5,A,B] y) { h = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(h)
        [last] y = Conv(r, v, c) }""",
        {"w": (0, 1), "b": (0, 1)},
        12,
        ("last",),
    ),
    "no bias yet": Net(
        """g (float[N,4,H,W] x, float[12,4,3,3] w, float[5,12,3,3] v)
        => (float[N,5,A,B] y) { h = Conv(x, w) [last] y = Conv<strides=[2,2]>(h, v) }""",
        {"w": (0, 1)},
        12,
        ("last",),
    ),
    "depthwise": Net(
        """g (float[N,4,H,W] x, float[12,4,1,1] w, float[12,1,3,3] d, float[5,12,1,1] v)
        => (float[N,5,A,B] y) { h = Conv(x, w) r = Relu(h)
        [depth] s = Conv<group=12>(r, d) [last] y = Conv(s, v) }""",
        {"w": (0, 1), "d": (0, 1)},
        12,
        ("depth", "last"),
    ),
    "groups": Net(
        """g (float[N,4,H,W] x, float[12,4,1,1] w, float[6,6,3,3] v, float[6] c)
        => (float[N,6,A,B] y) { h = Conv(x, w) r = Relu(h) [last] y = Conv<group=2>(r, v, c) }""",
        {"w": (0, 2)},
        6,
        ("last",),
    ),
    "ConvTranspose": Net(
        """g (float[N,4,H,W] x, float[12,4,1,1] w, float[12,3,3,3] v, float[3] c)
        => (float[N,3,A,B] y) { h = Conv(x, w) r = Relu(h)
        [last] y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(r, v, c) }""",
        {"w": (0, 1)},
        12,
        ("last",),
    ),
    "Gemm": Net(
        """g (float[N,9] x, float[12,9] w, float[12] b, float[12,5] v)
        => (float[N,5] y) { h = Gemm<transB=1>(x, w, b) r = Relu(h)
        [last] y = Gemm<alpha=0.5>(r, v) }""",
        {"w": (0, 1), "b": (0, 1)},
        12,
        ("last",),
        (9,),
    ),
    "MatMul": Net(
        """g (float[N,L,4] x, float[4,12] w, float[12,5] v)
        => (float[N,L,5] y) { h = MatMul(x, w) r = Relu(h) [last] y = MatMul(r, v) }""",
        {"w": (1, 1)},
        12,
        ("last",),
        (6, 4),
    ),
    "MatMul and Add": Net(
        """g (float[N,L,4] x, float[4,12] w, float[12] b, float[12,5] v, float[5] c)
        => (float[N,L,5] y) { m = MatMul(x, w) h = Add(b, m) r = Relu(h)
        [last] n = MatMul(r, v) y = Add(n, c) }""",
        {"w": (1, 1), "b": (0, 1)},
        12,
        ("last",),
        (6, 4),
    ),
    "Concat": Net(
        """g (float[N,4,H,W] x, float[12,4,1,1] w, float[12,4,1,1] u, float[5,28,3,3] v)
        => (float[N,5,A,B] y) { h = Conv(x, w) r = Relu(h) i = Conv(x, u)
        a = Concat<axis=1>(x, r, i) [last] y = Conv(a, v) }""",
        {"w": (0, 1), "u": (0, 1)},
        12,
        ("last",),
    ),
    "Add": Net(
        """g (float[N,4,H,W] x, float[12,4,1,1] w, float[7,12,3,3] m, float[12,7,3,3] n,
        float[5,12,1,1] v) => (float[N,5,H,W] y) { s = Conv(x, w)
        [inner] h = Conv<pads=[1,1,1,1]>(s, m) r = Relu(h)
        [outer] b = Conv<pads=[1,1,1,1]>(r, n) a = Add(b, s) q = Relu(a)
        [last] y = Conv(q, v) }""",
        {"w": (0, 1), "n": (0, 1)},
        12,
        ("inner", "outer", "last"),
    ),
    "several readers": Net(
        """g (float[N,4,H,W] x, float[12,4,1,1] w, float[5,12,3,3] v, float[3,12,1,1] u)
        => (float[N,5,A,B] y, float[N,3,H,W] z) { h = Conv(x, w) r = Relu(h)
        [one] y = Conv(r, v) [two] z = Conv(r, u) }""",
        {"w": (0, 1)},
        12,
        ("one", "two"),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_what_can_be_won_back_is(name: str) -> None:
    net = NETS[name]
    original = net.model()
    digest = original.digest()
    cut, kept = halved(original, net.width)
    unseen = {"x": net.samples(16, seed=7)}
    wanted = run(original, unseen)
    before = [sqnr(a, b) for a, b in zip(wanted, run(cut, unseen), strict=True)]
    found = recover(original, cut, kept, batched(net.samples(64, seed=1), 16), least_squares)
    after = [sqnr(a, b) for a, b in zip(wanted, run(cut, unseen), strict=True)]
    assert tuple(s.node for s in found) == net.solved
    assert max(before) < 20
    assert min(after) > 60, (before, after, found)
    assert original.digest() == digest
    Model.from_onnx(cut.to_onnx())


@pytest.mark.parametrize("name", ["Conv", "groups", "Add", "MatMul and Add"])
def test_layers_of_many_features_are_won_back_in_the_dual(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gram, "MOST_FEATURES", 5)
    monkeypatch.setattr(dual, "DUAL_ROWS", 700)
    monkeypatch.setattr(dual, "RIDGES", (1e-6, 1e-3))
    net = NETS[name]
    original = net.model()
    cut, kept = halved(original, net.width)
    unseen = {"x": net.samples(16, seed=7)}
    wanted = run(original, unseen)
    batches = batched(net.samples(64, seed=1), 16)
    found = recover(original, cut, kept, batches, least_squares)
    rows = [int(s.note.split(" on ")[1].split()[0]) for s in found]
    assert all(300 < n <= 700 for n in rows)
    after = [sqnr(a, b) for a, b in zip(wanted, run(cut, unseen), strict=True)]
    assert min(after) > 50, (after, found)


def pruned(model: Model, ratio: float, seed: int = 0) -> tuple[Model, Kept]:
    analysis = analyze(model)
    rng = np.random.default_rng(seed)
    scores = {g.name: rng.random(g.width) for g in analysis.groups}
    plan = make_plan(analysis, scores, ratio, align=1, floor=1)
    cut = model.clone()
    apply_plan(cut, plan)
    return cut, survivors(analysis, plan)


def test_least_squares_beats_affine_beats_nothing() -> None:
    model = conv_net(16)
    unseen = {"image": image_samples(64, seed=9)}
    (wanted,) = run(model, unseen)
    reached = {}
    for name in ("none", "affine", "least-squares"):
        cut, kept = pruned(model, 0.4)
        if name != "none":
            recover(model, cut, kept, batched(image_samples(128), 32, "image"),
                    RECOVERIES.load(name))  # fmt: skip
        reached[name] = sqnr(wanted, run(cut, unseen)[0])
    assert reached["least-squares"] > reached["affine"] + 1 > reached["none"] + 2


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_few_samples_do_no_harm(count: int, seed: int) -> None:
    model = conv_net(16, seed=seed)
    cut, kept = pruned(model, 0.4, seed)
    unseen = {"image": image_samples(64, seed=9)}
    (wanted,) = run(model, unseen)
    before = sqnr(wanted, run(cut, unseen)[0])
    recover(model, cut, kept, batched(image_samples(count), 1, "image"), least_squares)
    assert sqnr(wanted, run(cut, unseen)[0]) > before


def test_noise_is_not_learned() -> None:
    """The original and the model see different samples: nothing can be told from the input."""
    model = NETS["MatMul"].model()
    cut, kept = halved(model, 12)
    digest = cut.digest()
    rng = np.random.default_rng(0)

    def batches() -> list[dict[str, np.ndarray]]:
        # So many features that any answer is worse than the old one; far from what fits.
        return [{"x": rng.normal(size=(1, 2, 4)).astype("f4")} for _ in range(4)]

    (told,) = recover(model, cut, kept, batches, least_squares)
    assert told.note.startswith("left as it is")
    assert cut.digest() == digest


@pytest.mark.parametrize("solver", ["least-squares", "affine"])
def test_two_runs_give_the_same_bytes(solver: str) -> None:
    model = conv_net(16)
    digests = set()
    for memory in (0, 0, 1 << 30):
        cut, kept = pruned(model, 0.4)
        recover(model, cut, kept, batched(image_samples(32), 8, "image"),
                RECOVERIES.load(solver), memory=memory)  # fmt: skip
        digests.add(cut.digest())
    assert len(digests) == 1


def test_nothing_pruned_nothing_done() -> None:
    model = conv_net(16)
    cut, kept = pruned(model, 0.0)
    assert targets(model, cut, kept) == []
    digest = cut.digest()
    asked: list[int] = []

    def batches() -> list[dict[str, np.ndarray]]:
        asked.append(1)
        return [{"image": image_samples(1)}]

    assert recover(model, cut, kept, batches, least_squares) == []
    assert not asked
    assert cut.digest() == digest


def test_weights_that_another_layer_shares_stay_shared() -> None:
    net = Net(
        """g (float[N,4,H,W] x, float[12,4,1,1] w, float[12,12,1,1] v, float[5,12,1,1] u)
        => (float[N,5,H,W] y) { a = Conv(x, w) [one] b = Conv(a, v) r = Relu(b)
        [two] c = Conv(r, v) [last] y = Conv(c, u) }""",
        {},
        12,
        (),
    )
    original = net.model()
    cut, kept = halved(original, 12)
    unseen = {"x": net.samples(16, seed=7)}
    (wanted,) = run(original, unseen)
    before, parameters = sqnr(wanted, run(cut, unseen)[0]), cut.parameters()
    found = recover(original, cut, kept, batched(net.samples(64, seed=1), 16), least_squares)
    assert [s.node for s in found] == ["last"]
    assert sqnr(wanted, run(cut, unseen)[0]) > before + 1
    assert cut.parameters() == parameters + 5  # the bias that "last" was given


def test_progress_and_temporary_files(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = conv_net(16)
    cut, kept = pruned(model, 0.4)
    told: list[int] = []
    batches = batched(image_samples(8), 4, "image")
    found = recover(model, cut, kept, batches, least_squares, memory=0, progress=told.append)
    assert told == [1] * len(found)
    assert len(found) == 3
    assert not list(tmp_path.glob("graphopt-*"))
    cut, kept = pruned(model, 0.4)

    def interrupted(_: object) -> None:
        assert list(tmp_path.glob("graphopt-*/*"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(model, cut, kept, batches, interrupted, memory=0)
    assert not list(tmp_path.glob("graphopt-*"))


def test_a_shortcut_that_is_broadcast() -> None:
    text = """g (float[N,4,H,W] x, float[12,4,1,1] w, float[6,12,1,1] v, float[6,4,1,1] u,
    float[5,6,1,1] q) => (float[N,5,H,W] y) {{ h = Conv(x, w) r = Relu(h)
    p = GlobalAveragePool(x) s = Conv(p, u)
    {nodes} [last] y = Conv(a, q) }}"""
    for nodes in (
        "[main] b = Conv(r, v) a = Add(b, s)",  # the shortcut is smaller
        "g1 = GlobalAveragePool(r) [main] b = Conv(g1, v) t = Conv(x, u) a = Add(t, b)",  # larger
    ):
        net = Net(text.format(nodes=nodes), {"w": (0, 1)}, 12, ("main", "last"))
        original = net.model()
        cut, kept = halved(original, 12)
        unseen = {"x": net.samples(16, seed=7)}
        (wanted,) = run(original, unseen)
        recover(original, cut, kept, batched(net.samples(64, seed=1), 16), least_squares)
        assert sqnr(wanted, run(cut, unseen)[0]) > 40
