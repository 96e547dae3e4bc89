"""The options of the stand-in trtexec: what its version lists, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_FLAGS = Path(__file__).with_name("trtexec_flags.txt")
_SPEC = re.compile(r"^(--\w+)(.*?)(?:,(-\S+))?$")
_WHOLE = ("--iterations", "--avgRuns", "--device", "--useDLACore", "--useProfile", "--profile")
_WHOLE += ("--builderOptimizationLevel", "--minTiming", "--avgTiming", "--maxAuxStreams")
_NUMBERS = ("--warmUp", "--duration", "--sleepTime", "--idleTime", "--workspace")
_CHOICES = {
    "--sparsity": ("disable", "enable", "force"),
    "--profilingVerbosity": ("layer_names_only", "detailed", "none", "default", "verbose"),
}
_SHAPES = ("--minShapes", "--optShapes", "--maxShapes", "--shapes")


class Wrong(Exception):
    """What trtexec throws over a value."""


def sections(version: tuple[int, int, int]) -> list[tuple[str, list[str]]]:
    """Return the help's sections and their options for the line that ``version`` belongs to."""
    chosen: list[tuple[str, list[str]]] = []
    taken: list[tuple[str, list[str]]] = []
    for line in _FLAGS.read_text(encoding="ascii").splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("["):
            if taken:
                chosen = taken
            first = tuple(int(part) for part in line.strip("[]").split("."))
            if first > version:
                return chosen
            taken = []
        elif line.startswith("= "):
            taken.append((line[2:], []))
        else:
            taken[-1][1].extend(line.split())
    return taken


def known(version: tuple[int, int, int]) -> set[str]:
    """Return every option of a version."""
    found = {"--help", "-h"}
    for _, options in sections(version):
        for option in options:
            match = _SPEC.match(_alias_apart(option)[0])
            assert match, option
            found.add(match[1])
            found.update(_alias_apart(option)[1:])
    return found


def _alias_apart(option: str) -> list[str]:
    """``--versionCompatible,--vc`` as two; commas inside a value's pattern stay."""
    head, comma, alias = option.partition(",--")
    return [head, "--" + alias] if comma else [option]


def help_text(version: tuple[int, int, int]) -> str:
    """Return a help laid out as the real one: options two spaces in, prose far to the right."""
    lines = []
    for title, options in sections(version):
        lines.append(f"=== {title} ===")
        for option in options:
            shown = ", ".join(_alias_apart(option))
            lines.append(f"  {shown:<35}What it sets (default = disabled)")
            if option.startswith("--profile") and "=" not in option:
                # The real one shows an example here: it must not be taken for options.
                lines.append(f"{'':37}(ex: --profile=0 --minShapes=<spec> --onlyInProse=1 ...)")
        if not options:
            lines.append(f"{'':30}Prose without options, about --batch and shapes")
        lines.append("")
    lines += ["=== Help ===", "  --help, -h                  Print this message"]
    return "\n".join(lines)


@dataclass
class Options:
    """What the command line says."""

    version: tuple[int, int, int]
    values: dict[str, str] = field(default_factory=dict)
    profiles: list[dict[str, dict[str, tuple[int, ...]]]] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unknown: list[tuple[str, str]] = field(default_factory=list)

    def has(self, flag: str) -> bool:
        return flag in self.values

    def get(self, flag: str, default: str = "") -> str:
        return self.values.get(flag, default)

    def number(self, flag: str, default: float) -> float:
        return float(self.values[flag]) if flag in self.values else default


def parse(words: list[str], version: tuple[int, int, int]) -> Options:
    """Read the words as trtexec does: each is ``name`` or ``name=value``, split at the first =."""
    options = Options(version, profiles=[{}])
    accepted = known(version)
    for word in words:
        flag, _, value = word.partition("=")
        if flag not in accepted:
            options.unknown.append((flag, value))
            continue
        if flag == "--profile":
            number = _whole(value)
            while len(options.profiles) <= number:
                options.profiles.append({})
            options.values[flag] = value
        elif flag in _SHAPES:
            shapes = _shape_list(value, version)
            if flag == "--shapes":
                options.shapes = shapes
            else:
                number = int(options.values.get("--profile", "0"))
                options.profiles[number][flag[2:5]] = shapes
        else:
            _check(flag, value, version)
            options.values[flag] = value
    for profile in options.profiles:
        if profile and set(profile) not in ({"min", "opt", "max"}, {"opt"}):
            raise Wrong(
                "Must specify only --optShapes or all of --minShapes, --optShapes, --maxShapes"
            )
    if options.has("--best") and options.has("--stronglyTyped"):
        raise Wrong("--best and --stronglyTyped cannot be both set.")
    return options


def _check(flag: str, value: str, version: tuple[int, int, int]) -> None:
    if flag in _WHOLE:
        _whole(value)
    elif flag in _NUMBERS:
        _number(value)
    elif flag in _CHOICES and value not in _CHOICES[flag]:
        raise Wrong(f"Unknown {flag[2:]} mode: {value}")
    elif flag == "--percentile":
        if any(not 0 <= _number(part) <= 100 for part in value.split(",")):
            raise Wrong(f"Percentile {value} is not in [0,100]")
    elif flag == "--memPoolSize":
        for part in value.split(","):
            pool, _, size = part.partition(":")
            if pool not in ("workspace", "dlaSRAM", "dlaLocalDRAM", "dlaGlobalDRAM"):
                raise Wrong(f"Unknown memory pool: {pool}")
            _number(size.rstrip("BKMG") if version >= (10, 0, 0) else size)


def _whole(text: str) -> int:
    match = re.match(r"\s*[+-]?\d+", text)
    if not match:
        raise Wrong("stoi")
    return int(match[0])


def _number(text: str) -> float:
    match = re.match(r"\s*[+-]?\d+(\.\d*)?", text)
    if not match:
        raise Wrong("stof")
    return float(match[0])


def _shape_list(text: str, version: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Split at commas, then at the last colon; quotes are taken out of names."""
    shapes = {}
    for part in (p for p in text.split(",") if p):
        name, colon, dims = part.rpartition(":")
        if not colon:
            raise Wrong("stoi")
        if dims in ("", "scalar"):
            if version < (10, 0, 0):
                raise Wrong("stoi")
            shapes[name.replace("'", "")] = ()
            continue
        shapes[name.replace("'", "")] = tuple(_whole(d) for d in dims.split("x"))
    return shapes
