"""Fidelity: figures against their definitions, batch-size independence, classes, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import DIGITS, SHARED, conv_net, image_samples, needs_shared, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.data import Dataset, open_data, synthetic
from graphopt.data.preprocess import load_preprocess
from graphopt.errors import DataError, UnsupportedModelError, UsageError
from graphopt.files import dump_json
from graphopt.model import Feeds, Model
from graphopt.verify import Fidelity, Runner, compare, compare_models, evaluate, opened

F32 = np.dtype(np.float32)


def dataset(folder: Path, x: np.ndarray, labels: list[int] | None = None) -> Dataset:
    """Write samples of one input ``x`` and open them."""
    extra = {} if labels is None else {"labels": np.array(labels)}
    np.savez(folder / "d.npz", x=x, **extra)
    return open_data(str(folder / "d.npz"), {"x": (F32, ("N", *x.shape[1:]))})


def table(**outputs: np.ndarray) -> Runner:
    """Return a model that gives row x[0] of each table to sample x."""

    def run(feeds: Feeds) -> dict[str, np.ndarray]:
        rows = feeds["x"][:, 0].astype(int)
        return {name: values[rows] for name, values in outputs.items()}

    return run


def numbered(folder: Path, count: int, labels: list[int] | None = None) -> Dataset:
    return dataset(folder, np.arange(count, dtype=np.float32)[:, None], labels)


def test_figures_are_what_they_are_defined_as(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a = {"p": rng.normal(size=(7, 3, 2)), "q": 5 * rng.normal(size=(7, 4))}
    b = {n: v + 0.1 * rng.normal(size=v.shape) for n, v in a.items()}
    got = compare(table(**a), table(**b), numbered(tmp_path, 7), batch=3)
    both = {n: (a[n].ravel(), b[n].ravel()) for n in a}
    both["total"] = tuple(np.concatenate(x) for x in zip(*both.values(), strict=True))  # type: ignore[assignment]
    for name, (x, y) in both.items():
        error = got.total if name == "total" else got.outputs[name]
        assert error.elements == x.size
        assert error.max_abs == np.abs(x - y).max()
        assert error.mean_abs == pytest.approx(np.abs(x - y).mean(), rel=1e-12)
        sqnr = 10 * np.log10((x @ x) / ((x - y) @ (x - y)))
        assert error.sqnr_db == pytest.approx(sqnr, rel=1e-12)
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert error.cosine == pytest.approx(cosine, rel=1e-12)
    assert (got.sqnr_db, got.cosine, got.max_abs) == (
        got.total.sqnr_db,
        got.total.cosine,
        got.total.max_abs,
    )
    assert got.samples == 7


@given(
    count=st.integers(1, 23),
    batch=st.integers(1, 30),
    scale=st.sampled_from([1e-20, 1.0, 1e15]),
    seed=st.integers(0, 100),
)
@settings(max_examples=40)
def test_the_batch_size_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a = {"s": scale * rng.normal(size=(count, 5)), "t": rng.normal(size=(count, 2, 3, 3))}
    b = {n: v * (1 + 1e-3 * rng.normal(size=v.shape)) for n, v in a.items()}
    labels = rng.integers(0, 5, count).tolist()
    data = numbered(tmp_path_factory.mktemp("d"), count, labels)
    one = compare(table(**a), table(**b), data, batch=1)
    many = compare(table(**a), table(**b), data, batch=batch)
    assert many.top1 == one.top1
    assert many == one  # to the last bit


def test_real_models_in_any_batch_size(tmp_path: Path) -> None:
    a, b = conv_net(seed=0), conv_net(seed=1)
    np.savez(tmp_path / "d.npz", image=image_samples(9))
    data = open_data(str(tmp_path / "d.npz"), a.inputs())
    seen: list[int] = []
    one = compare_models(a, b, data, batch=1)
    many = compare_models(a, b, data, batch=4, progress=seen.append)
    assert seen == [4, 4, 1]
    assert many.sqnr_db == pytest.approx(one.sqnr_db, rel=1e-5)
    assert one.cosine < 0.99  # they do differ
    same = compare_models(a, a.clone(), data, batch=4)
    assert same.total.identical
    assert same.sqnr_db == math.inf
    assert same.top1_agreement == 1


def test_models_are_opened_from_files_too(tmp_path: Path) -> None:
    model = conv_net()
    path = model.save(tmp_path / "m.onnx")
    data = synthetic(model.inputs(), 2)
    got = compare_models(path, model, data)
    assert got.total.identical
    assert got.synthetic
    assert "SYNTHETIC" in got.lines()[0]
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(UnsupportedModelError):
        compare_models(path, tmp_path / "bad.onnx", data)


def test_an_exact_match_is_null_in_json_and_said_so(tmp_path: Path) -> None:
    run = table(s=np.ones((3, 2)))
    value = compare(run, run, numbered(tmp_path, 3)).to_json()
    assert value["total"]["sqnr_db"] is None
    assert value["total"]["identical"] is True
    dump_json(value)
    zero = compare(table(s=np.zeros((3, 2))), run, numbered(tmp_path, 3))
    assert zero.sqnr_db == -math.inf
    assert zero.cosine == 0
    assert zero.to_json()["total"]["identical"] is False
    dump_json(zero.to_json())


def test_paired_counts(tmp_path: Path) -> None:
    labels = [0, 1, 2, 0, 1, 2]
    a = np.eye(3)[[0, 1, 2, 0, 0, 0]]  # right: the first four
    b = np.eye(3)[[0, 1, 0, 1, 1, 0]]  # right: 0, 1, 4
    got = compare(table(s=a), table(s=b), numbered(tmp_path, 6, labels), batch=4)
    assert got.top1 is not None
    top = got.top1
    assert (top.both, top.only_a, top.only_b, top.neither) == (2, 2, 1, 1)
    assert (top.right_a, top.right_b, top.agree, top.samples) == (4, 3, 3, 6)
    assert got.accuracy_a == 4 / 6
    assert got.accuracy_b == 3 / 6
    assert got.top1_agreement == 3 / 6
    assert got.drop_points() == pytest.approx(100 / 6)
    text = "\n".join(got.lines())
    assert "A 4/6 (66.67 %), B 3/6 (50.00 %); right in A only 2, in B only 1" in text
    assert got.to_json()["top1"]["accuracy"]["right_only_a"] == 2


def test_without_labels_the_drop_is_in_agreement(tmp_path: Path) -> None:
    a, b = np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 1, 2, 1]]
    got = compare(table(s=a), table(s=b), numbered(tmp_path, 4))
    assert got.accuracy_a is None
    assert got.accuracy_b is None
    assert got.drop_points() == 25
    assert "accuracy" not in got.to_json()["top1"]


@pytest.mark.parametrize(
    ("shape", "scores"),
    [((4, 3), True), ((4, 3, 1, 1), True), ((4, 1), False), ((4,), False), ((4, 3, 2), False)],
)
def test_which_output_is_taken_for_class_scores(
    tmp_path: Path, shape: tuple[int, ...], scores: bool
) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    got = compare(table(s=values), table(s=values), numbered(tmp_path, 4))
    assert (got.top1 is not None) is scores
    assert (got.drop_points() is not None) is scores
    first = compare(table(z=np.ones((4, 2, 2)), s=values), table(z=np.ones((4, 2, 2)), s=values),
                    numbered(tmp_path, 4))  # fmt: skip
    assert (first.top1.output if first.top1 else None) == ("s" if scores else None)


def test_a_label_that_is_no_class_is_refused(tmp_path: Path) -> None:
    run = table(s=np.eye(3)[[0, 1, 2]])
    with pytest.raises(DataError, match="label 3 is out of range: output 's' has 3 classes"):
        compare(run, run, numbered(tmp_path, 3, [0, 1, 3]))


def test_nan_is_counted_left_out_and_never_right(tmp_path: Path) -> None:
    a = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    b = a.copy()
    b[1, 0] = np.nan
    b[2, 1] = np.inf
    got = compare(table(s=a), table(s=b), numbered(tmp_path, 3, [1, 1, 1]), batch=2)
    error = got.outputs["s"]
    assert (error.nonfinite_a, error.nonfinite_b, error.mismatched) == (0, 2, 2)
    assert not error.identical
    assert error.max_abs == 0
    assert got.top1 is not None
    assert (got.top1.right_a, got.top1.right_b, got.top1.agree) == (3, 2, 2)
    assert "NaN or infinite: 0 in A, 2 in B" in got.lines()[1]
    dump_json(got.to_json())


def test_the_same_infinities_are_no_difference(tmp_path: Path) -> None:
    a = np.array([[1.0, -np.inf], [np.nan, 2.0]])
    got = compare(table(s=a), table(s=a.copy()), numbered(tmp_path, 2))
    assert got.total.identical
    assert (got.total.nonfinite_a, got.total.nonfinite_b) == (2, 2)
    both_nan = compare(table(s=a[1:]), table(s=a[1:]), numbered(tmp_path, 1))
    assert both_nan.top1 is not None
    assert both_nan.top1.agree == 0


def test_integer_and_boolean_outputs_are_compared(tmp_path: Path) -> None:
    a, b = np.array([[200, 3]], np.uint8), np.array([[100, 3]], np.uint8)
    assert compare(table(s=a), table(s=b), numbered(tmp_path, 1)).max_abs == 100
    yes, no = np.array([[True, True]]), np.array([[True, False]])
    assert compare(table(s=yes), table(s=no), numbered(tmp_path, 1)).mean_abs == 0.5


def test_outputs_without_a_batch_axis(tmp_path: Path) -> None:
    def run(value: float) -> Callable[[Feeds], dict[str, np.ndarray]]:
        return lambda feeds: {"s": np.array(value), "e": np.zeros((0, 4))}

    got = compare(run(2.0), run(1.0), numbered(tmp_path, 5), batch=2)
    assert got.outputs["s"].elements == 3  # once a batch
    assert got.outputs["s"].mean_abs == 1
    assert got.outputs["e"].elements == 0
    assert got.outputs["e"].identical


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        ({"s": np.ones((1, 2))}, {"t": np.ones((1, 2))}, "outputs differ: 's' is in A only"),
        ({"s": np.ones((1, 2))}, {"s": np.ones((1, 3))}, "'s' is 1x2 in A and 1x3 in B"),
        ({"s": np.array([["x"]])}, {"s": np.array([["x"]])}, "no array of numbers"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(
    tmp_path: Path, a: dict[str, np.ndarray], b: dict[str, np.ndarray], told: str
) -> None:
    with pytest.raises((UsageError, UnsupportedModelError), match=told) as caught:
        compare(table(**a), table(**b), numbered(tmp_path, 1))
    assert "\n" not in str(caught.value)


def test_a_sequence_of_unlike_arrays_is_refused(tmp_path: Path) -> None:
    def run(_: Feeds) -> dict[str, object]:
        return {"s": [np.ones(2), np.ones(3)]}

    with pytest.raises(UnsupportedModelError, match="'s' of A is no array of numbers"):
        compare(run, run, numbered(tmp_path, 1))  # type: ignore[arg-type]


def test_evaluate_counts_what_one_model_has_right(tmp_path: Path) -> None:
    run = table(s=np.eye(3)[[0, 1, 2, 0]])
    top = evaluate(run, numbered(tmp_path, 4, [0, 1, 2, 2]), batch=3)
    assert (top.right_a, top.samples) == (3, 4)
    with pytest.raises(DataError, match="no labels"):
        evaluate(run, numbered(tmp_path, 4))
    with pytest.raises(UsageError, match="class scores"):
        evaluate(table(s=np.ones((4, 1))), numbered(tmp_path, 4, [0, 0, 0, 0]))


def test_outputs_are_not_kept(tmp_path: Path) -> None:
    import tracemalloc

    data = numbered(tmp_path, 200)

    def run(feeds: Feeds) -> dict[str, np.ndarray]:
        return {"s": np.ones((len(feeds["x"]), 20_000), np.float32)}

    tracemalloc.start()
    compare(run, run, data, batch=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 20_000 * 4  # less than one model's outputs, kept


def test_the_sample_is_as_accurate_as_its_readme_says() -> None:
    model = Model.load(DIGITS / "model.onnx")
    pre = load_preprocess(str(DIGITS / "preprocess.toml"))
    data = open_data(str(DIGITS / "test"), model.inputs(), preprocess=pre)
    with opened(model) as run:
        top = evaluate(run, data, batch=50)
    assert top.samples == 500
    readme = (DIGITS / "README.md").read_text(encoding="utf-8")
    assert f"| none | {top.right_a} |" in readme
    assert dict(model.metadata.properties)["right"] == f"{top.right_a}/500"


@needs_shared
def test_resnet20_has_its_published_accuracy() -> None:
    model = Model.load(SHARED / "models" / "resnet20_cifar10.onnx")
    data = open_data(
        str(SHARED / "cifar10" / "test"), model.inputs(), preprocess=load_preprocess("cifar")
    )
    with opened(model) as run:
        top = evaluate(run, data, batch=32)
    assert (top.right_a, top.samples) == (854, 932)


def test_a_model_of_several_outputs_by_name_not_order(tmp_path: Path) -> None:
    head = "agraph (float[N, 3] x) => (float[N, 3] p, float[N, 3] q)"
    a = parse(f"{head} {{ p = Relu(x)\n q = Neg(x) }}")
    b = parse(
        "agraph (float[N, 3] x) => (float[N, 3] q, float[N, 3] p) { p = Relu(x)\n q = Neg(x) }"
    )
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("f4")
    got: Fidelity = compare_models(a, b, dataset(tmp_path, x))
    assert got.total.identical
    assert list(got.outputs) == ["p", "q"]
    assert "all outputs: identical" in got.lines()


def test_a_model_that_fails_while_running_is_told_in_one_line() -> None:
    model = parse(
        """agraph (float[N, M] x) => (float[N, K] y)
        <int64[2] s = {-1, 4}> { y = Reshape(x, s) }"""
    )
    data = synthetic(model.inputs(), 1, shapes={"x": (1, 3)})
    with pytest.raises(UnsupportedModelError, match="cannot run the model on x 1x3") as caught:
        compare_models(model, model, data)
    assert "\n" not in str(caught.value)
