"""Where tasks come from and how answers are checked."""

from __future__ import annotations

from autotelic.environments.base import (
    Checked,
    Environment,
    HoldsBack,
    KnowsForm,
    ShowsExamples,
    make_environment,
    open_environment,
    parse_config,
    plain_answer,
    solved,
)

__all__ = [
    "Checked",
    "Environment",
    "HoldsBack",
    "KnowsForm",
    "ShowsExamples",
    "make_environment",
    "open_environment",
    "parse_config",
    "plain_answer",
    "solved",
]
