"""Preprocessing: from an image file to the array a model was trained on, and how that is written.

Presets ``cifar`` and ``imagenet``, or a TOML file::

    size = [224, 224]      # height, width; left out: what the model's input says
    crop = 0.875           # resize so that the centre crop is this part of the shorter side
    resize = "bilinear"    # Pillow's filter: bilinear, bicubic, nearest, lanczos, box, hamming
    color = "rgb"          # rgb, bgr or gray
    scale = "1/255"        # x * scale, then (x - mean) / std
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    layout = "nchw"        # or nhwc
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphopt.errors import DataError
from graphopt.graph import Array, Shape
from graphopt.registry import did_you_mean
from graphopt.toml import load_toml
from graphopt.wording import spell

if TYPE_CHECKING:
    from PIL.Image import Image

FILTERS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
COLORS = {"rgb": 3, "bgr": 3, "gray": 1}
LAYOUTS = ("nchw", "nhwc")
# More pixels than this is a mistake in the recipe, not a network input.
LARGEST_SIDE = 1 << 15


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes one sample: resize, crop, colour order, ``(x * scale - mean) / std``.

    Pixels are 8-bit, 0 to 255. Resizing is Pillow's, on 8-bit channels and antialiased when it
    shrinks, which is what torchvision does to PIL images; EXIF orientation is not applied.

    Attributes:
        name: the preset or file it came from.
        size: (height, width) of the sample in pixels; None takes the model's, or keeps the image's.
        default_size: what to use where neither ``size`` nor the model says.
        crop: None stretches the image to ``size``. A fraction in (0, 1] keeps the aspect ratio:
            the image is resized until a centre crop of ``size`` covers that part of it.
        resize: Pillow's filter.
        color: ``rgb``, ``bgr`` or ``gray`` (ITU-R 601 luma).
        scale: factor on the pixel values, before ``mean`` and ``std``.
        mean: one number, or one a channel in the order of ``color``; in units after scaling.
        std: likewise, > 0.
        layout: ``nchw`` or ``nhwc``; one sample lacks the ``n``.
    """

    name: str = "custom"
    size: tuple[int, int] | None = None
    default_size: tuple[int, int] | None = None
    crop: float | None = None
    resize: str = "bilinear"
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] = "nchw"
    # What was taken from the model rather than written down; told in notes().
    resolved: tuple[str, ...] = field(default=(), compare=False)

    @property
    def channels(self) -> int:
        """How many channels a sample has: 3, or 1 for gray."""
        return COLORS[self.color]

    def for_input(self, name: str, shape: Shape) -> Preprocess:
        """Return a copy that fits the model input ``name`` of ``shape`` (batch first).

        Raises:
            DataError: the input is not an image of as many channels, or of another size.
        """
        shown = f"input '{name}' is {spell(shape or None)}"
        if len(shape) != 4:
            raise DataError(
                f"images need an input of rank 4; {shown}: "
                "give .npz files or file.py:function as --data"
            )
        axes = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}[self.layout]
        channels, height, width = (shape[i] for i in axes)
        if isinstance(channels, int) and channels != self.channels:
            other = "nhwc" if self.layout == "nchw" else "nchw"
            swapped = shape[3 if other == "nhwc" else 1] == self.channels
            todo = f'layout = "{other}"' if swapped else 'color = "rgb", "bgr" or "gray"'
            raise DataError(
                f"preprocessing '{self.name}' gives {self.channels} channels ({self.color}, "
                f"{self.layout}), but {shown}: write a TOML file with "
                f"{todo} and name it with --preprocess"
            )
        static = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        size, resolved = self.size, self.resolved
        if size is None and static is not None:
            size, resolved = static, (*resolved, f"size {static[0]}x{static[1]} from the model")
        if size is None and self.default_size is not None:
            size = self.default_size
            resolved = (*resolved, f"size {size[0]}x{size[1]}, the preset's: the model's is free")
        for side, want in zip(size or (), (height, width), strict=False):
            if isinstance(want, int) and side != want:
                raise DataError(
                    f"preprocessing '{self.name}' gives {size} pixels (height, width), but "
                    f"{shown}: leave out size, or set it to the model's"
                )
        if size is None and (
            self.crop is not None or {type(height), type(width)} - {str, type(None)}
        ):
            raise DataError(
                f"preprocessing '{self.name}' names no size and {shown}: add size = [height, width]"
            )
        return replace(self, size=size, resolved=resolved)

    def __call__(self, image: Image, dtype: Any = np.float32) -> Array:
        """Return one sample, (C, H, W) or (H, W, C) by ``layout``, of ``dtype``.

        Arithmetic is float32; for an integer ``dtype`` the result is rounded and clipped to it.
        """
        pixels = self._pixels(image)
        mean = np.asarray(self.mean, dtype=np.float32)
        std = np.asarray(self.std, dtype=np.float32)
        sample = (pixels.astype(np.float32) * np.float32(self.scale) - mean) / std
        kind = np.dtype(dtype)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            sample = np.clip(np.rint(sample), limits.min, limits.max)
        if self.layout == "nchw":
            sample = sample.transpose(2, 0, 1)
        return np.ascontiguousarray(sample, dtype=kind)

    def _pixels(self, image: Image) -> Array:
        from PIL.Image import Resampling

        image = image.convert("L" if self.color == "gray" else "RGB")
        if self.size is not None:
            height, width = self.size
            method = Resampling[self.resize.upper()]
            if self.crop is None:
                image = image.resize((width, height), method)
            else:
                across, down = _cover(image.size, (width, height), self.crop)
                image = image.resize((across, down), method)
                left, top = round((across - width) / 2), round((down - height) / 2)
                image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image)
        if self.color == "gray":
            return pixels[:, :, None]
        return pixels[:, :, ::-1] if self.color == "bgr" else pixels

    def notes(self) -> tuple[str, ...]:
        """What was not written down but taken from the model, one line each."""
        return self.resolved

    def to_json(self) -> dict[str, Any]:
        """Return everything that decides the samples, as plain values, for digests and sidecars."""
        values = asdict(self)
        del values["resolved"], values["default_size"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(values.items())}

    def __str__(self) -> str:
        """One line for the echo."""
        size = "as they are" if self.size is None else f"{self.size[0]}x{self.size[1]}"
        crop = "" if self.crop is None else f", centre crop of {self.crop:g}"
        scale = f"1/{1 / self.scale:g}" if 0 < self.scale < 1 else f"{self.scale:g}"
        return (
            f"{self.name}: {size}{crop}, {self.resize}, {self.color}, x {scale}, "
            f"mean {_numbers(self.mean)}, std {_numbers(self.std)}, {self.layout}"
        )


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PRESETS: Mapping[str, Preprocess] = {
    # The statistics that most public CIFAR-10 networks were trained with are ImageNet's.
    "cifar": Preprocess("cifar", default_size=(32, 32), mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
    # torchvision's evaluation: shorter side 256, centre crop 224.
    "imagenet": Preprocess(
        "imagenet", default_size=(224, 224), crop=0.875, mean=_IMAGENET_MEAN, std=_IMAGENET_STD
    ),
}

EXAMPLES = """\
--preprocess imagenet                     RGB/255, ImageNet mean and std, centre crop of 0.875
--preprocess cifar                        RGB/255, the same mean and std, stretched to the input
--preprocess my.toml                      your own, for example:
    color = "bgr"        # rgb, bgr or gray
    scale = "1/255"      # x * scale, then (x - mean) / std
    mean = [0.0]
    std = [1.0]"""


def load_preprocess(name: str) -> Preprocess:
    """Return the preset ``name``, or read the TOML file of that path.

    Raises:
        DataError: neither exists, or a key or value in the file is wrong.
        RecipeError: the file is not TOML.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file() raises for a name too long
        if path.suffix == ".toml" or "/" in name:
            raise DataError(f"no such preprocessing file: {name}")
        raise DataError(
            f"unknown preprocessing '{name}'{did_you_mean(name, PRESETS)}; known: "
            f"{', '.join(PRESETS)}, or the path of a TOML file",
            hint=EXAMPLES,
        )
    raw = load_toml(path)
    return from_mapping(raw, name=path.name, where=name)


def from_mapping(raw: Mapping[str, Any], *, name: str, where: str) -> Preprocess:
    """Build a preprocessing from plain values, such as a recipe's table; ``where`` for messages.

    Raises:
        DataError: an unknown key, or a value of the wrong kind or out of range.
    """
    known = [f.name for f in fields(Preprocess) if f.name not in ("name", "resolved")]
    for key in raw:
        if key not in known:
            raise DataError(
                f"{where}: unknown key '{key}'{did_you_mean(key, known)}; known: {', '.join(known)}"
            )
    values: dict[str, Any] = {}
    for key, value in raw.items():
        try:
            values[key] = _PARSERS[key](value)
        except (TypeError, ValueError, ZeroDivisionError) as problem:
            raise DataError(f"{where}: {key} = {value!r} is wrong: {problem}") from problem
    made = Preprocess(name=name, **values)
    for key in ("mean", "std"):
        count = len(getattr(made, key))
        if count not in (1, made.channels):
            raise DataError(
                f"{where}: {key} has {count} numbers, but color = '{made.color}' has "
                f"{made.channels} channels: give 1 or {made.channels}"
            )
    return made


def _parse_size(value: Any) -> tuple[int, int]:
    sides = [value, value] if _is_int(value) else value
    if not isinstance(sides, list) or len(sides) != 2 or not all(map(_is_int, sides)):
        raise ValueError("give [height, width] in pixels")
    if not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise ValueError(f"sides are 1 to {LARGEST_SIDE} pixels")
    return int(sides[0]), int(sides[1])


def _parse_crop(value: Any) -> float:
    crop = _number(value)
    if not 0 < crop <= 1:
        raise ValueError("give a fraction in (0, 1]: 0.875 is a centre crop of 224 from 256")
    return crop


def _parse_scale(value: Any) -> float:
    if isinstance(value, str):
        above, slash, below = value.partition("/")
        scale = float(above) / float(below) if slash else float(above)
    else:
        scale = _number(value)
    if not math.isfinite(scale) or scale == 0:
        raise ValueError('give a finite number other than 0, or a fraction such as "1/255"')
    return scale


def _parse_numbers(value: Any) -> tuple[float, ...]:
    numbers = tuple(_number(v) for v in (value if isinstance(value, list) else [value]))
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError("give a list of finite numbers, one or one a channel")
    return numbers


def _parse_std(value: Any) -> tuple[float, ...]:
    numbers = _parse_numbers(value)
    if not all(number > 0 for number in numbers):
        raise ValueError("every std must be > 0")
    return numbers


def _parse_word(value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"known: {', '.join(known)}{did_you_mean(str(value), known)}")
    return str(value)


_PARSERS: Mapping[str, Any] = {
    "size": _parse_size,
    "default_size": _parse_size,
    "crop": _parse_crop,
    "resize": lambda v: _parse_word(v, FILTERS),
    "color": lambda v: _parse_word(v, tuple(COLORS)),
    "scale": _parse_scale,
    "mean": _parse_numbers,
    "std": _parse_std,
    "layout": lambda v: _parse_word(v, LAYOUTS),
}


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("give a number")
    return float(value)


def _cover(have: tuple[int, int], want: tuple[int, int], crop: float) -> tuple[int, int]:
    """(width, height) to resize to, so that a centre crop of ``want`` covers ``crop`` of it.

    The side that decides is rounded as crops are quoted (224 / 0.875 = 256), the other is cut
    down to whole pixels, as torchvision does; neither falls below the crop.
    """
    targets = [max(w, math.floor(w / crop + 0.5)) for w in want]
    if targets[0] * have[1] >= targets[1] * have[0]:
        other = max(want[1], targets[0] * have[1] // have[0])
        return targets[0], other
    return max(want[0], targets[1] * have[0] // have[1]), targets[1]


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{v:g}" for v in values)
