"""A run whose solver has tools: calls in the ledger, whole conversations in memory and training, refusals recorded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import right_answer, small

from autotelic.core.words import Role, TrainingExample
from autotelic.graphs import Outcome
from autotelic.store import EpisodeRow, EvaluationRow, ExampleRow, Ledger, ToolCallRow

Play = Callable[..., tuple[Outcome, Ledger]]
FILE = '''
import autotelic
from tests.graphs.simulated import right_answer

@autotelic.tool
def oracle(question: str) -> str:
    "Tell the answer to a question."
    return right_answer(question)

@autotelic.tool(permission="network")
def send(question: str) -> str:
    "Tell the world."
    raise AssertionError("must not be called")
'''


@pytest.fixture
def played(play: Play, tmp_path: Path) -> tuple[Outcome, Ledger]:
    file = tmp_path / "house_tools.py"
    file.write_text(FILE)
    return play(small(tools={"use": [str(file)]}, solve={"bare": 0.5, "max_tokens": 64}))


def test_a_tool_in_a_file_is_used_recorded_and_learned(played: tuple[Outcome, Ledger], tmp_path: Path) -> None:
    outcome, ledger = played
    assert outcome.champion > 0 and outcome.stop == "rounds"
    episodes = ledger.rows(EpisodeRow, order="id")
    calls: dict[str, list[ToolCallRow]] = {}
    for row in ledger.rows(ToolCallRow, order=["owner", "index"]):
        calls.setdefault(row.owner, []).append(row)
    for e in episodes:
        assert [(c.tool, c.ok, c.reason) for c in calls[e.id]] == [("oracle", True, "ok"), ("send", False, "refused")]
        assert [t["role"] for t in e.turns] == ["assistant", "tool", "tool"]
        assert e.turns[1]["content"] == calls[e.id][0].content == right_answer(e.bare_messages[-1]["content"])
        assert e.turns[0]["token_ids"] == list(e.turns[0]["content"].encode()), "as the server gave them"
        assert json.loads(e.text) == {"answer": e.answer}
    evaluated = {f"eval/{r.suite}/{r.round}/{r.policy}/{r.memory}/{r.task_id}" for r in ledger.rows(EvaluationRow)}
    assert calls.keys() == {e.id for e in episodes} | evaluated

    by_id = {e.id: e for e in episodes}
    learned = [row for row in ledger.rows(ExampleRow, origin="new", role="solver")]
    assert learned
    for example in learned:
        source = by_id[example.source]
        assert [(t["role"], t["content"]) for t in example.turns] == [(t["role"], t["content"]) for t in source.turns]
        assert example.completion == source.text and example.messages == source.bare_messages
    assert not ledger.rows(ExampleRow, origin="real"), "real examples show no calls"

    written = (tmp_path / "run" / "policies" / "round-1.examples.jsonl").read_text().splitlines()
    examples = [TrainingExample.model_validate_json(line) for line in written]
    offered = {e.role: [t["function"]["name"] for t in e.tools] for e in examples}
    assert offered[Role.SOLVER] == ["oracle"] and not offered.get(Role.PROPOSER)


def test_the_report_counts_calls_and_shows_them(played: tuple[Outcome, Ledger], tmp_path: Path) -> None:
    _, ledger = played
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for r in report["rounds"]:
        n = ledger.count(EpisodeRow, round=r["round"])
        assert r["tools"] == {"oracle": {"ok": n}, "send": {"refused": n}}
        assert [m["role"] for m in r["samples"][0]["messages"]][-3:] == ["assistant", "tool", "tool"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Calls of tools in episodes" in page and "send was not called" in page


def test_memory_shows_whole_conversations(played: tuple[Outcome, Ledger], tmp_path: Path) -> None:
    _, ledger = played
    db = sqlite3.connect(f"file:{tmp_path / 'run' / 'memory' / 'demonstrations.sqlite'}?mode=ro", uri=True)
    remembered: list[dict[str, Any]] = [json.loads(body) for (body,) in db.execute("SELECT body FROM demonstrations")]
    assert remembered and all([t["role"] for t in d["turns"]] == ["assistant", "tool", "tool"] for d in remembered)
    helped = [e for e in ledger.rows(EpisodeRow, round=2) if e.memory_ids]
    assert helped
    for e in helped:
        shown = [m["role"] for m in e.messages]
        one = ["user", "assistant", "tool", "tool", "assistant"]
        assert shown == ["system", *one * len(e.memory_ids), "user"]
