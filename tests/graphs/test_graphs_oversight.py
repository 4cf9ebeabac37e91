"""What a person has to decide waits, is asked once, is answered from anywhere, and cannot be changed unnoticed."""

from __future__ import annotations

import json
import os
import pwd
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from tests.graphs.simulated import small
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.config import dump_config, load_config
from autotelic.core.errors import StoreError, UsageError
from autotelic.core.run_dir import RunDir
from autotelic.graphs import Config, Outcome
from autotelic.graphs.oversight import answer, check_log, decided, log_head, request, withdraw
from autotelic.store import ApprovalRow, DecisionRow, DeliveryRow, GateRow, Ledger, PolicyRow, ToolCallRow

QUESTION = {"ask": "promote policy-1?", "reasons": ["fresh: it gains"]}


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    made = Ledger(tmp_path / "ledger.sqlite")
    yield made
    made.close()


def test_what_was_asked_is_not_asked_again(ledger: Ledger) -> None:
    asked: list[dict[str, Any]] = []

    class Waits(Exception):
        pass

    def ask(question: dict[str, Any]) -> Any:
        asked.append(question)
        raise Waits

    for _ in range(3):
        with pytest.raises(Waits):
            decided(ledger, "promotion", "policy-1", QUESTION, ask)
    (row,) = ledger.rows(ApprovalRow)
    assert asked[0]["request"] == row.id and row.answer is None
    made = answer(ledger, row.id, True, by="ada", why="it is good")
    assert decided(ledger, "promotion", "policy-1", QUESTION, ask) is True and len(asked) == 3
    assert (made.by, made.why, made.answer) == ("ada", "it is good", True)
    with pytest.raises(UsageError, match="approved before"):
        answer(ledger, row.id, False)
    with pytest.raises(UsageError, match="no request 'forged'"):
        answer(ledger, "forged", True)


def test_an_answer_that_was_cut_off_leaves_the_request_open(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    row = request(ledger, "promotion", "policy-1", QUESTION)

    class Killed(BaseException):
        pass

    def killed() -> str:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("autotelic.graphs.oversight.time.time", killed)
        answer(ledger, row.id, False)
    assert ledger.column(ApprovalRow, "answer") == [None] and not ledger.count(DecisionRow)
    assert answer(ledger, row.id, True).answer and check_log(ledger) == 1
    (answered,) = ledger.rows(ApprovalRow)
    assert answered.answer is True and answered.answered_at


def test_who_decided_is_not_what_the_environment_says(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "ada")
    row = request(ledger, "promotion", "policy-1", QUESTION)
    assert answer(ledger, row.id, True).by == pwd.getpwuid(os.getuid()).pw_name != "ada"
    monkeypatch.setattr("autotelic.graphs.oversight.os.getuid", lambda: 2**31 - 7)
    row = request(ledger, "promotion", "policy-2", QUESTION)
    assert answer(ledger, row.id, True).by == "unknown"


def test_what_is_withdrawn_is_refused_once_if_it_is_open(ledger: Ledger) -> None:
    row = request(ledger, "tool", "chat/1", QUESTION)
    for asked in (None, QUESTION, {"request": "elsewhere"}, {"request": row.id}, {"request": row.id}):
        withdraw(ledger, asked)
    (made,) = ledger.rows(DecisionRow)
    assert made.approval == row.id and not made.answer and "taken back" in made.why


@pytest.mark.parametrize("evil", ["[/x]", "[conceal]rm -rf ~[/conceal]", "\x1b[8mhidden"])
def test_all_that_a_model_wants_to_call_is_shown_to_who_decides(tmp_path: Path, evil: str) -> None:
    run = RunDir(tmp_path / "run").create()
    with closing(Ledger(run.ledger)) as ledger:
        row = request(ledger, "tool", "chat/1", {"ask": "call write?", "reasons": [evil]})
        answer(ledger, row.id, False, by=evil)
        request(ledger, "tool", "chat/2", {"ask": "call write?", "reasons": [evil]})
    shown = "".join(invoke("approvals", run.root).stdout.split())
    assert "\x1b" not in shown
    assert shown.count("[conceal]") == 3 * ("conceal" in evil) and shown.count("[/x]") == 3 * (evil == "[/x]")


def test_who_decides_sees_the_id_every_reason_and_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotelic.cli.shown.out.width", 80)
    run = RunDir(tmp_path / "run").create()
    reasons = ["fresh: it gains", "frozen: it loses nothing", "no suite: fell"]
    with closing(Ledger(run.ledger)) as ledger:
        first = request(ledger, "promotion", "policy-1", {"ask": "promote policy-1?", "reasons": reasons})
        made = answer(ledger, first.id, True)
        second = request(ledger, "promotion", "policy-2", {"ask": "promote policy-2?", "reasons": reasons})
    shown = invoke("approvals", run.root).stdout
    assert first.id in shown and second.id in shown and made.hash in shown
    words = " ".join(shown.replace("│", " ").split())
    assert all(words.count(word) == 2 for word in ("gains", "nothing", "fell"))


def test_many_who_answer_at_once_make_one_decision(ledger: Ledger, tmp_path: Path) -> None:
    rows = [request(ledger, "promotion", f"policy-{number}", QUESTION) for number in range(6)]
    together = Barrier(8)

    def say(number: int) -> int:
        mine, made = Ledger(tmp_path / "ledger.sqlite"), 0
        together.wait()
        for row in rows:
            with suppress(UsageError):
                made += answer(mine, row.id, number % 2 == 0) is not None
        mine.close()
        return made

    with ThreadPoolExecutor(8) as people:
        assert sum(people.map(say, range(8))) == len(rows)
    assert check_log(ledger) == len(rows)
    said = {one.approval: one.answer for one in ledger.rows(DecisionRow)}
    assert said == {one.id: one.answer for one in ledger.rows(ApprovalRow)}


def answering(said: Any, asked: dict[str, Any]) -> Any:
    """Say something, whatever is asked."""
    return said


def test_only_yes_is_a_yes(ledger: Ledger) -> None:
    for number, said in enumerate((None, "yes", 1, [True], False)):
        assert decided(ledger, "promotion", f"policy-{number}", QUESTION, partial(answering, said)) is False
    assert decided(ledger, "promotion", "policy-9", QUESTION, lambda _: True) is True


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE decision SET answer = 1 WHERE number = 2",
        "UPDATE decision SET why = 'because' WHERE number = 3",
        "DELETE FROM decision WHERE number = 2",
        "DELETE FROM decision WHERE number = 4",
        "DELETE FROM decision",
        "UPDATE decision SET number = number + 1 WHERE number = 4",
        "INSERT INTO decision SELECT 5, approval, kind, subject, question, 1, by, why, at, hash, hash FROM decision "
        "WHERE number = 4",
    ],
)
def test_a_log_that_was_changed_says_so(ledger: Ledger, tmp_path: Path, attack: str) -> None:
    for number in range(4):
        answer(ledger, request(ledger, "promotion", f"policy-{number}", QUESTION).id, number % 2 == 0)
    head = log_head(ledger)
    assert check_log(ledger, head) == 4
    with sqlite3.connect(tmp_path / "ledger.sqlite") as attacker:
        attacker.execute(attack)
    attacker.close()
    with pytest.raises(StoreError, match="was changed"):
        check_log(ledger, head)


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)


