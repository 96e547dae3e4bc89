"""A history of runs: kept in one SQLite file, asked, compared with, exported, searched for shifts.

::

    with History.open("history.db") as history:         # made, where there is none
        number = history.add(run)
        history.set_baseline("v1", number)
    with History.open("history.db", write=False) as history:
        number, base = history.baseline("last-good", subject="net.onnx", fingerprint=here)
"""

from __future__ import annotations

from graphopt.profiles.history.baseline import check_name
from graphopt.profiles.history.pack import fingerprint_hash
from graphopt.profiles.history.query import Entry, Point, Query
from graphopt.profiles.history.store import Column, History

__all__ = ["Column", "Entry", "History", "Point", "Query", "check_name", "fingerprint_hash"]
