"""Resize for opset 17: of every axis, by sizes or scales alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.graph import Array, Node, constant, rank
from graphopt.passes.lower_site import Plan, Site, drop, drop_inputs, input_at, text


@dataclass(frozen=True, slots=True)
class _Request:
    """What a Resize is asked for, of the axes that it names."""

    axes: list[int]
    dims: list[int | str | None]
    scales: Array | None
    sizes: Array | None


def resize(node: Node, site: Site) -> Plan | str | None:
    """18: axes, proportions kept, smoothing; 19: half_pixel_symmetric."""
    where = text(node.attrs.get("coordinate_transformation_mode"), "half_pixel")
    if site.ceiling < 19 and where == "half_pixel_symmetric":
        return "half_pixel_symmetric is of opset 19"
    if site.ceiling >= 18:
        return None
    policy = text(node.attrs.get("keep_aspect_ratio_policy"), "stretch")
    plain = "axes" not in node.attrs and policy == "stretch"
    if plain and not node.attrs.get("antialias", 0):
        return (
            _without(node) if {"antialias", "keep_aspect_ratio_policy"} & set(node.attrs) else None
        )
    asked = _read(node)
    if isinstance(asked, str):
        return asked
    if node.attrs.get("antialias", 0) and _smooths(node, asked):
        return "antialias changes what shrinks, and is of opset 18"
    if plain:
        return _without(node)
    if input_at(node, 1) is not None and where == "tf_crop_and_resize":
        return "it crops some axes only, which is of opset 18"
    made = _of_all(asked, policy)
    return made if isinstance(made, str) else _rewritten(node, site, *made)


def _without(node: Node) -> Plan:
    def apply() -> str:
        drop(node, "antialias", "axes", "keep_aspect_ratio_policy")
        return "what it leaves at its default is left out"

    return apply


def _rewritten(node: Node, site: Site, name: str, values: Array) -> Plan:
    def apply() -> str:
        drop(node, "antialias", "axes", "keep_aspect_ratio_policy")
        made = site.constant(f"{node.outputs[0].name}_{name}", values)
        if name == "scales":
            node.inputs[2] = made
            drop_inputs(node, 3)
        else:
            node.inputs[3] = made
        return f"its {name} are of every axis"

    return apply


def _read(node: Node) -> _Request | str:
    scales, sizes = input_at(node, 2), input_at(node, 3)
    if scales is not None and (values := constant(scales)) is not None and not values.size:
        scales = None
    said = [None if t is None else constant(t) for t in (scales, sizes)]
    if any(t is not None and v is None for t, v in zip((scales, sizes), said, strict=True)):
        return "its sizes are computed at run time"
    dims = rank(node.inputs[0])
    if dims is None:
        return "the number of dimensions of what it resizes is not known"
    axes = [int(axis) % dims for axis in node.attrs.get("axes", range(dims))]
    return _Request(axes, list(node.inputs[0].shape), *said)


def _smooths(node: Node, asked: _Request) -> bool:
    """Whether smoothing does anything: where something shrinks, and is interpolated."""
    if text(node.attrs.get("mode"), "nearest") == "nearest":
        return False
    if asked.scales is not None:
        return bool((asked.scales < 1).any())
    before = [asked.dims[axis] for axis in asked.axes]
    return any(
        not isinstance(old, int) or new < old
        for old, new in zip(before, asked.sizes if asked.sizes is not None else (), strict=True)
    )


def _of_all(asked: _Request, policy: str) -> tuple[str, Array] | str:
    """Return ``scales`` or ``sizes`` of every axis."""
    full = np.ones(len(asked.dims), dtype=np.float32)
    if asked.scales is not None:
        full[asked.axes] = asked.scales.astype(np.float32)
        return "scales", full
    if asked.sizes is None:
        return "it has neither scales nor sizes"
    wanted = [int(size) for size in asked.sizes]
    before = [asked.dims[axis] for axis in asked.axes]
    known = [old for old in before if isinstance(old, int)]
    if policy != "stretch":
        if len(known) < len(before):
            return "it keeps proportions that are not fixed"
        ratios = {new / old for old, new in zip(known, wanted, strict=True)}
        if len(ratios) > 1:
            return f"it keeps proportions ({policy}), which is of opset 18"
    if all(isinstance(d, int) for i, d in enumerate(asked.dims) if i not in asked.axes):
        sizes = np.asarray([d if isinstance(d, int) else 0 for d in asked.dims], dtype=np.int64)
        sizes[asked.axes] = wanted
        return "sizes", sizes
    if len(known) < len(before):
        return "its sizes are of some axes, and none of the others is fixed"
    # Sizes of a batch that is not fixed cannot be said; scales can, if they come out the same.
    scales = np.asarray(wanted, dtype=np.float32) / np.asarray(known, dtype=np.float32)
    if list(np.floor(np.asarray(known, dtype=np.float32) * scales)) != wanted:
        return "its sizes are of some axes, and are no multiples"
    full[asked.axes] = scales
    return "scales", full
