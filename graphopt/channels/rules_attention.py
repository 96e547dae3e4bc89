"""Attention and rotary embedding as operators (opset 23): heads and head dimensions are grids."""

from __future__ import annotations

from math import sqrt

from graphopt.channels.dims import Dim
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.trace import Refused, Site

_OVER = "attends over it"


def _heads(site: Site, x: list[Dim], attribute: str) -> tuple[Dim, Dim]:
    """Return heads and head dimension of ``[B, H, T, D]`` or, by the attribute, ``[B, T, H D]``."""
    if len(x) == 4:
        return x[1], x[3]
    heads = int(site.node.attrs.get(attribute, 0))
    if len(x) != 3 or heads < 1 or x[2].size is None or x[2].size % heads:
        raise Refused("an unknown number of heads")
    rows, columns = site.space.split(x[2], [heads, x[2].size // heads], f"{site.why}: heads")
    return rows, columns


def attention(site: Site) -> None:
    """Attention: query and key share the head dimension, the values have their own.

    Each head of keys and values goes with its run of query heads (grouped-query attention). What
    the scores are divided by stays: the default ``1 / sqrt(D)`` is spelled out.
    """
    q, k, v = site.dims(0), site.dims(1), site.dims(2)
    if not len(q) == len(k) == len(v):
        raise Refused("its inputs differ in rank")
    q_heads, q_size = _heads(site, q, "q_num_heads")
    k_heads, k_size = _heads(site, k, "kv_num_heads")
    v_heads, v_size = _heads(site, v, "kv_num_heads")
    tokens = 2 if len(q) == 4 else 1
    for x in (q, k, v):
        site.freeze([x[0], x[tokens]], _OVER)
    site.unify(q_size, k_size)
    site.unify(k_heads, v_heads)
    _share_heads(site, q_heads, k_heads)
    site.heads([q_heads, k_heads])
    _masks(site, q_heads)
    for index, size in ((4, k_size), (5, v_size)):
        if site.has(index):
            site.tie(index, [Dim(None), k_heads, Dim(None), size])
    if site.has(6):
        site.freeze(site.dims(6), _OVER)
    if len(q) == 4:
        site.out([q[0], q_heads, q[2], v_size])
    else:
        site.out([q[0], q[1], site.space.merge([q_heads, v_size], site.why)])
    site.out([k[0], k_heads, site.other(2, 1), k_size], 1)
    site.out([v[0], v_heads, site.other(2, 2), v_size], 2)
    site.out([q[0], q_heads, site.other(2, 3), site.other(3, 3)], 3)

    def rewrite(to: Rewriter) -> None:
        attrs = site.node.attrs
        for attribute, heads in (("q_num_heads", q_heads), ("kv_num_heads", k_heads)):
            if attribute in attrs and to.changed(heads):
                attrs[attribute] = int(to.count(heads) or 1)
        if to.changed(q_size) and "scale" not in attrs:
            attrs["scale"] = 1 / sqrt(q_size.size or 1)

    site.on_apply(rewrite)


def _share_heads(site: Site, q_heads: Dim, k_heads: Dim) -> None:
    """Say that query head h reads the keys and values of head ``h // (Hq / Hkv)``."""
    if q_heads.size is None or k_heads.size is None or q_heads.size % k_heads.size:
        raise Refused("query heads that no number of key heads shares evenly")
    times = q_heads.size // k_heads.size
    if times == 1:
        site.unify(q_heads, k_heads)
        return
    why = f"{site.why}: {times} heads of queries for one of keys"
    rows, _ = site.space.split(q_heads, [k_heads.size, times], why)
    site.unify(rows, k_heads)


def _masks(site: Site, q_heads: Dim) -> None:
    if not site.has(3):
        return
    shape = site.node.inputs[3].shape
    if shape is None:
        raise Refused("a mask of unknown rank")
    dims = [Dim(None), q_heads, Dim(None), Dim(None)][4 - len(shape) :]
    site.tie(3, [d if n == d.size else Dim(1) for n, d in zip(shape, dims, strict=True)])


def rotary(site: Site) -> None:
    """RotaryEmbedding: the two channels that are turned into each other die together."""
    x = site.dims(0)
    heads, size = _heads(site, x, "num_heads")
    part = int(site.node.attrs.get("rotary_embedding_dim", 0))
    if size.size is None or size.size % 2 or part not in (0, size.size):
        raise Refused("rotates a part of its channels")
    if site.node.attrs.get("interleaved", 0):
        pairs, two = site.space.split(size, [size.size // 2, 2], site.why)
    else:
        two, pairs = site.space.split(size, [2, size.size // 2], site.why)
    site.freeze([two], "turns its channels in pairs")
    for index in (1, 2):
        rank = len(site.node.inputs[index].shape or ())
        if not rank:
            raise Refused("a cache of unknown rank")
        site.tie(index, [*(Dim(None) for _ in range(rank - 1)), pairs])
    if site.has(3):
        site.freeze(site.dims(3), "holds positions")
    site.out(x)

    def rewrite(to: Rewriter) -> None:
        if site.node.attrs.get("num_heads", 0) and to.changed(heads):
            site.node.attrs["num_heads"] = int(to.count(heads) or 1)

    site.on_apply(rewrite)
