"""Models of well-known shapes with random weights, for benchmarks: time and memory, not accuracy.

``python tools/shapes.py resnet18.onnx`` writes one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8


@dataclass
class _Builder:
    """Appends nodes and He-initialized weights."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def weight(self, name: str, shape: tuple[int, ...], std: float) -> str:
        value = self.rng.normal(0.0, std, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        output = f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def conv(
        self, x: str, name: str, channels: tuple[int, int], kernel: int, stride: int, gain: float
    ) -> str:
        """Conv with bias, as BatchNorm folded into it leaves behind."""
        cin, cout = channels
        std = gain * (2.0 / (cin * kernel * kernel)) ** 0.5
        weight = self.weight(f"{name}_weight", (cout, cin, kernel, kernel), std)
        bias = self.weight(f"{name}_bias", (cout,), 0.1)
        return self.node(
            "Conv",
            [x, weight, bias],
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )

    def relu(self, x: str, name: str) -> str:
        return self.node("Relu", [x], name)

    def basic_block(self, x: str, name: str, channels: tuple[int, int], stride: int) -> str:
        """He et al. 2016, figure 5 left, with a projection where the shape changes."""
        cin, cout = channels
        y = self.relu(self.conv(x, f"{name}_conv1", (cin, cout), 3, stride, 1.0), f"{name}_relu1")
        # The residual branch adds less than it carries, so that the scale stays put with depth.
        y = self.conv(y, f"{name}_conv2", (cout, cout), 3, 1, 0.5)
        if stride != 1 or cin != cout:
            x = self.conv(x, f"{name}_downsample", (cin, cout), 1, stride, 0.7)
        return self.relu(self.node("Add", [y, x], f"{name}_add"), f"{name}_relu2")

    def bottleneck(self, x: str, name: str, widths: tuple[int, int], stride: int) -> str:
        """He et al. 2016, figure 5 right, the stride in the 3x3 (ResNet v1.5)."""
        cin, width = widths
        cout = 4 * width
        y = self.relu(self.conv(x, f"{name}_conv1", (cin, width), 1, 1, 1.0), f"{name}_relu1")
        y = self.relu(
            self.conv(y, f"{name}_conv2", (width, width), 3, stride, 1.0), f"{name}_relu2"
        )
        y = self.conv(y, f"{name}_conv3", (width, cout), 1, 1, 0.5)
        if stride != 1 or cin != cout:
            x = self.conv(x, f"{name}_downsample", (cin, cout), 1, stride, 0.7)
        return self.relu(self.node("Add", [y, x], f"{name}_add"), f"{name}_relu3")

    def stem(self) -> str:
        """The first convolution and pool of the ResNets for ImageNet."""
        x = self.relu(self.conv("input", "stem", (3, 64), 7, 2, 1.0), "stem_relu")
        return self.node(
            "MaxPool", [x], "stem_pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        )

    def classifier(
        self, x: str, channels: int, name: str, size: int, batch: int | str
    ) -> onnx.ModelProto:
        """Average, a Gemm to 1000 classes; return the checked model."""
        x = self.node("GlobalAveragePool", [x], "pool")
        x = self.node("Flatten", [x], "flatten", axis=1)
        weight = self.weight("fc_weight", (1000, channels), channels**-0.5)
        bias = self.weight("fc_bias", (1000,), 0.1)
        gemm = helper.make_node("Gemm", [x, weight, bias], ["logits"], name="fc", transB=1)
        self.nodes.append(gemm)
        info = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 1000])
        return self.model(name, size, batch, [info])

    def relu6(self, x: str, name: str) -> str:
        """The activation of MobileNet."""
        if not any(weight.name == "zero" for weight in self.weights):
            for bound, value in (("zero", 0.0), ("six", 6.0)):
                self.weights.append(numpy_helper.from_array(np.array(value, np.float32), bound))
        return self.node("Clip", [x, "zero", "six"], name)

    def separable(self, x: str, name: str, channels: tuple[int, int], stride: int) -> str:
        """Howard et al. 2017, figure 3 right: a depthwise convolution, and one of 1x1."""
        cin = channels[0]
        weight = self.weight(f"{name}_depthwise_weight", (cin, 1, 3, 3), (2 / 9) ** 0.5)
        bias = self.weight(f"{name}_depthwise_bias", (cin,), 0.1)
        x = self.node(
            "Conv",
            [x, weight, bias],
            f"{name}_depthwise",
            kernel_shape=[3, 3],
            strides=[stride, stride],
            pads=[1, 1, 1, 1],
            group=cin,
        )
        x = self.relu6(x, f"{name}_relu1")
        return self.relu6(self.conv(x, f"{name}_pointwise", channels, 1, 1, 1.0), f"{name}_relu2")

    def model(
        self, name: str, size: int, batch: int | str, outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Return the checked model of one image input."""
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])
        graph = helper.make_graph(self.nodes, name, [given], outputs, self.weights)
        model = helper.make_model(
            graph,
            producer_name="graphopt-tools",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def resnet18(seed: int = 0, size: int = 224, batch: int | str = "N") -> onnx.ModelProto:
    """Return a ResNet-18 (He et al. 2016) with BatchNorm folded and random weights, opset 17.

    Args:
        seed: of the weights; the same seed gives the same bytes.
        size: height and width of the input, a multiple of 32.
        batch: size or name of the batch dimension.

    Returns:
        A checked model: ``input`` float32 [batch, 3, size, size] -> ``logits`` [batch, 1000].
    """
    net = _Builder(np.random.default_rng(seed))
    x = net.stem()
    cin = 64
    for stage, cout in enumerate((64, 128, 256, 512), start=1):
        for block in (1, 2):
            stride = 2 if stage > 1 and block == 1 else 1
            x = net.basic_block(x, f"layer{stage}_{block}", (cin, cout), stride)
            cin = cout
    return net.classifier(x, cin, "resnet18", size, batch)


def resnet50(seed: int = 0, size: int = 224, batch: int | str = "N") -> onnx.ModelProto:
    """Return a ResNet-50 with BatchNorm folded and random weights, as :func:`resnet18`."""
    net = _Builder(np.random.default_rng(seed))
    x = net.stem()
    cin = 64
    for stage, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(1, depth + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = net.bottleneck(x, f"layer{stage}_{block}", (cin, width), stride)
            cin = 4 * width
    return net.classifier(x, cin, "resnet50", size, batch)


def ssd_mobilenet(seed: int = 0, size: int = 300, batch: int | str = "N") -> onnx.ModelProto:
    """Return an SSD on MobileNet v1 (Howard et al. 2017; MLPerf's 91 classes), random weights.

    Boxes and scores of all anchors, without the non-maximum suppression behind them.

    Args:
        seed: of the weights; the same seed gives the same bytes.
        size: height and width of the input.
        batch: size or name of the batch dimension.

    Returns:
        A checked model: ``input`` float32 [batch, 3, size, size] -> ``boxes`` [batch, A, 4] and
        ``scores`` [batch, A, 91].
    """
    net = _Builder(np.random.default_rng(seed))
    x = net.relu6(net.conv("input", "conv0", (3, 32), 3, 2, 1.0), "conv0_relu")
    cin, maps = 32, []
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for number, cout in enumerate(widths, start=1):
        x = net.separable(x, f"conv{number}", (cin, cout), 2 if number in (2, 4, 6, 12) else 1)
        cin = cout
        if number in (11, 13):
            maps.append((x, cout))
    for number, cout in enumerate((512, 256, 256, 128), start=14):
        x = net.relu6(net.conv(x, f"conv{number}_1", (cin, cout // 2), 1, 1, 1.0), f"r{number}_1")
        x = net.relu6(net.conv(x, f"conv{number}_2", (cout // 2, cout), 3, 2, 1.0), f"r{number}_2")
        cin = cout
        maps.append((x, cout))
    found: dict[str, list[str]] = {"boxes": [], "scores": []}
    for level, (feature, width) in enumerate(maps):
        anchors = 3 if level == 0 else 6
        for what, values in (("boxes", 4), ("scores", 91)):
            name = f"{what}{level}"
            y = net.conv(feature, name, (width, anchors * values), 1, 1, 0.5)
            y = net.node("Transpose", [y], f"{name}_nhwc", perm=[0, 2, 3, 1])
            shape = numpy_helper.from_array(np.array([0, -1, values], np.int64), f"{name}_shape")
            net.weights.append(shape)
            found[what].append(net.node("Reshape", [y, shape.name], f"{name}_rows"))
    for what, rows in found.items():
        net.nodes.append(helper.make_node("Concat", rows, [what], name=what, axis=1))
    info = helper.make_tensor_value_info
    outputs = [
        info(w, TensorProto.FLOAT, [batch, None, v]) for w, v in (("boxes", 4), ("scores", 91))
    ]
    return net.model("ssd_mobilenet", size, batch, outputs)


SHAPES = {"resnet18": resnet18, "resnet50": resnet50, "ssd_mobilenet": ssd_mobilenet}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", help="where to write the model")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", default="N", help="a number, or a name for a dynamic batch")
    arguments = parser.parse_args()
    batch = int(arguments.batch) if arguments.batch.isdigit() else arguments.batch
    made = SHAPES[arguments.shape](arguments.seed, arguments.size, batch)
    onnx.save(made, arguments.output)


if __name__ == "__main__":
    main()
