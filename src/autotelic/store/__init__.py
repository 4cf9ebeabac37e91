"""The ledger and its tables."""

from __future__ import annotations

from autotelic.store.ledger import Ledger
from autotelic.store.tables import (
    AlarmRow,
    CritiqueRow,
    CurationRow,
    DeliveryRow,
    EpisodeRow,
    EvaluationRow,
    ExampleRow,
    GateRow,
    NodeRow,
    PolicyRow,
    PromptCallRow,
    PromptRow,
    ProposalRow,
    RouteRow,
    RunRow,
    SkillRow,
    StrategyRow,
    SuiteRow,
    TaskRow,
    ToolCallRow,
    TrialRow,
)

__all__ = [
    "AlarmRow",
    "CritiqueRow",
    "CurationRow",
    "DeliveryRow",
    "EpisodeRow",
    "EvaluationRow",
    "ExampleRow",
    "GateRow",
    "Ledger",
    "NodeRow",
    "PolicyRow",
    "PromptCallRow",
    "PromptRow",
    "ProposalRow",
    "RouteRow",
    "RunRow",
    "SkillRow",
    "StrategyRow",
    "SuiteRow",
    "TaskRow",
    "ToolCallRow",
    "TrialRow",
]