def test_a_session_waits_and_is_answered_from_elsewhere(
    play: Callable[..., tuple[Outcome, Ledger]], tmp_path: Path
) -> None:
    config = small(oversight=("promotion",), rounds=1)
    outcome, ledger = play(config)
    assert outcome.stop == "waiting" and outcome.question is not None
    again, _ = play(config)
    assert again.stop == "waiting" and ledger.count(ApprovalRow) == 1, "asked once, however often it begins anew"
    run = tmp_path / "run"
    (waiting,) = json.loads(invoke("approvals", run, "--json").stdout)["waiting"]
    assert waiting["id"] == outcome.question["request"] and waiting["question"]["reasons"]
    assert "policy-1 approved" in invoke("approve", run, waiting["id"], "--yes", "--why", "seen the report").stdout
    ended, _ = play(config)
    assert ended.stop != "waiting" and ended.champion == 1
    assert ledger.rows(GateRow)[0].promoted
    (made,) = ledger.rows(DecisionRow)
    assert made.why == "seen the report" and check_log(ledger) == 1


def test_a_person_starts_each_training_or_does_not(play: Callable[..., tuple[Outcome, Ledger]]) -> None:
    config = small(oversight=("training",), rounds=2)
    waiting, ledger = play(config)
    assert waiting.stop == "waiting" and waiting.question is not None
    assert waiting.question["ask"].startswith("train on ") and any(
        "solver, new" in one for one in waiting.question["reasons"]
    )
    assert not ledger.count(PolicyRow, round=1), "nothing was trained"
    second, _ = play(config, answer=False)
    assert second.stop == "waiting" and second.question is not None and "round 2" in second.question["ask"]
    assert not ledger.count(PolicyRow, round=1) and not ledger.count(GateRow)
    ended, _ = play(config, answer=True)
    assert ended.stop == "rounds" and ledger.count(PolicyRow, round=2) == 1
    assert [(row.subject, row.answer) for row in ledger.rows(DecisionRow, order="number")] == [
        ("round-1", False),
        ("round-2", True),
    ]


