"""Make ``examples/digits``: a small residual network trained on scikit-learn's digits, and images.

Needs torch and scikit-learn, which nothing else here does::

    pip install torch==2.13.0 scikit-learn onnx onnxscript pillow numpy
    python tools/make_sample.py

It takes one to three minutes on one core. With the same versions on the same kind of processor
the files come out byte for byte the same; another processor may round differently while training.

The network learns to live with fewer channels, as slimmable networks do (Yu et al., ICLR 2019):
in half of the training steps a random 0 to 40 % of the channels are masked in every group of
coupled channels, those of least norm. That keeps what matters out of the channels that such a
criterion removes first, so ``--prune 0.3`` costs little without any recovery. Trained without it
(``--plain``) the same network breaks: this sample shows the tool, it is no evidence for pruning
at large.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import sklearn
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

SEED = 20240607
SIZE = 40
MEAN, STD = 0.3, 0.35
WIDTHS = (32, 64, 128)
BLOCKS = (2, 2, 1)
CALIB, TEST = 200, 500
# (image side, epochs, BatchNorm statistics frozen): cheap small images first; frozen last, so that
# the weights settle on the very function that is exported, whole and with channels missing.
PHASES = ((20, 14, False), (SIZE, 4, False), (SIZE, 8, True))
BATCH = 32
RATE = 0.1
LARGEST_MASK = 0.4
# (order of the norm, whether the layers that read a channel count too).
Criterion = tuple[int, bool]
CRITERIA: tuple[Criterion, ...] = ((2, True), (1, True), (2, False), (1, False))
HERE = Path(__file__).resolve().parent.parent / "examples" / "digits"


class ConvNorm(nn.Module):
    """Convolution and BatchNorm, with a mask over the output channels while training."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H', W')."""
        x = self.norm(self.conv(x))
        return x if self.mask is None else x * self.mask[:, None, None]

    def folded(self) -> Tensor:
        """The weights with BatchNorm folded in, (outputs, inputs, k, k)."""
        scale = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
        return (self.conv.weight * scale[:, None, None, None]).detach()


class Block(nn.Module):
    """The basic residual block (He et al., CVPR 2016), 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 3, stride)
        self.conv2 = ConvNorm(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else ConvNorm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H', W')."""
        y = self.conv2(functional.relu(self.conv1(x)))
        return functional.relu(y + (x if self.shortcut is None else self.shortcut(x)))


@dataclass(frozen=True)
class Group:
    """Coupled channels: the layers that make them, the layers that read them."""

    makers: list[ConvNorm]
    readers: list[nn.Module]

    def scores(self, order: int, with_readers: bool) -> Tensor:
        """Norm of each channel's filters; with readers, times that of the slices reading it.

        Each layer's norms are divided by their mean, then averaged over layers. (channels,)
        """
        made = [layer.folded() for layer in self.makers]
        read = [r.folded() if isinstance(r, ConvNorm) else r.weight for r in self.readers]
        score = _norms(made, 0, order)
        return score * _norms(read, 1, order) if with_readers else score


def _norms(weights: list[Tensor], axis: int, order: int) -> Tensor:
    norms = [w.detach().transpose(0, axis).flatten(1).norm(order, dim=1) for w in weights]
    return torch.stack([n / n.mean() for n in norms]).mean(0)


class Net(nn.Module):
    """A residual network on one-channel images: (N, 1, side, side) -> (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, WIDTHS[0], 3)
        stages, before = [], WIDTHS[0]
        for i, (width, count) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            blocks = [
                Block(before if j == 0 else width, width, 2 if i and j == 0 else 1)
                for j in range(count)
            ]
            stages.append(nn.Sequential(*blocks))
            before = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, side, side) -> (N, 10)."""
        x = self.stages(functional.relu(self.stem(x)))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))

    def groups(self) -> list[Group]:
        """Each residual stream and each layer inside a block: channels that go together."""
        found = []
        for i, stage in enumerate(self.stages):
            makers = [self.stem] if i == 0 else []
            readers: list[nn.Module] = []
            for j, block in enumerate(stage):
                found.append(Group([block.conv1], [block.conv2]))
                makers += [block.conv2] + ([block.shortcut] if block.shortcut else [])
                readers += [block.conv1] if i == 0 or j else []
            after = self.stages[i + 1][0] if i + 1 < len(self.stages) else None
            readers += [after.conv1, after.shortcut] if after else [self.head]
            found.append(Group(makers, readers))
        return found

    def set_masks(self, ratio: float, criterion: Criterion, *, align: int = 1) -> None:
        """Mask the least channels of every group; the kept width is rounded up."""
        for group in self.groups():
            scores = group.scores(*criterion)
            keep = math.ceil(round(len(scores) * (1 - ratio), 6) / align) * align
            mask = torch.zeros_like(scores)
            mask[scores.topk(min(keep, len(scores))).indices] = 1
            for layer in group.makers:
                layer.mask = mask if ratio else None


