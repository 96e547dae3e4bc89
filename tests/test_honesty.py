"""What makes figures mean less than they seem to is noticed; what is right is left alone."""

from __future__ import annotations

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import SHARED, conv_net, needs_shared, parse, run
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from graphopt.data import Dataset, Preprocess, open_data, synthetic
from graphopt.honesty import check_answers, check_apart, check_repeated, check_scale, overlap
from graphopt.honesty.answers import look
from graphopt.honesty.inputs import scales
from graphopt.honesty.overlap import repeated, shared
from graphopt.model import Feeds, Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.simplify import Simplify
from graphopt.verify import opened

CIFAR = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
RAW = Preprocess(scale=1.0)
IMAGE = {"image": (np.dtype("f4"), ("N", 3, 8, 8))}


def arrays(path: Path, values: np.ndarray, labels: np.ndarray | None = None) -> Dataset:
    np.savez(path, image=values.astype("f4"), **({} if labels is None else {"labels": labels}))
    return open_data(str(path), {"image": (np.dtype("f4"), ("N", *values.shape[1:]))})


def images(folder: Path, count: int, *, seed: int = 0, classes: int = 2) -> Path:
    rng = np.random.default_rng(seed)
    for index in range(count):
        place = folder / f"class{index % classes}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


# Samples in both sets.


def test_images_in_both_folders_are_counted(tmp_path: Path) -> None:
    images(tmp_path / "a", 12)
    images(tmp_path / "b", 10, seed=1)
    (tmp_path / "b" / "class1" / "again").mkdir()
    shutil.copy(tmp_path / "a" / "class0" / "4.png", tmp_path / "b" / "class1" / "copied.png")
    shutil.copy(tmp_path / "a" / "class1" / "5.png", tmp_path / "b" / "class1" / "again" / "x.png")
    a, b = (open_data(str(tmp_path / n), IMAGE, preprocess=RAW) for n in "ab")
    assert overlap(a, b) == 2
    assert overlap(b, a) == 2
    found = shared(a, b)
    assert (found.of, found.example) == (12, "class1/again/x.png")
    (line,) = check_apart(a, b)
    assert "2 of 12 evaluation samples (16.7 %)" in line
    assert "class1/again/x.png" in line


def test_sets_apart_and_sets_that_are_one_are_not_told(tmp_path: Path) -> None:
    images(tmp_path / "a", 8)
    images(tmp_path / "b", 8, seed=1)
    a, b = (open_data(str(tmp_path / n), IMAGE, preprocess=RAW) for n in "ab")
    assert overlap(a, b) == 0
    assert check_apart(a, b) == []
    assert check_apart(a, a) == []
    assert overlap(a, a) == 8


def test_an_image_and_the_array_it_becomes_are_the_same(tmp_path: Path) -> None:
    folder = open_data(str(images(tmp_path / "a", 6)), IMAGE, preprocess=CIFAR)
    fed = np.concatenate([feeds["image"] for feeds in folder.batches(4)])
    stored = arrays(tmp_path / "x.npz", np.concatenate([fed[:2], fed[:2] + 1]))
    assert overlap(folder, stored) == 2
    assert overlap(stored, folder) == 2
    # The same picture under another preprocessing is fed as something else.
    other = replace(folder, source=replace(folder.source, preprocess=RAW))
    assert overlap(stored, other) == 0


def test_labels_and_order_do_not_matter(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 3, 8, 8))
    a = arrays(tmp_path / "a.npz", values, np.zeros(9, "i8"))
    b = arrays(tmp_path / "b.npz", values[::-1][:5], np.ones(5, "i8"))
    assert overlap(a, b) == 5
    assert [line for line in check_apart(a, b) if "5 of 5" in line]


def test_the_same_sample_twice_in_the_calibration_set(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 3, 8, 8))
    data = arrays(tmp_path / "a.npz", np.concatenate([values, values[:2], values[:1]]))
    assert repeated(data).count == 3
    (line,) = check_repeated(data)
    assert "3 of 9 calibration samples" in line
    assert "6 different ones" in line
    assert check_repeated(arrays(tmp_path / "b.npz", values)) == []


