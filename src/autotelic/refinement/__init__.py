"""Inference refinement: better answers without touching the weights.

Decoding, feedback, planning, search and debate are strategies: each takes a task's `Work` and gives an answer with its
trace and its price, and they compose by wrapping.
"""

from __future__ import annotations

from autotelic.refinement.adapted import Adapting, adapted
from autotelic.refinement.auto import auto
from autotelic.refinement.build import build_strategy, consults_critic, fan_out, parameters, uses
from autotelic.refinement.contrast import contrastive
from autotelic.refinement.decoding import best_of, direct, guided, self_consistency, tool_loop, universal
from autotelic.refinement.feedback import critic, reflexion, self_debug, self_refine
from autotelic.refinement.few_shot import few_shot
from autotelic.refinement.meter import Budget, Meter, Price, Spent, Step, Tally
from autotelic.refinement.planning import least_to_most, plan_and_solve
from autotelic.refinement.prompted import ALL_FAMILIES, prompted
from autotelic.refinement.search import monte_carlo, tree_of_thoughts
from autotelic.refinement.together import conversation, debate, mixture
from autotelic.refinement.voting import Vote, decided, vote
from autotelic.refinement.work import (
    Answer,
    Draft,
    Examples,
    Form,
    Strategy,
    Work,
    answer_task,
    strategy_of,
)

__all__ = [
    "ALL_FAMILIES",
    "Adapting",
    "Answer",
    "Budget",
    "Draft",
    "Examples",
    "Form",
    "Meter",
    "Price",
    "Spent",
    "Step",
    "Strategy",
    "Tally",
    "Vote",
    "Work",
    "adapted",
    "answer_task",
    "auto",
    "best_of",
    "build_strategy",
    "consults_critic",
    "contrastive",
    "conversation",
    "critic",
    "debate",
    "decided",
    "direct",
    "fan_out",
    "few_shot",
    "guided",
    "least_to_most",
    "mixture",
    "monte_carlo",
    "parameters",
    "plan_and_solve",
    "prompted",
    "reflexion",
    "self_consistency",
    "self_debug",
    "self_refine",
    "strategy_of",
    "tool_loop",
    "tree_of_thoughts",
    "universal",
    "uses",
    "vote",
]
