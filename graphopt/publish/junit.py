"""JUnit XML: a suite a verb, a test a gate.

What Jenkins, GitLab and pytest agree on: ``testsuite`` with counts and properties, ``testcase``
with one of ``failure``, ``error``, ``skipped``. An inconclusive gate is an ``error``: a test that
came to no result. A ``skipped`` one would not show in GitLab's merge request at all.
"""

from __future__ import annotations

import re

from graphopt.profiles.run import Gate, Run
from graphopt.publish.words import gate_words, interval_words

# Of XML 1.0: all that is no Char, and what an encoder of UTF-8 refuses.
_NO_CHAR = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ENTITIES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",  # "]]>" may not stand in text
    '"': "&quot;",
    "\r": "&#13;",  # a parser makes these three spaces or line feeds where they stand bare
    "\n": "&#10;",
    "\t": "&#9;",
}
_SPECIAL = re.compile("[" + "".join(_ENTITIES) + "]")


def junit(run: Run) -> str:
    """Return a run as JUnit XML."""
    classname = f"graphopt.{run.verb}.{_class(run.subject)}"
    cases = [_case(gate, classname) for gate in run.gates]
    if not cases:  # Jenkins takes an empty suite for a broken one
        cases = [element("testcase", {"classname": classname, "name": f"{run.verb} went through"})]
    count = {status: sum(gate.status == status for gate in run.gates) for status in _COUNTED}
    counts = {
        "tests": str(len(cases)),
        "failures": str(count["fail"]),
        "errors": str(count["inconclusive"]),
        "skipped": str(count["none"]),
    }
    attributes = {"name": f"graphopt {run.verb}: {run.subject}", **counts}
    if run.when:
        attributes["timestamp"] = run.when.removesuffix("Z")  # xs:dateTime without a zone, UTC
    notes = "\n".join(run.notes)
    suite = element(
        "testsuite",
        attributes,
        element("properties", {}, *_properties(run)),
        *cases,
        *([element("system-out", {}, escaped(notes))] if notes else []),
    )
    del counts["skipped"]  # Jenkins's schema knows none here
    whole = element("testsuites", {"name": "graphopt", **counts}, suite)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{whole}\n'


_COUNTED = ("fail", "inconclusive", "none")


def _case(gate: Gate, classname: str) -> str:
    message = gate_words(gate)
    inner = []
    if gate.status == "fail":
        inner = [element("failure", {"message": message, "type": gate.name}, escaped(message))]
    elif gate.status == "inconclusive":
        told = f"inconclusive: {message}"
        inner = [element("error", {"message": told, "type": "inconclusive"}, escaped(told))]
    elif gate.status == "none":
        inner = [element("skipped", {"message": f"not judged: {message}"})]
    else:
        inner = [element("system-out", {}, escaped(message))]
    return element("testcase", {"classname": classname, "name": gate.name}, *inner)


def _properties(run: Run) -> list[str]:
    values = {
        "status": run.status,
        "subject": run.subject,
        "sha256": run.sha256,
        "model digest": run.model_digest,
        "commit": run.commit,
        "branch": run.branch,
        "batch": str(run.batch),
    }
    for figure in run.figures:
        unit = f" {figure.unit}" if figure.unit else ""
        values[f"figure.{figure.name}"] = f"{figure.value:.10g}{unit}{interval_words(figure)}"
    values.update((f"machine.{name}", text) for name, text in sorted(run.environment.items()))
    return [
        element("property", {"name": name, "value": text}) for name, text in values.items() if text
    ]


def _class(subject: str) -> str:
    """Return a name that is one word of a class: Jenkins splits at dots."""
    return re.sub(r"[^\w-]+", "_", subject) or "_"


def element(name: str, attributes: dict[str, str], *inner: str) -> str:
    """Return an XML element; ``inner`` is XML already."""
    words = "".join(f' {key}="{escaped(value)}"' for key, value in attributes.items())
    return f"<{name}{words}>{''.join(inner)}</{name}>" if inner else f"<{name}{words}/>"


def escaped(text: str) -> str:
    r"""Return a text for XML; what XML 1.0 cannot carry is spelled ``\x1b``, ``\ufffe``."""
    spelled = _NO_CHAR.sub(lambda m: m[0].encode("unicode-escape").decode(), text)
    return _SPECIAL.sub(lambda m: _ENTITIES[m[0]], spelled)
