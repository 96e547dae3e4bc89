"""How much each channel group loses alone at a ratio, and each layer in INT8 alone.

* :mod:`~graphopt.sensitivity.values`: the figures, and the order to follow;
* :mod:`~graphopt.sensitivity.work`: what is to be measured, and what it saves;
* :mod:`~graphopt.sensitivity.cut`: the part of a changed model that has to run;
* :mod:`~graphopt.sensitivity.layers`: one layer in INT8 as the build would have it;
* :mod:`~graphopt.sensitivity.steps`: that part run on what is kept;
* :mod:`~graphopt.sensitivity.measure`: every change, on one run of the unchanged model;
* :mod:`~graphopt.sensitivity.run`: all of it;
* :mod:`~graphopt.sensitivity.store`: figures in a file, to go on from.
"""

from graphopt.sensitivity.run import MEASURED, Options, analyze, fewer
from graphopt.sensitivity.store import Journal, known_from, load
from graphopt.sensitivity.values import (
    KINDS,
    RATIOS,
    Item,
    LeftOut,
    Loss,
    Sensitivity,
    Subject,
    parse_ratios,
)

__all__ = [
    "KINDS",
    "MEASURED",
    "RATIOS",
    "Item",
    "Journal",
    "LeftOut",
    "Loss",
    "Options",
    "Sensitivity",
    "Subject",
    "analyze",
    "fewer",
    "known_from",
    "load",
    "parse_ratios",
]
