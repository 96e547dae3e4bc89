"""Q and DQ that fuse into nothing."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint.context import Context
from graphopt.lint.finding import NOTE, WARNING, Finding
from graphopt.lint.fusion import ALONE

# What "scale", "channels" and "int32" come from is told by the rules about those.
_TOLD = {
    "float": (
        "what they meet computes in float",
        "quantize that too, or leave its neighbours in float",
    ),
    "default": (
        "what they meet stays in float by default (Softmax, normalization, attention)",
        "newer compilers may fuse them with that layer; nothing promises it",
    ),
    "shared": (
        "someone reads the same tensor in float",
        "quantize that reader too, or leave all of them in float",
    ),
    "limited": (
        "the addition in the kernel has an input in float, so that it writes float",
        "quantize the residual's other input",
    ),
    "no-q": (
        "a layer without a weight takes INT8 in only if it writes INT8",
        "put Q/DQ behind that layer as well, or take the one in front away",
    ),
}


def check(context: Context) -> Iterator[Finding]:
    """Group those that stand alone by why; each is a kernel, and a trip through memory."""
    alone = [account for account in context.accounting.accounts if account.verdict == ALONE]
    for cause, (what, advice) in _TOLD.items():
        where = [account.name for account in alone if account.cause == cause]
        if where:
            yield Finding(
                "unfused",
                NOTE if cause == "default" else WARNING,
                tuple(where),
                f"{len(where)} Q/DQ stand alone: {what}",
                advice,
            )
