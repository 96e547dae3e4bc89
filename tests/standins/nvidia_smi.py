"""Stand-ins for nvidia-smi: one that lists a GPU, whatever it is asked, and one that is strict."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

T4 = "Tesla T4, 7.5, 15360, 535.161.08"
XAVIER = "NVIDIA Jetson AGX Xavier, 7.2, 32768, 35.4.1"


def install(folder: Path, gpu: str) -> Path:
    """Write an executable ``nvidia-smi`` that lists ``gpu``: name, SM, MiB, driver."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncase $* in *query-gpu*) echo '{gpu}' ;; esac\n")
    program.chmod(0o755)
    return program


def install_strict(
    folder: Path,
    values: Mapping[str, str],
    *,
    heat: str = "",
    record: Path | None = None,
    busy: Path | None = None,
    busy_values: Mapping[str, str] | None = None,
) -> Path:
    """Write an ``nvidia-smi`` that refuses a query for a field it has no value for, as drivers do.

    Args:
        folder: for it.
        values: field -> what it prints.
        heat: what ``-q -d TEMPERATURE`` prints.
        record: a file to which each call is added, and the process id.
        busy: a file; while it is there ``busy_values`` count.
        busy_values: field -> what it prints then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = {".values": values, ".busy": {**values, **(busy_values or {})}}
    for name, table in tables.items():
        (folder / name).write_text("".join(f"{k}={v}\n" for k, v in table.items()))
    (folder / ".heat").write_text(heat)
    program = folder / "nvidia-smi"
    home, out, flag = (shlex.quote(str(p)) for p in (folder, record or "/dev/null", busy or "none"))
    program.write_text(f"#!/bin/sh\nhome={home} out={out} busy={flag}\n{_STRICT}")
    program.chmod(0o755)
    return program


_STRICT = r"""
echo $$ "$@" >>"$out"
[ "$1 $2 $3" = '-q -d TEMPERATURE' ] && exec cat "$home/.heat"
fields= every=
while [ $# -gt 0 ]; do
    case $1 in
    --query-gpu=*) fields=${1#*=} ;;
    -lms) every=$2; shift ;;
    esac
    shift
done
while :; do
    table=$home/.values
    if [ -e "$busy" ]; then table=$home/.busy; fi
    awk -v fields="$fields" '
        { at = index($0, "="); value[substr($0, 1, at - 1)] = substr($0, at + 1) }
        END {
            count = split(fields, names, ",")
            for (i = 1; i <= count; i++) {
                if (!(names[i] in value)) {
                    printf "Field \"%s\" is not a valid field to query.\n\n", names[i]
                    exit 2
                }
                row = row (i > 1 ? ", " : "") value[names[i]]
            }
            print row
        }' "$table" || exit
    [ -n "$every" ] || exit 0
    sleep "$(awk "BEGIN { print $every / 1000 }")"
done
"""