@dataclass(frozen=True)
class Split:
    """Pixels 0-255 (N, 8, 8), labels (N,), and where each lies in scikit-learn's set (N,)."""

    images: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray

    def tensors(self, side: int) -> tuple[Tensor, Tensor]:
        """Preprocess as examples/digits/preprocess.toml says: bilinear, /255, mean, std."""
        size = (side, side)
        large = [Image.fromarray(i).resize(size, Image.Resampling.BILINEAR) for i in self.images]
        x = (np.stack([np.asarray(i, dtype=np.float32) for i in large]) / 255 - MEAN) / STD
        return torch.from_numpy(x.astype(np.float32)[:, None]), torch.from_numpy(self.labels)


def splits() -> dict[str, Split]:
    """The last 500 images are held out; of the others, all train and 200 calibrate, by class.

    Thirteen people wrote the digits. The file's order is kept, so that neighbours, which look
    like one hand, are not torn apart: a random split would be easier.
    """
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    train, test = np.split(np.arange(len(labels)), [-TEST])
    _, calib = train_test_split(train, test_size=CALIB, stratify=labels[train], random_state=SEED)
    parts = {"train": train, "calib": np.sort(calib), "test": test}
    return {name: Split(images[i], labels[i], i) for name, i in parts.items()}


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 10 degrees, scale by up to 10 %, shift by up to 8 % of the side."""
    n = len(x)
    angle, scale, dx, dy = torch.rand(4, n, generator=generator) * 2 - 1
    angle, scale = angle * math.radians(10), 1 + scale * 0.1
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack(
        [torch.stack([cos, -sin, dx * 0.16], 1), torch.stack([sin, cos, dy * 0.16], 1)], 1
    )
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def train(net: Net, data: Split, largest_mask: float) -> None:
    """SGD with momentum; the rate is warmed up, then falls along a half cosine.

    Every second step masks a random part of the channels, up to ``largest_mask``.
    """
    generator = torch.Generator().manual_seed(SEED)
    batches = len(data.labels) // BATCH
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 1e-3},
            {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 1e-4},
        ],
        lr=RATE,
        momentum=0.9,
        nesterov=True,
    )
    total = sum(count for _, count, _ in PHASES)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=RATE, total_steps=total * batches, pct_start=0.1
    )
    epoch = 0
    for side, count, frozen in PHASES:
        x, y = data.tensors(side)
        if frozen:
            settle(net, x, generator)
        for _ in range(count):
            epoch, start, losses = epoch + 1, time.perf_counter(), 0.0
            order = torch.randperm(len(y), generator=generator)
            for i in range(batches):
                index = order[i * BATCH : (i + 1) * BATCH]
                ratio = largest_mask * torch.rand(1, generator=generator).item()
                net.set_masks(ratio * (i % 2), CRITERIA[i // 2 % len(CRITERIA)])
                logits = net(augment(x[index], generator))
                loss = functional.cross_entropy(logits, y[index], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                losses += loss.item()
            seconds = time.perf_counter() - start
            print(
                f"epoch {epoch:2}/{total} {side}x{side} loss {losses / batches:.3f} {seconds:.1f} s"
            )
    net.set_masks(0, CRITERIA[0])
    net.eval()


def settle(net: Net, x: Tensor, generator: torch.Generator) -> None:
    """Average BatchNorm's statistics over the training set, nothing masked, and freeze them."""
    net.set_masks(0, CRITERIA[0])
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # A plain average over the batches.
    net.train()
    with torch.no_grad():
        for part in torch.split(x[torch.randperm(len(x), generator=generator)], BATCH * 4):
            net(augment(part, generator))
    net.eval()


def correct(net: Net, data: Split) -> int:
    """How many images the network names rightly."""
    x, y = data.tensors(SIZE)
    with torch.inference_mode():
        return sum(
            int((net(a).argmax(1) == b).sum())
            for a, b in zip(x.split(100), y.split(100), strict=True)
        )


def export(net: Net, path: Path, properties: dict[str, str]) -> None:
    """Write one ONNX file, opset 17, BatchNorm unfolded: graphopt is to have something to do."""
    with warnings.catch_warnings():
        # The newer exporter folds or renames; this one writes one file with the modules' names.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, SIZE, SIZE),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_images(folder: Path, data: Split) -> None:
    """Write ``<label>/<number in the set>.png``, 8x8 grey."""
    shutil.rmtree(folder, ignore_errors=True)
    for image, label, number in zip(data.images, data.labels, data.numbers, strict=True):
        path = folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, optimize=True)


