"""Find the plan that leads from a model to one that was pruned elsewhere."""

from graphopt.channels.matching.match import Matched, match, student

__all__ = ["Matched", "match", "student"]
