"""What several test files share: where things are, small models, comparisons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.model import Feeds, Model
from graphopt.runtime import open_session

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
DIGITS = ROOT / "examples" / "digits"

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real models and images (../shared/data) are not here"
)


def parse(text: str, ir_version: int = 8) -> Model:
    """Make a model from ONNX text: the part after the header."""
    head = (
        ""
        if text.lstrip().startswith("<")
        else f'<ir_version: {ir_version}, opset_import: ["" : 17]>'
    )
    return Model.from_onnx(onnx.parser.parse_model(f"{head}\n{text}"))


def command_line(*words: object) -> int:
    """Run ``graphopt WORDS`` in this process; return its exit code."""
    from graphopt.cli import main

    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return :func:`command_line` with what it printed and what it said on standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = command_line(*words)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def run(model: Model, feeds: Feeds, *, optimize: bool = False) -> list[np.ndarray]:
    """Run a model on ONNX Runtime."""
    with open_session(model, optimize=optimize) as session:
        return [np.asarray(a) for a in session.run(None, dict(feeds))]


def conv_net(channels: int = 32, *, batch: str = "N", seed: int = 0) -> Model:
    """Make a small residual CNN with constant weights: conv, relu, conv, add, pool, gemm."""
    rng = np.random.default_rng(seed)
    c = channels

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return onnx.numpy_helper.from_array((rng.normal(size=shape) * scale).astype("f4"), name)

    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["image", "w0", "b0"], ["c0"], "stem", pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r0"], ["a"], "add"),
        node("Relu", ["a"], ["r2"], "relu2"),
        node("GlobalAveragePool", ["r2"], ["g"], "pool"),
        node("Flatten", ["g"], ["f"], "flatten"),
        node("Gemm", ["f", "w3", "b3"], ["scores"], "fc", transB=1),
    ]
    weights = [
        weight("w0", c, 3, 3, 3), weight("b0", c),
        weight("w1", 2 * c, c, 3, 3), weight("b1", 2 * c),
        weight("w2", c, 2 * c, 3, 3), weight("b2", c),
        weight("w3", 10, c), weight("b3", 10),
    ]  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [info("image", onnx.TensorProto.FLOAT, [batch, 3, 16, 16])],
        [info("scores", onnx.TensorProto.FLOAT, [batch, 10])],
        weights,
    )
    opset = onnx.helper.make_opsetid("", 17)
    return Model.from_onnx(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8))


def image_samples(count: int, seed: int = 1) -> np.ndarray:
    """Make inputs for :func:`conv_net`."""
    return np.random.default_rng(seed).normal(size=(count, 3, 16, 16)).astype("f4")


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the ratio of signal to quantization noise, in dB."""
    signal = np.square(reference.astype(np.float64)).sum()
    noise = np.square(reference.astype(np.float64) - other).sum()
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def rtx_refuses(model: Model) -> str | None:
    """Return what the TensorRT-RTX parser says against a model, or None; skip without it."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if parser.parse(model.to_onnx().SerializeToString()):
        return None
    return "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
