"""`autotelic eval --strategy` on a finished simulated run: answered once, compared, drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.cli.strategies import split_strategies
from autotelic.core.errors import UsageError
from autotelic.store import EvaluationRow, Ledger, StrategyRow

WAYS = "direct, self_consistency(n=4, batch=2), reflexion(tries=2)"


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)


def test_strategies_answer_a_suite_and_are_compared_with_the_first(copied: Path) -> None:
    found = json.loads(invoke("eval", copied, "--strategy", WAYS, "--json").stdout)
    names = ["direct", "self_consistency(n=4, batch=2)", "reflexion(tries=2)"]
    assert [one["strategy"] for one in found["strategies"]] == names and found["n"] == 24
    ledger = Ledger(copied / "ledger.sqlite")
    rows = ledger.rows(StrategyRow)
    assert len(rows) == 3 * 24 and {row.suite for row in rows} == {"frozen"}
    direct, voted, tried = found["strategies"]
    champion = ledger.rows(EvaluationRow, suite="frozen", policy=found["policy"], memory=False)
    assert direct["accuracy"]["mean"] == sum(row.score or 0 for row in champion) / 24, "greedy is greedy"
    assert direct["gain"] is None and direct["calls"] == 1 and voted["gain"]["n"] == tried["gain"]["n"] == 24
    assert voted["gain"]["gain"] == pytest.approx(voted["accuracy"]["mean"] - direct["accuracy"]["mean"])
    revised = ledger.rows(StrategyRow, strategy=names[2])
    flips = [(row.first_score, row.score) for row in revised]
    assert (tried["mended"], tried["spoiled"]) == (flips.count((0.0, 1.0)), flips.count((1.0, 0.0)))
    assert all(row.drafts for row in rows if row.strategy != "direct")
    page = Path(found["page"]).read_text()
    assert all(name in page for name in names) and "<svg" in page and "<script" not in page
    ledger.close()

    again = json.loads(invoke("eval", copied, "--strategy", WAYS, "--json").stdout)
    assert again == found, "nothing was asked twice"
    shown = invoke("eval", copied, "--strategy", "direct,self_consistency(n=4, batch=2)")
    lines = shown.stdout.splitlines()
    assert any("self_consistency" in line and "[" in line for line in lines) and max(map(len, lines)) <= 80


def test_a_budget_makes_rows_of_its_own(copied: Path) -> None:
    found = json.loads(invoke("eval", copied, "--strategy", "reflexion(tries=3)", "--calls", 1, "--json").stdout)
    (one,) = found["strategies"]
    assert one["calls"] == 1 and one["stopped"] == 24
    ledger = Ledger(copied / "ledger.sqlite")
    assert {row.strategy for row in ledger.rows(StrategyRow)} == {"reflexion(tries=3) within 1 calls"}
    ledger.close()


def test_a_list_of_strategies_is_split_between_them() -> None:
    assert split_strategies("direct,best_of(direct, n=3),direct") == ["direct", "best_of(direct, n=3)"]
    for text in ("", "direct,,", "best_of("):
        with pytest.raises(UsageError, match="no list of strategies"):
            split_strategies(text)


def test_what_cannot_work_is_said_before_anything_is_started(copied: Path) -> None:
    with pytest.raises(UsageError, match="no strategy is called 'nobody'"):
        invoke("eval", copied, "--strategy", "nobody")
    with pytest.raises(UsageError, match="has no suite 'spring'"):
        invoke("eval", copied, "--strategy", "direct", "--suite", "spring")


def test_strategies_are_listed_and_shown() -> None:
    listed = json.loads(invoke("strategies", "list", "--json").stdout)
    assert {"strategy": "universal", "parameters": "inner, n=5"}.items() <= listed[-1].items()
    assert "arXiv 2303.11366" in json.loads(invoke("strategies", "show", "reflexion", "--json").stdout)["what"]
