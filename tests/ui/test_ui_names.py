from __future__ import annotations

import pytest

from autotelic.core.errors import UsageError
from autotelic.ui.names import Named, read_name


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("champion", Named()),
        ("policy-3", Named(policy=3)),
        ("champion:self-consistency-8", Named(strategy="self_consistency(n=8)")),
        ("policy-12:best_of(n=3, by='critic')", Named(policy=12, strategy="best_of(n=3, by='critic')")),
        ("champion:reflexion-2", Named(strategy="reflexion(tries=2)")),
        ("champion:direct", Named(strategy="direct")),
        ("graph:solve", Named(graph="solve")),
    ],
)
def test_what_names_mean(name: str, means: Named) -> None:
    assert read_name(name) == means


@pytest.mark.parametrize(
    "name",
    [
        "", "gpt-4o", "policy-", "policy--1", "policy-3x", "graph:", "champion:nobody", "champion:direct-3",
        "champion:self-consistency-0", "champion:__import__('os').system('true')", "champion:adapted", "policy-1:a-b-",
    ],
)  # fmt: skip
def test_what_means_nothing(name: str) -> None:
    with pytest.raises(UsageError):
        read_name(name)
