"""What makes figures mean less than they seem to: noticed, and said in one line each.

Each check returns lines for the user, what was seen and what to do; none prints or raises on what
it finds. They look at tens of samples, and at digests of all.
"""

from __future__ import annotations

from graphopt.honesty.answers import check_answers
from graphopt.honesty.inputs import check_scale
from graphopt.honesty.overlap import check_apart, check_repeated, overlap

__all__ = ["check_answers", "check_apart", "check_repeated", "check_scale", "overlap"]
