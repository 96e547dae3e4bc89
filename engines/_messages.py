"""TensorRT's messages, cut down to what a user can act on."""

from __future__ import annotations

import re

_QUOTED = re.compile(r'&& "([^"]+)"')
_ASSERTION = re.compile(r"^Assertion failed: .*?: (?=[A-Z])")
_CALLER = re.compile(r"^\S*::\S+: Error Code \d+: |^\d+: |^Error Code \d+: ")
_MYELIN = re.compile(r"^\w+ \(\[[^\]]*\] ?")
_WHERE = re.compile(r" In \w+ at \S+?:\d+\)*\.?$")
_KIND = re.compile(r"^(?:Internal|API Usage) Error \((.+)\)\.?$")
_PLACE = re.compile(r"^\[[\w.]+::\w+::\d+\] ?|^\w+\.cpp:\d+: ")


def parser_message(message: str, operator: str) -> str:
    """Return what is wrong with a node, from the parser's description of its own assertion."""
    text = " ".join(message.split())
    quoted = _QUOTED.search(text)
    if quoted:
        return quoted[1]
    text = _ASSERTION.sub("", text)
    if text in ("", "false", "Assertion failed: false"):
        return f"operator {operator} is not supported" if operator else "not supported"
    return text


def builder_message(line: str) -> str:
    """Return an error of the builder without the names of its functions and source files."""
    text = " ".join(line.split())
    for pattern in (_CALLER, _PLACE, _CALLER, _MYELIN, _WHERE):
        text = pattern.sub("", text)
    return _KIND.sub(r"\1", text)


def log_errors(log: str) -> list[str]:
    """Return the errors in a log of Polygraphy's, in order, each once, cut down."""
    found: list[str] = []
    current: list[str] | None = None
    entries: list[list[str]] = []
    for line in log.splitlines():
        if line.startswith("[E] "):
            current = [line[4:]]
            entries.append(current)
        elif line.startswith("    ") and current is not None:
            current.append(line)
        else:
            current = None
    for entry in entries:
        text = builder_message(" ".join(entry))
        if text and text not in found:
            found.append(text)
    return found


def advice(message: str) -> str:
    """Return what to do about a message of the builder that is known, or an empty string."""
    if "Turing" in message and "FP32 GEMM" in message:
        return (
            "TensorRT-RTX has no fp32 Gemm or MatMul on Turing: build with TensorRT on a machine "
            "that has such a GPU, or for another device"
        )
    return ""
