"""What people say becomes data: by consent, as it stands, and gone when it is taken back."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import SimulatedTrainer
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.config import dump_config, load_config
from autotelic.core.errors import ServingError, UsageError
from autotelic.core.run_dir import RunDir
from autotelic.core.words import Message
from autotelic.graphs import Config
from autotelic.graphs.acts import Accept, Choose, Edit, Rate, Said, Turn, Wrong, acted
from autotelic.graphs.ask import GraphContext
from autotelic.graphs.chats import Chat, open_chats
from autotelic.graphs.chatting import ChatContext, build_chat
from autotelic.graphs.feedback import feedback_of, keep_feedback
from autotelic.serving import Gateway, Sampling, ScriptedBackend
from autotelic.store import (
    CurationRow,
    ExampleRow,
    FeedbackRow,
    GateRow,
    Ledger,
    PolicyRow,
    SuiteRow,
)
from autotelic.training import TrainingJob, TrainingResult, read_examples
from autotelic.ui.talk import Note, Talk
from autotelic.ui.voices import Voices

CHAT = Chat(id="c1", name="", created_at="", updated_at="", learn=True)


def turn(number: int, **more: Any) -> Turn:
    drafts = (Said(text=f"draft {number}", policy=3),)
    return Turn(id=f"t{number}", question=f"question {number}", drafts=drafts, **more)


def test_what_was_accepted_edited_or_chosen_can_be_learned() -> None:
    pair = (Said(text="left"), Said(text="right"))
    turns = [
        turn(1, answer="draft 1", verdict="accepted"),
        turn(2, answer="better", before="draft 2", verdict="edited"),
        turn(3, answer="right", pair=pair, chosen=1, verdict="accepted"),
        turn(4, answer="mended", complaints=("no",), replaced="draft 4", verdict="accepted", stars=5),
        turn(5, answer="draft 5"),
        turn(6, answer="draft 6", verdict="rejected"),
        turn(7, answer="draft 7", verdict="accepted", stars=2),
    ]
    rows = feedback_of(CHAT, turns)
    assert [(row.kind, row.chosen, row.rejected) for row in rows] == [
        ("accepted", "draft 1", None),
        ("edited", "better", "draft 2"),
        ("chosen", "right", "left"),
        ("accepted", "mended", "draft 4"),
    ]
    assert [message["content"] for message in rows[1].messages][1:] == ["question 1", "draft 1", "question 2"]
    assert rows[3].comments == ["no"] and rows[0].policy == 3


DRAFTS = (Said(text="one"), Said(text="two"), Said(text="three"))
PAIR = (Said(text="left"), Said(text="right"))


@pytest.mark.parametrize(
    ("acts", "kind", "rejected"),
    [
        ((Wrong(text="no"), Accept()), "accepted", "one"),  # the draft that stood, not the last before the new one
        ((Choose(index=1), Wrong(text="no"), Accept()), "accepted", "right"),
        ((Edit(text="mine"), Wrong(text="no"), Accept()), "accepted", "mine"),
        ((Edit(text="mine"), Choose(index=1)), "chosen", "left"),
        ((Wrong(text="no"), Edit(text="mine")), "edited", "mended"),
    ],
)
def test_what_is_rejected_is_the_answer_that_was_replaced(acts: tuple[Any, ...], kind: str, rejected: str) -> None:
    said = Turn(id="t", question="?", drafts=DRAFTS, answer="one", pair=PAIR)
    for one in acts:
        said = acted(said, one)
        if isinstance(one, Wrong):
            said = said.model_copy(update={"drafts": (*said.drafts, Said(text="mended")), "answer": "mended"})
    (row,) = feedback_of(CHAT, [said])
    assert (row.kind, row.rejected) == (kind, rejected) and row.chosen == said.answer


@pytest.mark.parametrize("act", [Wrong(text="no"), Edit(text="mine"), Choose(index=0)])
def test_stars_are_those_of_the_answer_that_stands(act: Any) -> None:
    rated = acted(Turn(id="t", question="?", drafts=DRAFTS, answer="one", pair=PAIR), Rate(stars=1))
    assert feedback_of(CHAT, [acted(rated, Accept())]) == []
    assert len(feedback_of(CHAT, [acted(acted(rated, act), Accept())])) == 1


def test_the_ledger_holds_what_stands_and_nothing_without_consent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    other = CHAT.model_copy(update={"id": "c2"})
    said = [turn(1, answer="a", verdict="accepted"), turn(2, answer="b", verdict="accepted")]
    assert keep_feedback(ledger, CHAT, said) == 2 and keep_feedback(ledger, other, said) == 2
    first = ledger.rows(FeedbackRow, id="c1/t1")[0].at
    assert keep_feedback(ledger, CHAT, said[:1]) == 1, "what is undone is gone"
    assert ledger.rows(FeedbackRow, id="c1/t1")[0].at == first
    assert keep_feedback(ledger, CHAT.model_copy(update={"learn": False}), said) == 0
    assert {row.chat for row in ledger.rows(FeedbackRow)} == {"c2"}
    ledger.close()


@asynccontextmanager
async def talking(
    place: Path, ledger: Ledger | None, *, learn: bool, run: RunDir | None = None, reply: Any = None
) -> AsyncIterator[Talk]:
    def drafted(messages: Sequence[Message], sampling: Sampling) -> list[str]:
        return [f"draft of {messages[-1].content}"] * sampling.n

    gateway = Gateway(ScriptedBackend(reply or drafted), attempts=1)
    gateway.unblock(0)
    voices = Voices(GraphContext(gateway), ledger=ledger, run=run or (RunDir(place) if ledger else None))
    graph = build_chat(ChatContext(voices.context, voices.speaking, rounds=0))
    async with open_chats(place / "threads.sqlite", graph) as chats:
        yield Talk(chats, voices, learn=learn)


async def say(talk: Talk, *lines: str) -> str:
    said = ""
    for line in lines:
        async for event in talk.line(line):
            said = event.text if isinstance(event, Note) else said
    return said


async def test_by_consent_of_each_chat_and_taken_back_with_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    async with talking(tmp_path, ledger, learn=False) as talk:
        await say(talk, "one", "/edit ONE")
        assert not ledger.count(FeedbackRow), "off by default"
        assert "may be trained on" in await say(talk, "/learn on")
        assert ledger.count(FeedbackRow) == 1
        await say(talk, "/undo")
        assert not ledger.count(FeedbackRow)
        await say(talk, "/accept", "/fork", "two", "/accept")
        assert ledger.count(FeedbackRow) == 1, "a fork is asked for itself"
        await say(talk, "/learn on")
        assert ledger.count(FeedbackRow) == 3
        await say(talk, "/learn off")
        assert ledger.count(FeedbackRow) == 1
    async with talking(tmp_path, None, learn=False) as talk:
        with pytest.raises(UsageError, match="no run that could learn"):
            await say(talk, "/learn on")
    ledger.close()


@asynccontextmanager
async def at(place: Path, name: str | None, **more: Any) -> AsyncIterator[Talk]:
    """Talk with a run by its name, or with none, over the chats that all of them share."""
    if name is None:
        async with talking(place, None, learn=False, **more) as talk:
            yield talk
        return
    run = RunDir(place / name).create()
    with closing(Ledger(run.ledger)) as ledger:
        async with talking(place, ledger, learn=False, run=run, **more) as talk:
            yield talk


def learned(place: Path, name: str) -> list[str]:
    with closing(Ledger(place / name / "ledger.sqlite")) as ledger:
        return [row.chosen for row in ledger.rows(FeedbackRow)]


async def test_one_run_learns_wherever_the_chat_goes_on(tmp_path: Path) -> None:
    async with at(tmp_path, "a") as talk:
        await say(talk, "/new mine", "/learn on", "one", "/edit ONE")
    async with at(tmp_path, "b") as talk:
        await say(talk, "/open mine", "two", "/edit TWO")
    assert learned(tmp_path, "a") == ["ONE", "TWO"] and learned(tmp_path, "b") == [], "b was not allowed to"
    async with at(tmp_path, None) as talk:
        await say(talk, "/open mine", "/reject")
        assert learned(tmp_path, "a") == ["ONE"]
        assert "nothing said here" in await say(talk, "/learn off")
        assert learned(tmp_path, "a") == []
    async with at(tmp_path, "a") as talk:
        await say(talk, "/open mine", "/learn on")
    async with at(tmp_path, "b") as talk:
        await say(talk, "/open mine", "/learn on")
        assert learned(tmp_path, "a") == [] and learned(tmp_path, "b") == ["ONE"], "one run at a time"


async def test_a_run_out_of_reach_is_told_of(tmp_path: Path) -> None:
    async with at(tmp_path, "a") as talk:
        await say(talk, "/new mine", "/learn on", "one", "/edit ONE")
    (tmp_path / "a").rename(tmp_path / "moved")
    async with at(tmp_path, "b") as talk:
        assert "a may still be trained on what was said here before" in await say(talk, "/open mine", "/reject")
        for line in ("/learn off", "/learn on", "/learn off"):
            with pytest.raises(UsageError, match=r"may still be trained on .* no run is there"):
                await say(talk, line)
        assert not (tmp_path / "a").exists() and learned(tmp_path, "b") == []
        (tmp_path / "moved").rename(tmp_path / "a")
        assert "nothing said here" in await say(talk, "/learn off")
    assert learned(tmp_path, "a") == []


async def test_an_older_chat_belongs_to_the_run_that_holds_something_of_it(tmp_path: Path) -> None:
    async with at(tmp_path, "a") as talk:
        await say(talk, "/new mine", "/learn on", "one", "/edit ONE")
        assert talk.chat is not None
        kept = (await talk.chats.find("mine")).model_dump(exclude={"run"})
        assert Chat.model_validate(kept).run == "", "it can be read"
        await talk.chats.change(talk.chat.id, run="")
    async with at(tmp_path, "b") as talk:
        await say(talk, "/open mine", "/accept")
    assert learned(tmp_path, "b") == []
    async with at(tmp_path, "a") as talk:
        await say(talk, "/open mine", "/undo", "/undo")
        assert learned(tmp_path, "a") == []
        await say(talk, "/accept")
        assert learned(tmp_path, "a") == ["draft of one"]
        await talk.chats.change((await talk.chats.find("mine")).id, run="")  # as it was before, once more
    async with at(tmp_path, "b") as talk:
        await say(talk, "/open mine")
        with pytest.raises(UsageError, match="allowed under a run that older chats do not name"):
            await say(talk, "/learn off")
        assert "nothing said here" in await say(talk, "/learn off"), "said once: it is forbidden now"
    async with at(tmp_path, "a") as talk:
        await say(talk, "/open mine", "/learn off")
    assert learned(tmp_path, "a") == []


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_verdict_that_fell_teaches_nothing_though_the_act_failed(tmp_path: Path, stopped: bool) -> None:
    asked = asyncio.Event()

    async def reply(messages: Sequence[Message], _: Sampling) -> list[str]:
        if not messages[-1].content.startswith("That is not right"):
            return ["draft"]
        if not stopped:
            raise ServingError("the server is down")
        asked.set()
        await asyncio.Event().wait()
        return []

    async with at(tmp_path, "a", reply=reply) as talk:
        await say(talk, "/new", "/learn on", "one", "/accept")
        assert learned(tmp_path, "a") == ["draft"]
        if stopped:
            doing = asyncio.create_task(say(talk, "/wrong no"))
            await asked.wait()
            doing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await doing
        else:
            with pytest.raises(ServingError):
                await say(talk, "/wrong no")
        assert learned(tmp_path, "a") == []
        assert await talk.stop() == "" and learned(tmp_path, "a") == ["draft"], "taken back, the verdict stands again"


def test_learn_counts_for_a_chat_that_there_is(copied: Path, tmp_path: Path) -> None:
    threads = tmp_path / "threads.sqlite"

    def chat(*more: str, lines: str) -> None:
        given = ["chat", *more, "--run", str(copied), "--threads", str(threads), "--rounds", "0"]
        assert CliRunner().invoke(app, given, input=lines, catch_exceptions=False).exit_code == 0

    chat(lines="/new mine\nthe arithmetic problem: 1 + 1 =\n/accept\n")
    with closing(Ledger(copied / "ledger.sqlite")) as ledger:
        assert not ledger.count(FeedbackRow)
        chat("mine", "--learn", lines="/drafts\n")
        assert ledger.count(FeedbackRow) == 1


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)


def teach(run: Path, questions: list[str], chat: Chat = CHAT) -> None:
    ledger = Ledger(run / "ledger.sqlite")
    said = [turn(n, answer="in one line", before="long", verdict="edited") for n in range(len(questions))]
    said = [one.model_copy(update={"question": question}) for one, question in zip(said, questions, strict=True)]
    keep_feedback(ledger, chat, said)
    ledger.close()


def oversee(run: Path, *what: str) -> None:
    config = load_config(Config, run / "config.yaml")
    dump_config(config.model_copy(update={"oversight": what}), run / "config.yaml")


def test_a_person_teaches_and_decides(copied: Path) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    with pytest.raises(UsageError, match="nobody has said anything"):
        invoke("train", copied, "--feedback")
    assert not ledger.suite("fresh", round=3), "and nothing is drawn for it"
    suite = ledger.tasks([ledger.rows(SuiteRow, suite="sealed")[0].task_id])
    (leaked,) = suite.values()
    teach(copied, ["How far?", "How long?", leaked.question, "How far?"])
    asked = invoke("train", copied, "--feedback", "--json")
    assert asked.exit_code in (0, 3)
    rows = ledger.rows(ExampleRow, origin="said")
    assert {row.question for row in rows} >= {"How far?", "How long?"} and leaked.question not in {
        row.question for row in rows
    }
    reasons = {row.reason for row in ledger.rows(CurationRow, family="chat", kept=False)}
    assert "suite_question" in reasons
    round = rows[0].round
    if asked.exit_code == 3:
        assert "promote policy-" in json.loads(asked.stdout)["waiting"]["ask"]
        assert ledger.get(GateRow, round) is None
        assert invoke("train", copied, "--feedback", "--refuse").exit_code == 0
    decided = ledger.get(GateRow, round)
    assert decided is not None and not decided.promoted
    ledger.close()


def test_what_is_near_a_task_of_its_own_fresh_suite_is_not_trained(copied: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copied, tmp_path / "other"))
    teach(other, ["How far?"])
    round = json.loads(invoke("train", other, "--feedback", "--refuse", "--json").stdout)["round"]
    with closing(Ledger(other / "ledger.sqlite")) as ledger:
        fresh = ledger.suite("fresh", round=round)
    teach(copied, ["How far?", fresh[0].question])
    invoke("train", copied, "--feedback", "--refuse")
    with closing(Ledger(copied / "ledger.sqlite")) as ledger:
        assert [task.id for task in ledger.suite("fresh", round=round)] == [task.id for task in fresh]
        assert ledger.column(ExampleRow, "question", origin="said") == ["How far?"]
        assert ledger.column(CurationRow, "reason", round=round, kept=False) == ["suite_question"]


def test_a_round_of_which_only_the_suite_was_drawn_is_begun_again(copied: Path) -> None:
    with closing(Ledger(copied / "ledger.sqlite")) as ledger:
        teach(copied, [ledger.suite("sealed")[0].question])
        for _ in range(2):
            with pytest.raises(UsageError, match="nobody has said anything that may be trained on"):
                invoke("train", copied, "--feedback")
        assert max(ledger.column(SuiteRow, "round", suite="fresh")) == 3
        fresh = [task.id for task in ledger.suite("fresh", round=3)]
        teach(copied, ["How far?"], OTHER)
        assert json.loads(invoke("train", copied, "--feedback", "--refuse", "--json").stdout)["round"] == 3
        assert [task.id for task in ledger.suite("fresh", round=3)] == fresh


def test_the_whole_way_from_lines_to_a_training(copied: Path, simulate: Callable[..., None]) -> None:
    ledger = Ledger(copied / "ledger.sqlite")

    async def chat() -> None:
        async with talking(copied, ledger, learn=True) as talk:
            for n in range(6):
                await say(talk, f"question {n}", f"/edit answer {n} km")

    asyncio.run(chat())
    invoke("train", copied, "--feedback", "--approve")
    learned = {row.completion for row in ledger.rows(ExampleRow, origin="said")}
    assert learned == {f"answer {n} km" for n in range(6)}
    ledger.close()


OTHER = CHAT.model_copy(update={"id": "c2"})
WITHDRAWN = {"learn": False}


def test_what_is_taken_back_while_a_training_waits_is_not_trained(copied: Path) -> None:
    oversee(copied, "training")
    ledger = Ledger(copied / "ledger.sqlite")
    teach(copied, ["How far?", "How long?"])
    teach(copied, ["How wide?"], OTHER)
    waiting = json.loads(invoke("train", copied, "--feedback", "--json").stdout)
    assert "solver, said: 3" in waiting["waiting"]["reasons"]
    teach(copied, [], CHAT.model_copy(update=WITHDRAWN))
    again = json.loads(invoke("train", copied, "--feedback", "--json").stdout)
    assert again["round"] == waiting["round"] and "solver, said: 1" in again["waiting"]["reasons"]
    invoke("train", copied, "--feedback", "--approve")
    assert ledger.count(PolicyRow, round=waiting["round"]) == 1
    written = read_examples(copied / "policies" / f"round-{waiting['round']}.examples.jsonl")
    assert [one.messages[-1].content for one in written if one.family == "chat"] == ["How wide?"]
    ledger.close()


def test_a_round_of_which_all_is_taken_back_ends_and_is_in_nobodys_way(copied: Path) -> None:
    oversee(copied, "training")
    ledger = Ledger(copied / "ledger.sqlite")
    teach(copied, ["How far?"])
    round = json.loads(invoke("train", copied, "--feedback", "--json").stdout)["round"]
    teach(copied, ["How far?"], CHAT.model_copy(update=WITHDRAWN))
    with pytest.raises(UsageError, match="was taken back, so it ends here and nothing was trained"):
        invoke("train", copied, "--feedback", "--approve")
    assert not ledger.count(ExampleRow, origin="said") and not ledger.count(PolicyRow, round=round)
    with pytest.raises(UsageError, match="nobody has said anything"):
        invoke("train", copied, "--feedback")
    again = json.loads(invoke("train", copied, "--json").stdout)
    assert again["round"] == round + 1 and ledger.count(ExampleRow, round=round + 1, origin="new")
    ledger.close()


def test_what_was_said_is_not_trained_by_a_command_that_does_not_ask_for_it(copied: Path) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    teach(copied, ["How far?"])
    invoke("train", copied, "--feedback", "--refuse")
    (round,) = set(ledger.column(ExampleRow, "round", origin="said"))
    made = json.loads(invoke("train", copied, "--json").stdout)["round"]
    assert set(ledger.column(ExampleRow, "id", round=made)) == set(ledger.column(ExampleRow, "id", round=round - 1))
    with pytest.raises(UsageError, match=rf"round {round} has no curated data. Rounds that have: \[1, 2, {made}\]"):
        invoke("train", copied, "--round", round)
    ledger.close()


class ShortTrainer(SimulatedTrainer):
    """Leaves out what comes from chats: it is too long."""

    async def train(self, job: TrainingJob, *reports: Any) -> TrainingResult:
        skipped = tuple(one.id for one in self.read(Path(job.examples)) if one.family == "chat")
        return (await super().train(job, *reports)).model_copy(update={"skipped": skipped})


class EmptyTrainer(SimulatedTrainer):
    """Finds every row too long."""

    async def train(self, job: TrainingJob, *reports: Any) -> TrainingResult:
        raise UsageError("nothing to train on: of 1 examples 1 are longer than max_length (1024 tokens).")


@pytest.mark.parametrize(
    ("trainer", "says"),
    [(ShortTrainer, r"max_length \(1024 tokens\), so none was trained on"), (EmptyTrainer, "nothing to train on")],
)
def test_chats_that_are_too_long_are_no_training_and_in_nobodys_way(
    copied: Path, simulate: Callable[..., None], trainer: type[SimulatedTrainer], says: str
) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    policies = ledger.count(PolicyRow)
    teach(copied, ["How far?", "How long?"])
    simulate(trainer)
    rounds = []
    for _ in range(2):
        with pytest.raises(UsageError, match=says):
            invoke("train", copied, "--feedback", "--approve")
        rounds.append(max(ledger.column(ExampleRow, "round")))
    assert rounds == [3, 4] and ledger.count(PolicyRow) == policies, "nobody is asked to promote what replay has made"
    simulate(SimulatedTrainer)
    assert json.loads(invoke("train", copied, "--json").stdout)["round"] == 5
    ledger.close()
