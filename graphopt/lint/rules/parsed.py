"""Where TensorRT sees something else than the file says."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint.context import Context
from graphopt.lint.finding import WARNING, Finding


def check(context: Context) -> Iterator[Finding]:
    """Compare the accounts of the file with those of the parsed network, node by node."""
    if context.parsed is None:
        return
    source = context.parsed.network.source
    seen = {(a.op, a.name): a.verdict for a in context.parsed.accounts}
    own = {(a.op, a.name): a.verdict for a in context.own.accounts}
    missing = [name for op, name in own if (op, name) not in seen]
    if missing:
        yield Finding(
            "parsed",
            WARNING,
            tuple(missing),
            f"{len(missing)} Q/DQ of the file are not in the network of {source}",
            "nodes that nothing depends on, or the parser folded them",
        )
    differ = [name for (op, name), v in own.items() if seen.get((op, name), v) != v]
    if differ:
        yield Finding(
            "parsed",
            WARNING,
            tuple(differ),
            f"{len(differ)} Q/DQ fare otherwise in the parsed network than the file suggests",
            "the parser made other layers of their neighbours",
        )
