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


def test_a_name_is_a_small_program_at_most() -> None:
    assert read_name("champion:best_of(n=1000)").strategy == "best_of(n=1000)"
    for name in ("champion:best_of(" + "direct," * 1000 + "n=2)", "champion:debate(speakers=1000000)"):
        with pytest.raises(UsageError):
            read_name(name)
    for name in (
        "best_of(best_of(n=200), n=200)",
        "best_of(" * 6 + "direct" + ")" * 6,
        "debate(best_of(n=99), speakers=999)",
    ):
        with pytest.raises(UsageError, match="answers at once"):
            read_name(f"champion:{name}")


def test_what_a_caller_writes_beside_a_strategy_is_no_part_of_its_name() -> None:
    assert read_name("champion:best_of(\n  n = 3) # mine").strategy == "best_of(n=3)"
    assert read_name("champion:(direct) # yours").strategy == "direct"
