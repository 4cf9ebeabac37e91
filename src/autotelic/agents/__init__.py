"""The four roles. A role is a prompt, a model handle and a structured output."""

from __future__ import annotations

from autotelic.agents.critic import Critic
from autotelic.agents.curator import Curator, Review
from autotelic.agents.memory_tools import memory_tools
from autotelic.agents.proposer import Draft, Proposer
from autotelic.agents.solver import Attempt, Solver, demonstration_turns
from autotelic.agents.tool_loop import Bounds, CallRecord, Conversation, ToolLoop, Turn

__all__ = [
    "Attempt",
    "Bounds",
    "CallRecord",
    "Conversation",
    "Critic",
    "Curator",
    "Draft",
    "Proposer",
    "Review",
    "Solver",
    "ToolLoop",
    "Turn",
    "demonstration_turns",
    "memory_tools",
]
