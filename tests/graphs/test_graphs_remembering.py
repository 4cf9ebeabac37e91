"""The life of a memory in a run: lessons are drawn and shown, what was learned leaves, and comes back when needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import small, snapshot
from typer.testing import CliRunner

from autotelic.cli.app import app
from autotelic.graphs import Outcome
from autotelic.memory import Lesson, Memory
from autotelic.store import EpisodeRow, ExampleRow, Ledger

pytestmark = pytest.mark.e2e

LIFE = small(memory={"lessons": 1, "new_lessons": 4, "consolidate": True})
ADVICE = "Advice from experience:"

Play = Callable[..., tuple[Outcome, Ledger]]


def remembered(run: Path, *args: object) -> Any:
    result = CliRunner().invoke(app, ["memory", *map(str, args), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_lessons_are_drawn_shown_in_later_rounds_and_never_trained(play: Play, tmp_path: Path) -> None:
    outcome, ledger = play(LIFE)
    assert outcome.stop == "rounds"
    lessons = [Lesson.model_validate(one) for one in remembered(tmp_path, "list", tmp_path / "run", "--kind", "lesson")]
    episodes = {e.id: e for e in ledger.rows(EpisodeRow)}
    assert lessons
    for one in lessons:
        assert all(episodes[e].score == 1.0 for e in one.right) and all(episodes[e].score != 1.0 for e in one.wrong)
        assert {episodes[e].family for e in (*one.right, *one.wrong)} == {one.family}
    ids = {one.id for one in lessons}
    shown = [e for e in episodes.values() if ids & set(e.memory_ids)]
    assert shown and {e.round for e in shown} == {2}
    assert all(ADVICE in e.messages[0]["content"] and ADVICE not in e.bare_messages[0]["content"] for e in shown)
    assert not any(ADVICE in m["content"] for row in ledger.rows(ExampleRow) for m in row.messages)


def test_what_a_promoted_policy_does_alone_leaves_its_prompts_and_can_be_restored(play: Play, tmp_path: Path) -> None:
    _, ledger = play(LIFE)
    run = tmp_path / "run"
    gates = {number: ledger.node(number, "gate").detail for number in (1, 2)}
    learned = set(gates[1]["learned"])
    assert learned
    assert not any(learned & set(e.memory_ids) for e in ledger.rows(EpisodeRow, round=2)), "they left the prompts"
    back = set(gates[2].get("needed", ()))
    assert back <= learned
    gone = {row["id"] for row in remembered(run, "list", run, "--limit", 500)} & (learned - back)
    restored = remembered(run, "restore", run, "--why", "consolidated")["restored"]
    assert learned - back <= set(restored) and gone == learned - back
    assert sum(row["out_of_sight"].get("consolidated", 0) for row in remembered(run, "stats", run)) == 0


def test_cut_off_in_the_middle_it_comes_to_the_same(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(LIFE, "smooth")
    calls: Counter[str] = Counter()

    def dying(moment: str) -> Callable[..., Any]:
        real = getattr(Memory, moment)

        async def dies(self: Memory, *args: Any, **kwargs: Any) -> Any:
            done = await real(self, *args, **kwargs)
            calls[moment] += 1
            if calls[moment] in {1, 3}:
                raise RuntimeError("cut off")
            return done

        return dies

    for moment in ("add", "retire", "restore"):
        monkeypatch.setattr(Memory, moment, dying(moment))
    deaths = 0
    while True:
        try:
            play(LIFE, "cut")
            break
        except RuntimeError:
            deaths += 1
    assert deaths >= 5
    cut, smooth = (snapshot(tmp_path / name / "ledger.sqlite") for name in ("cut", "smooth"))
    assert cut == smooth


def test_advice_that_mended_an_answer_is_remembered_and_found_again(play: Play, tmp_path: Path) -> None:
    told = {"samples": 4, "bare": 0.0, "strategy": "reflexion(tries=3, by='checker')"}
    _, ledger = play(small(solve=told, memory={"lessons": 1}))
    every = remembered(tmp_path, "list", tmp_path / "run", "--kind", "lesson", "--limit", 500)
    lessons = [one for one in map(Lesson.model_validate, every) if "/solve/" in one.id]
    assert lessons and all(one.advice for one in lessons)
    rested = {e.id: e for e in ledger.rows(EpisodeRow) if e.id in {id_ for one in lessons for id_ in one.right}}
    assert len(rested) == len({one.right for one in lessons}) and all(e.score == 1.0 for e in rested.values())
    shown = {id_ for e in ledger.rows(EpisodeRow, round=2) for id_ in e.memory_ids}
    assert shown & {one.id for one in lessons if one.round == 1}