def test_a_function_is_compared_too(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    for i in range(5):\n"
        "        yield {'image': np.full((3, 8, 8), i, np.float32)}\n"
    )
    made = open_data(f"{tmp_path / 'f.py'}:samples", IMAGE)
    values = np.stack([np.full((3, 8, 8), i) for i in (3, 4, 5)])
    assert overlap(made, arrays(tmp_path / "a.npz", values)) == 2


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(400, 3, 32, 32)).astype("f4")
    np.save(tmp_path / "a.npy", values)
    inputs = {"image": (np.dtype("f4"), ("N", 3, 32, 32))}
    data = open_data(str(tmp_path / "a.npy"), inputs)
    tracemalloc.start()
    try:
        assert overlap(data, data) == 400
        assert tracemalloc.get_traced_memory()[1] < values.nbytes / 8
    finally:
        tracemalloc.stop()


def test_made_up_data_are_not_judged() -> None:
    data = synthetic(IMAGE, 20)
    model = conv_net()
    made = synthetic(model.inputs(), 20)
    assert check_apart(data, data) == check_repeated(data) == []
    assert check_scale(model, made) == []
    assert check_answers(lambda _: {}, made) == []


# The scale of the data.


def net(*, norm: bool, scale: float = 1.0, seed: int = 0) -> Model:
    """Make Conv, BatchNormalization (or what folding makes of it), Relu, pool, Gemm.

    It is trained, as it were, on normal data times ``scale``.
    """
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(16, 3, 3, 3)) / np.sqrt(27)
    mean = rng.normal(size=16) * 0.3 * scale
    variance = scale**2 * rng.uniform(0.5, 1.5, 16)
    gamma, beta = rng.uniform(0.5, 1.5, 16), rng.normal(size=16) * 0.5
    values = {"w": weight, "g": gamma, "b": beta, "m": mean, "v": variance}
    if not norm:
        by = gamma / np.sqrt(variance)
        values = {"w": weight * by[:, None, None, None], "b": beta - mean * by}
    values["fc"] = rng.normal(size=(16, 4))
    node = helper.make_node
    first = (
        [node("Conv", ["image", "w"], ["c"], "conv", pads=[1] * 4),
         node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], "norm")]
        if norm else [node("Conv", ["image", "w", "b"], ["n"], "conv", pads=[1] * 4)]
    )  # fmt: skip
    rest = [
        node("Relu", ["n"], ["r"], "relu"),
        node("GlobalAveragePool", ["r"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flatten"),
        node("Gemm", ["f", "fc"], ["scores"], "gemm"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*first, *rest],
        "net",
        [info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [info("scores", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(v.astype("f4"), n) for n, v in values.items()],
    )
    return Model.from_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


def pixels(count: int = 24) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, 3, 8, 8)).astype("f4")


@pytest.mark.parametrize("norm", [True, False])
def test_pixels_into_a_normalized_model_and_the_reverse(tmp_path: Path, norm: bool) -> None:
    normal = arrays(tmp_path / "n.npz", (pixels() / 255 - 0.5) / 0.29)
    raw = arrays(tmp_path / "r.npz", pixels())
    small = arrays(tmp_path / "s.npz", pixels() / 255)
    assert check_scale(net(norm=norm), normal) == []
    (line,) = check_scale(net(norm=norm), raw)
    assert "raw pixels" in line
    assert "'norm'" in line if norm else "'conv'" in line
    wide = net(norm=norm, scale=120.0)
    assert check_scale(wide, raw) == []
    (line,) = check_scale(wide, small)
    assert "scale = 1" in line
    if norm:  # with the statistics of training at hand, less is told too
        assert check_scale(net(norm=True), arrays(tmp_path / "h.npz", pixels() / 255)) != []


def test_folding_changes_the_test_and_not_the_outcome(tmp_path: Path) -> None:
    model = net(norm=True)
    folded = FoldBatchNorm()(model).model
    for data in (
        arrays(tmp_path / "n.npz", pixels() / 128 - 1),
        arrays(tmp_path / "r.npz", pixels()),
    ):
        given, after = scales(model, data), scales(folded, data)
        assert [s.trained for s in (*given, *after)] == [True, False]
        assert bool(check_scale(model, data)) == bool(check_scale(folded, data))


def test_black_images_are_not_taken_for_a_wrong_scale(tmp_path: Path) -> None:
    (line,) = check_scale(net(norm=False), arrays(tmp_path / "z.npz", 0 * pixels()))
    assert "every input is the same" in line
    assert "scale = 1" not in line


def test_large_answers_to_odd_data_are_no_alarm(tmp_path: Path) -> None:
    """Weights without normalization may have any size: only data that look wrong are told."""
    model = net(norm=False)
    values = np.random.default_rng(0).normal(size=(16, 3, 8, 8))
    assert scales(model, arrays(tmp_path / "x.npz", 60 * values))[0].ratio > 16
    assert check_scale(model, arrays(tmp_path / "x.npz", 60 * values)) == []


@pytest.mark.parametrize(
    "text",
    [
        "net (float[N, 3, 8, 8] image) => (float[N, 3, 8, 8] y) { y = Relu (image) }",
        """net (float[N, 3] image) => (float[N, 3] y)
           <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] b = {0, 0, 0}>
           { y = Gemm (image, w, b) }""",
        """net (float[N, 3] image, float[3] b) => (float[N, 3] y)
           <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { y = Gemm (image, w, b) }""",
    ],
)
def test_models_that_do_not_tell(tmp_path: Path, text: str) -> None:
    model = parse(text)
    shape = model.inputs()["image"][1][1:]
    values = {"image": np.full((20, *shape), 200.0, "f4")}
    if "b" in model.inputs():
        values["b"] = np.ones((20, 3), "f4")
        pytest.importorskip("onnx")
        model.graph.inputs[1].shape = ["N", 3]
    np.savez(tmp_path / "x.npz", **values)
    assert check_scale(model, open_data(str(tmp_path / "x.npz"), model.inputs())) == []


def test_a_norm_on_the_input_itself_and_behind_a_body(tmp_path: Path) -> None:
    model = parse(
        """net (float[N, 3, 8, 8] image) => (float[N, 3, 8, 8] y)
        <float[3] g = {1, 1, 1}, float[3] b = {0, 0, 0}, float[3] m = {0, 0, 0},
         float[3] v = {1, 1, 1}>
        { n = BatchNormalization (image, g, b, m, v) y = Relu (n) }"""
    )
    assert check_scale(model, arrays(tmp_path / "a.npz", np.random.default_rng(0).normal(
        size=(16, 3, 8, 8)))) == []  # fmt: skip
    assert check_scale(model, arrays(tmp_path / "b.npz", pixels())) != []


def test_the_model_is_not_changed(tmp_path: Path) -> None:
    model = net(norm=True)
    before = model.to_onnx().SerializeToString(deterministic=True)
    check_scale(model, arrays(tmp_path / "r.npz", pixels()))
    assert model.to_onnx().SerializeToString(deterministic=True) == before


# What the model answers.


def answers(scores: np.ndarray, labels: np.ndarray | None, path: Path) -> list[str]:
    """Check a model that gives these scores, one row a sample."""
    values = np.arange(len(scores), dtype="f4").reshape(-1, 1)
    np.savez(path, image=values, **({} if labels is None else {"labels": labels}))
    data = open_data(str(path), {"image": (np.dtype("f4"), ("N", 1))})

    def model(feeds: Feeds) -> dict[str, np.ndarray]:
        return {"scores": scores[feeds["image"][:, 0].astype(int)]}

    return check_answers(model, data, samples=1000)


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    noise = np.random.default_rng(9).normal(size=(len(classes), count)) * 0.1
    return (np.eye(count)[classes] + noise).astype("f4")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_right_answers_are_no_alarm_and_guesses_are(
    tmp_path: Path, classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 64)
    good = np.where(rng.random(64) < 0.85, labels, rng.integers(0, classes, 64))
    assert answers(one_hot(good, classes), labels, tmp_path / "a.npz") == []
    (line,) = answers(one_hot(rng.integers(0, classes, 64), classes), labels, tmp_path / "b.npz")
    assert "labels or --preprocess do not fit" in line


def test_labels_in_another_order_are_told_as_such(tmp_path: Path) -> None:
    labels = np.arange(60) % 6
    renamed = np.array([1, 2, 3, 4, 5, 0])[labels]
    (line,) = answers(one_hot(renamed, 6), labels, tmp_path / "a.npz")
    assert "in another order" in line
    few = np.array([0, 217, 482, 491, 497, 566])[labels]  # a cut of a model of 1,000 classes
    (line,) = answers(one_hot(few, 1000), labels, tmp_path / "b.npz")
    assert "in another order" in line


def test_one_class_for_all(tmp_path: Path) -> None:
    labels = np.arange(40) % 4
    (line,) = answers(one_hot(np.full(40, 2), 4), labels, tmp_path / "a.npz")
    assert "class 2 to each of 40 samples" in line
    assert "4 classes" in line
    assert len(answers(one_hot(np.full(40, 2), 4), None, tmp_path / "b.npz")) == 1
    # All of one class, and said to be: nothing is wrong.
    assert answers(one_hot(np.full(40, 2), 4), np.full(40, 2), tmp_path / "c.npz") == []
    # Few samples tell nothing.
    assert answers(one_hot(np.full(8, 2), 4), labels[:8], tmp_path / "d.npz") == []


def test_the_same_answer_to_all_and_nan(tmp_path: Path) -> None:
    (line,) = answers(np.tile(np.float32([1, 2, 3]), (20, 1)), None, tmp_path / "a.npz")
    assert "the same to every sample" in line
    scores = one_hot(np.arange(20) % 3, 3)
    scores[4, 1] = np.nan
    told = answers(scores, np.arange(20) % 3, tmp_path / "b.npz")
    assert len(told) == 1
    assert "NaN" in told[0]


def test_an_output_that_never_changes_beside_one_that_does(tmp_path: Path) -> None:
    """The anchors of a detector."""
    data = arrays(tmp_path / "a.npz", np.random.default_rng(0).normal(size=(20, 3, 8, 8)))
    anchors = np.ones((1, 100, 4), "f4")

    def model(feeds: Feeds) -> dict[str, np.ndarray]:
        return {"anchors": anchors, "boxes": feeds["image"]}

    assert check_answers(model, data) == []
    found = look(model, data)
    assert (found.output, found.classes, found.labels) == ("", (), None)
    assert check_answers(lambda f: {"y": 0 * f["image"]}, data) != []


# On real models.

RIGHT = {
    "resnet20_cifar10": ("cifar10/test", CIFAR),
    "resnet56_cifar10": ("cifar10/test", CIFAR),
    "face_rfb320": ("faces", Preprocess(scale=1.0, mean=(127.0,), std=(128.0,))),
    "face_yunet_n": ("faces", Preprocess(scale=1.0, color="bgr", size=(256, 320))),
}
WRONG = {
    **{name: (RIGHT[name][0], RAW) for name in list(RIGHT)[:3]},
    "face_yunet_n": ("faces", Preprocess(color="bgr", size=(256, 320))),
}


def real(name: str, how: dict[str, tuple[str, Preprocess]]) -> tuple[Path, Model, Dataset]:
    path = SHARED / "models" / f"{name}.onnx"
    model = Model.load(path)
    folder, preprocess = how[name]
    data = open_data(str(SHARED / folder), model.inputs(), preprocess=preprocess)
    return path, model, data


@needs_shared
@pytest.mark.parametrize("name", RIGHT)
def test_the_right_preprocessing_raises_no_alarm(name: str) -> None:
    path, model, data = real(name, RIGHT)
    with opened(path) as runner:
        assert check_answers(runner, data) == []
    assert check_scale(model, data) == []
    assert check_scale(FoldBatchNorm()(Simplify()(model).model).model, data) == []


@needs_shared
@pytest.mark.parametrize("name", RIGHT)
def test_the_wrong_scale_does(name: str) -> None:
    path, model, data = real(name, WRONG)
    (line,) = check_scale(model, data)
    assert ("scale = 1" in line) == (name == "face_yunet_n")
    assert check_scale(FoldBatchNorm()(Simplify()(model).model).model, data) != []
    if data.labels is not None and "cifar" in name:
        with opened(path) as runner:
            assert check_answers(runner, data) != []


@needs_shared
def test_the_shared_sets_are_apart() -> None:
    _, model, data = real("resnet20_cifar10", RIGHT)
    calibration = open_data(str(SHARED / "cifar10" / "calib"), model.inputs(), preprocess=CIFAR)
    assert check_apart(calibration, data) == []
    assert check_repeated(calibration) == []


def test_helpers_build_valid_models() -> None:
    for norm in (True, False):
        onnx.checker.check_model(net(norm=norm).to_onnx())
    (scores,) = run(net(norm=True), {"image": pixels(2)})
    assert scores.shape == (2, 4)
