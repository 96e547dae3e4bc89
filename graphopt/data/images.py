"""Images in a folder: found in an order of their own, sub-folders as labels, decoded one by one."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from graphopt.data.preprocess import Preprocess
from graphopt.data.samples import InputSpec, Sample
from graphopt.errors import DataError
from graphopt.graph import Array
from graphopt.wording import one_line

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})
# What Pillow's decoders raise on damaged files, besides its own errors.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    UnidentifiedImageError,
)


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a folder.

    Attributes:
        files: paths relative to the folder, ``/`` between parts, sorted.
        folders: names of the folders directly in it, sorted.
        ignored: how many visible files have another suffix.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    ignored: int


def list_folder(root: Path, suffixes: frozenset[str]) -> Listing:
    """List files with these suffixes under ``root``, following links; a link back up is not taken.

    Hidden files and folders (a leading dot, ``__MACOSX``) are passed over.

    Raises:
        DataError: the folder, or one in it, may not be read.
    """
    files: list[str] = []
    ignored = 0

    def visit(folder: Path, above: tuple[tuple[int, int], ...]) -> None:
        nonlocal ignored
        try:
            entries = [e for e in folder.iterdir() if not _hidden(e.name)]
            here = folder.stat()
        except OSError as problem:
            raise DataError(f"may not read {folder}: {problem.strerror}") from problem
        identity = (here.st_dev, here.st_ino)
        if identity in above:
            return
        for entry in entries:
            if entry.is_dir():
                visit(entry, (*above, identity))
            elif entry.suffix.lower() in suffixes:
                files.append(entry.relative_to(root).as_posix())
            else:
                ignored += 1

    visit(root, ())
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not _hidden(p.name))
    return Listing(tuple(sorted(files)), tuple(folders), ignored)


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A :class:`~graphopt.data.samples.Source` over image files, decoded when read, never kept."""

    root: Path
    names: tuple[str, ...]
    spec: InputSpec
    preprocess: Preprocess
    labels: Array | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kind: str = "image folder"
    in_order: bool = False

    @classmethod
    def of(
        cls, root: Path, listing: Listing, spec: InputSpec, preprocess: Preprocess
    ) -> ImageFolder:
        """Take the images of a folder; its direct sub-folders, sorted, are the classes.

        Raises:
            DataError: images lie both beside and inside sub-folders, so labels are unclear.
        """
        tops = [name.partition("/")[0] if "/" in name else "" for name in listing.files]
        notes = []
        if listing.ignored:
            notes.append(f"{listing.ignored} files that are no images were passed over")
        labels: Array | None = None
        classes: tuple[str, ...] = ()
        if any(tops):
            loose = tops.count("")
            if loose:
                raise DataError(
                    f"{root} holds {loose} images beside its sub-folders, so labels are unclear: "
                    "move them into sub-folders (classes), or name a sub-folder"
                )
            classes = listing.folders
            index = {name: i for i, name in enumerate(classes)}
            labels = np.array([index[top] for top in tops], dtype=np.int64)
            notes += _class_notes(classes, labels)
        return cls(root, listing.files, spec, preprocess, labels, classes, tuple(notes))

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        """Decode and preprocess these images.

        Raises:
            DataError: one is broken, too large, or of more than 8 bits a channel.
        """
        dtype = np.float32 if self.spec.dtype is None else self.spec.dtype
        for index in indices:
            path = self.root / self.names[index]
            array = self.preprocess(open_image(path), dtype)
            yield {self.spec.name: self.spec.batch(array, str(path))[0]}

    def digests(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Hash the files' bytes."""
        for index in indices:
            path = self.root / self.names[index]
            try:
                yield hashlib.sha256(path.read_bytes()).digest()
            except OSError as problem:
                raise DataError(f"cannot read {path}: {problem.strerror}") from problem


def open_image(path: Path) -> Image.Image:
    """Decode an image file, whole.

    Raises:
        DataError: it is broken or truncated, so large that it is taken for an attack, or holds
            more than 8 bits a channel (Pillow would clip them).
    """
    try:
        with warnings.catch_warnings():
            # A decompression bomb is only a warning at first, and so are damaged metadata.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                opened.load()
                image: Image.Image = opened
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as problem:
        raise DataError(
            f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: shrink it, or take it out"
        ) from problem
    except _BROKEN as problem:
        unknown = isinstance(problem, UnidentifiedImageError)
        told = "not an image" if unknown else one_line(problem, 120)
        raise DataError(f"{path} is broken: {told}; replace it, or take it out") from problem
    if image.mode.startswith("I") or image.mode == "F":
        raise DataError(
            f"{path} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits, "
            "or give arrays (.npz)"
        )
    return image


def _class_notes(classes: tuple[str, ...], labels: Array) -> list[str]:
    notes = []
    empty = [c for i, c in enumerate(classes) if not (labels == i).any()]
    if empty:
        notes.append(
            f"{len(empty)} of {len(classes)} sub-folders hold no image, '{empty[0]}' the first; "
            "each still takes a class index"
        )
    if all(c.isdecimal() for c in classes) and any(int(c) != i for i, c in enumerate(classes)):
        wrong = next((i, c) for i, c in enumerate(classes) if int(c) != i)
        notes.append(
            f"sub-folders are numbers, but class indices are their sorted places: '{wrong[1]}' is "
            f"class {wrong[0]}; pad with zeros (007) if they are meant as indices"
        )
    return notes


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
