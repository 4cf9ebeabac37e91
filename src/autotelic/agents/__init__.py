"""The roles. A role is a prompt, a model handle and a structured output."""

from __future__ import annotations

from autotelic.agents.critic import Critic
from autotelic.agents.curator import Curator, Review
from autotelic.agents.memory_tools import memory_tools
from autotelic.agents.proposer import Draft, Proposer
from autotelic.agents.skills import Unfit, skill_tool
from autotelic.agents.solver import Attempt, Solver, advised, demonstration_turns
from autotelic.agents.tool_loop import Bounds, CallRecord, Conversation, Picker, ToolLoop, Turn
from autotelic.agents.tool_pick import ToolPicker, pick_tools
from autotelic.agents.toolsmith import SkillDraft, Toolsmith, check_tests, next_version, read_draft

__all__ = [
    "Attempt",
    "Bounds",
    "CallRecord",
    "Conversation",
    "Critic",
    "Curator",
    "Draft",
    "Picker",
    "Proposer",
    "Review",
    "SkillDraft",
    "Solver",
    "ToolLoop",
    "ToolPicker",
    "Toolsmith",
    "Turn",
    "Unfit",
    "advised",
    "check_tests",
    "demonstration_turns",
    "memory_tools",
    "next_version",
    "pick_tools",
    "read_draft",
    "skill_tool",
]
