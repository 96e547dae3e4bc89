"""Ranges of real activations: ResNet-20 on CIFAR-10 images."""

from __future__ import annotations

import numpy as np
from helpers import SHARED, needs_shared
from PIL import Image

from graphopt.calibrators.collect import collect
from graphopt.calibrators.entropy import Entropy
from graphopt.calibrators.percentile import Percentile
from graphopt.model import Model
from graphopt.runtime import open_session


def sqnr(values: np.ndarray, amax: float) -> float:
    """Signal to quantization noise of symmetric int8, in dB."""
    back = np.clip(np.rint(values / amax * 127), -127, 127) * (amax / 127)
    return float(10 * np.log10(np.square(values).sum() / np.square(values - back).sum()))


@needs_shared
def test_entropy_improves_every_tensor_of_resnet20() -> None:
    files = sorted((SHARED / "cifar10" / "calib").rglob("*.png"))[::10]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    model = Model.load(SHARED / "models" / "resnet20_cifar10.onnx")
    (given,) = model.inputs()
    names = list(
        dict.fromkeys(n.inputs[0].name for n in model.graph.nodes if n.op in ("Conv", "Gemm"))
    )
    found = collect(model, ({given: images[i : i + 16]} for i in range(0, 100, 16)), names)
    assert found.samples == len(files) == 100
    with open_session(model, extra_outputs=names[1:]) as session:
        values = dict(zip(names[1:], session.run(names[1:], {given: images}), strict=True))
    values[given] = images
    for name, histogram in found.histograms.items():
        whole = sqnr(values[name], histogram.largest)
        entropy = Entropy()(histogram)
        assert sqnr(values[name], entropy) > whole - 0.1
        assert sqnr(values[name], Percentile()(histogram)) > whole - 5
        assert entropy > 0.4 * histogram.largest
    # Another order and another split of the images.
    again = collect(model, ({given: images[i : i + 1]} for i in reversed(range(100))), names)
    assert dict(again.histograms) == dict(found.histograms)