PREPROCESS = """\
# How the images were fed while training: graphopt ... --preprocess examples/digits/preprocess.toml
size = [{size}, {size}]
resize = "bilinear"
color = "gray"
scale = "1/255"
mean = [{mean}]
std = [{std}]
"""

README = """\
# The digits sample

| File | What |
|---|---|
| `model.onnx` | a residual network: {convs} convolutions, widths {widths}, {parameters:,} \
parameters, opset 17, BatchNorm unfolded |
| `calib/<digit>/*.png` | {calib} of the {train:,} training images, for calibration |
| `test/<digit>/*.png` | {test} held-out images, for accuracy |
| `preprocess.toml` | grey, bilinear to {size}x{size}, /255, mean {mean}, std {std} |

Input `image` (batch, 1, {size}, {size}) float32, output `logits` (batch, 10).

Right answers of {test} with the least channels masked in every group of coupled channels, nothing
done to recover, kept widths rounded up to a multiple of 8 as `--align 8` does:

| Masked, by | right |
|---|---|
{right}

## Where it comes from

The images are the [Optical Recognition of Handwritten Digits][uci] data of the UCI Machine
Learning Repository (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0), in the 1,797-image part that
scikit-learn ships. Changed: 8x8 pixels of 17 grey levels are written as PNG, 0 to 255. The
names are the places in that set. The last {test} images are held out; the order is kept, so
that neighbours, which look like one hand, stay together. The model was trained for this project and
is under its licence.

`python tools/make_sample.py` remakes this folder (made with torch {torch}, scikit-learn {sklearn},
seed {seed}, one thread; the model's metadata says so too). The same versions on the same kind of
processor give the same bytes; elsewhere training rounds differently, and a few counts move.

## What it shows, and what not

The network was trained to live with fewer channels: in half of the steps, a random 0 to {mask:.0%}
of the channels were masked in every group, those of least norm (the four norms above took turns),
much as slimmable networks are trained (Yu et al., ICLR 2019). That is why `--prune 0.3` costs
little here without any recovery, and why 50 %, which it never met, breaks it. The same network
trained without this (`tools/make_sample.py --plain -o DIR`) falls from 496 right to 58 at 30 %. The
sample is there to see the tool work from end to end; how well pruning goes elsewhere, it does not
say.

[uci]: https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
"""


def evaluate(net: Net, data: Split) -> str:
    """Count right answers with channels masked; return rows of a table."""
    rows = [("none", 0.0, CRITERIA[0], 1)]
    for order, with_readers in CRITERIA:
        what = f"30 %, L{order} of {'filters and readers' if with_readers else 'filters'}"
        rows.append((what, 0.3, (order, with_readers), 8))
    rows.append(("30 %, L2 of filters and readers, not rounded", 0.3, CRITERIA[0], 1))
    rows.append(("50 %, L2 of filters and readers", 0.5, CRITERIA[0], 8))
    lines = []
    for what, ratio, criterion, align in rows:
        net.set_masks(ratio, criterion, align=align)
        lines.append(f"| {what} | {correct(net, data)} |")
        print(lines[-1])
    net.set_masks(0, CRITERIA[0])
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Remake examples/digits: see the module's text.")
    parser.add_argument("-o", "--output", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--plain", action="store_true", help="train without masks, to compare")
    args = parser.parse_args()
    folder: Path = args.output
    if args.plain and folder == HERE:
        parser.error("--plain is for comparison: name another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    parts = splits()
    net = Net()
    train(net, parts["train"], 0.0 if args.plain else LARGEST_MASK)
    right = evaluate(net, parts["test"])
    versions = {"torch": torch.__version__.split("+")[0], "sklearn": sklearn.__version__}
    properties = {"seed": SEED, "right": f"{correct(net, parts['test'])}/{TEST}", **versions}
    export(net, folder / "model.onnx", {k: str(v) for k, v in properties.items()})
    for name in ("calib", "test"):
        write_images(folder / name, parts[name])
    numbers = {"size": SIZE, "mean": MEAN, "std": STD}
    (folder / "preprocess.toml").write_text(PREPROCESS.format(**numbers))
    text = README.format(
        convs=sum(isinstance(m, nn.Conv2d) for m in net.modules()),
        widths="/".join(map(str, WIDTHS)),
        parameters=sum(p.numel() for p in net.parameters()),
        **{name: len(part.labels) for name, part in parts.items()},
        right=right,
        seed=SEED,
        mask=LARGEST_MASK,
        **versions,
        **numbers,
    )
    (folder / "README.md").write_text(text)


if __name__ == "__main__":
    main()
