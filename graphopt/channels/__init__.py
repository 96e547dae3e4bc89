"""What pruning knows of operators: one rule per op, channel groups, plans, and the proof.

::

    analysis = analyze(model)                    # which channels can go, and what goes with them
    scores = importance(model, analysis.groups)  # which of them matter least
    plan = make_plan(analysis, scores, 0.3)      # a value: save it, replay it
    apply_plan(model, plan)                      # in place

How it works, and how to add an operator: ``docs/pruning.md``.
"""

from graphopt.channels.apply import apply_plan, read_survivors, survivors
from graphopt.channels.groups import ChannelAnalysis, FrozenGroup, Group, Member, analyze
from graphopt.channels.mask import masked
from graphopt.channels.plan import GroupPlan, MemberPlan, PrunePlan, make_plan

__all__ = [
    "ChannelAnalysis",
    "FrozenGroup",
    "Group",
    "GroupPlan",
    "Member",
    "MemberPlan",
    "PrunePlan",
    "analyze",
    "apply_plan",
    "make_plan",
    "masked",
    "read_survivors",
    "survivors",
]