def test_a_person_starts_a_training_by_command_too(copied: Path) -> None:
    config = load_config(Config, copied / "config.yaml")
    dump_config(config.model_copy(update={"oversight": ("training", "promotion")}), copied / "config.yaml")
    ledger = Ledger(copied / "ledger.sqlite")
    policies = ledger.count(PolicyRow)
    waiting = invoke("train", copied, "--json")
    assert waiting.exit_code == 3 and json.loads(waiting.stdout)["waiting"]["ask"].startswith("train on ")
    refused = invoke("train", copied, "--refuse")
    assert refused.exit_code == 0 and "nothing was trained" in refused.stdout and ledger.count(PolicyRow) == policies
    round = json.loads(waiting.stdout)["round"]
    again = json.loads(invoke("train", copied, "--json").stdout)
    assert again["round"] == round + 1, "what was refused is not asked again"
    (request,) = ledger.rows(ApprovalRow, answer=None)
    answer(ledger, request.id, True)
    made = json.loads(invoke("train", copied, "--json").stdout)
    assert ledger.count(PolicyRow, round=round + 1) == 1
    assert made.get("promoted") is False or made["waiting"]["ask"].startswith("promote"), (
        "to let train is not to promote"
    )
    ledger.close()


def test_a_tool_that_writes_is_used_when_a_person_said_so(
    play: Callable[..., tuple[Outcome, Ledger]], tmp_path: Path
) -> None:
    (tmp_path / "pen.py").write_text(
        "import autotelic\n\n\n@autotelic.tool(permission='writes')\ndef pen(text: str) -> str:\n"
        '    """Write it down."""\n    return text\n'
    )
    tools = {"use": (str(tmp_path / "pen.py"),), "allow": ("pure", "reads", "writes")}
    config = small(oversight=("tools",), rounds=1, tools=tools)
    waiting, ledger = play(config)
    assert waiting.stop == "waiting" and waiting.question is not None
    assert waiting.question["ask"] == "let agents call pen?" and not ledger.count(ToolCallRow)
    with pytest.raises(UsageError, match="a person refused the tool pen"):
        play(config, answer=False)
    with pytest.raises(UsageError, match="a person refused the tool pen"):
        play(config)
    assert not ledger.count(ToolCallRow)


def test_an_answer_is_for_the_tool_that_was_asked_about(
    play: Callable[..., tuple[Outcome, Ledger]], tmp_path: Path
) -> None:
    (tmp_path / "desk.py").write_text(
        "import autotelic\n\n\n@autotelic.tool(permission='writes')\ndef pen(text: str) -> str:\n"
        '    """Write it down."""\n    return text\n\n\n@autotelic.tool(permission=\'network\')\n'
        'def post(text: str) -> str:\n    """Send it off."""\n    return text\n'
    )
    tools = {"use": (str(tmp_path / "desk.py"),), "allow": ("pure", "reads", "writes", "network")}
    config = small(oversight=("tools",), rounds=1, tools=tools)
    first, ledger = play(config)
    second, _ = play(config, answer=True)
    assert first.question is not None and second.question is not None and first.question != second.question
    with pytest.raises(UsageError, match="a person refused the tool"):
        play(config, answer=False)
    asked = {row.id: row.subject for row in ledger.rows(ApprovalRow)}
    assert [(row.subject, row.answer) for row in ledger.rows(DecisionRow, order="number")] == [
        (asked[first.question["request"]], True),
        (asked[second.question["request"]], False),
    ]
    assert not ledger.count(ToolCallRow)


def test_who_answers_too_late_changes_nothing(play: Callable[..., tuple[Outcome, Ledger]]) -> None:
    config = small(oversight=("promotion",), rounds=1)
    waiting, ledger = play(config)
    assert waiting.question is not None
    answer(ledger, waiting.question["request"], True)
    ended, _ = play(config, answer=False)
    assert ended.champion == 1 and ledger.count(DecisionRow) == 1


def test_a_rollback_while_a_promotion_waits_stands(play: Callable[..., tuple[Outcome, Ledger]]) -> None:
    config = small(oversight=("promotion",), rounds=2)
    play(config)
    waiting, ledger = play(config, answer=True)
    assert waiting.question is not None and waiting.question["ask"] == "promote policy-2?"
    ledger.crown(0)
    ended, _ = play(config, answer=True)
    assert ended.champion == ledger.champion().number == 0
    gate = ledger.rows(GateRow, round=2)[0]
    assert not gate.promoted and gate.reasons[0] == "a person made policy-0 the champion meanwhile"
    assert {row.number: row.state for row in ledger.rows(PolicyRow)}[2] == "rejected"
    assert ledger.rows(DeliveryRow, order="id")[-1].policy == 0, "the server is left with the champion"


def test_a_rollback_after_a_gate_that_was_cut_off_stands(
    play: Callable[..., tuple[Outcome, Ledger]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = small(rounds=1, memory={"consolidate": True})

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("autotelic.graphs.evaluating.consolidate", killed)
        play(config)
    ledger = Ledger(tmp_path / "run" / "ledger.sqlite")
    assert ledger.champion().number == 1
    ledger.crown(0)
    ledger.close()
    assert play(config)[0].champion == 0


def test_what_was_called_human_gate_is_read() -> None:
    assert Config.model_validate({"environment": {"name": "e"}, "human_gate": True}).oversight == ("promotion",)
    assert Config.model_validate({"environment": {"name": "e"}, "human_gate": False}).oversight == ()
