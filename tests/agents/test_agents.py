"""Agents on a scripted model and a real environment: what is asked, what is made of the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import cast

import pytest
from jsonschema import Draft202012Validator

from autotelic.agents import Critic, Curator, Proposer, Solver, demonstration_turns
from autotelic.core.words import Completion, Message, Proposal, Rejection, Task
from autotelic.environments import Environment, make_environment
from autotelic.graphs.solve import SolveState, build_solve
from autotelic.memory import Demonstration
from autotelic.serving import Gateway, Sampling, ScriptedBackend, TooLong

Asked = list[tuple[list[Message], Sampling]]
FAMILIES = ["gcd", "letter_counting", "spell_backward"]


@pytest.fixture(scope="module")
def environment() -> Environment:
    return make_environment({"name": "reasoning_gym", "families": FAMILIES})


@pytest.fixture
def task(environment: Environment) -> Task:
    return environment.tasks(6, seed=3)[0]


class Scripted(ScriptedBackend):
    """A script that notes what it was asked; its answers end as they are told to."""

    def __init__(self, *texts: str, finish: Sequence[str] = ()) -> None:
        self.asked: Asked = []
        self._finish = finish
        super().__init__(lambda messages, sampling: [texts[i % len(texts)] for i in range(sampling.n)])

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        self.asked.append((list(messages), sampling))
        found = await super().complete(messages, sampling, policy)
        ends = list(self._finish) or ["stop"] * len(found)
        return [one.model_copy(update={"finish_reason": end}) for one, end in zip(found, ends, strict=True)]


class Small(Scripted):
    """A model whose context holds so many words."""

    def __init__(self, *texts: str, room: int) -> None:
        super().__init__(*texts)
        self._room = room

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        if (words := sum(len(m.content.split()) for m in messages)) > self._room:
            raise TooLong(f"{words} words, room for {self._room}")
        return await super().complete(messages, sampling, policy)


def through(backend: Scripted) -> Gateway:
    gateway = Gateway(backend)
    gateway.unblock(5)
    return gateway


# -- the solver


def test_a_prompt_is_the_form_and_the_question_and_never_the_key(environment: Environment, task: Task) -> None:
    system, question = Solver(through(Scripted("x")), environment).messages(task)
    assert (system.role, system.content) == ("system", environment.system_prompt(task))
    assert (question.role, question.content) == ("user", task.question)
    assert task.key not in system.content + question.content


@pytest.mark.parametrize("n", [0, 1, 3])
def test_demonstrations_are_whole_turns_between_system_and_question(
    environment: Environment, task: Task, n: int
) -> None:
    solver = Solver(through(Scripted("x")), environment)
    pairs = [(f"question {i}", f"answer {i}") for i in range(n)]
    bare, helped = solver.messages(task), solver.messages(task, demonstration_turns(pairs))
    assert (*helped[:1], *helped[1 + 2 * n :]) == bare
    assert helped[1 : 1 + 2 * n] == demonstration_turns(pairs)
    assert [m.role for m in helped] == ["system", *["user", "assistant"] * n, "user"]


def test_turns_keep_the_texts_as_they_are() -> None:
    assert demonstration_turns([(" q\n", "a ")]) == (
        Message(role="user", content=" q\n"),
        Message(role="assistant", content="a "),
    )
    assert demonstration_turns([]) == ()


async def test_what_does_not_fit_the_model_is_left_out_the_nearest_example_last(
    environment: Environment, task: Task
) -> None:
    shown = [
        Demonstration.of(task).model_copy(update={"id": name, "question": f"{name} {'word ' * 20}"})
        for name in ("near", "far", "farther")
    ]
    bare = sum(len(m.content.split()) for m in Solver(through(Scripted("x")), environment).messages(task))

    async def attempt(room: int) -> SolveState:
        solver = Solver(through(Small(str(task.answer), room=room)), environment)
        state: SolveState = {"task": task, "recalled": shown, "sampling": Sampling(n=2)}
        return cast(SolveState, await build_solve(solver).ainvoke(state))

    one = await attempt(bare + 30)
    assert [d.id for d in one["recalled"]] == ["near"] and len(one["messages"]) == 4
    assert [a.score for a in one["attempts"]] == [1.0, 1.0]
    none = await attempt(bare - 1)
    assert [(a.answer, a.score, a.reason) for a in none["attempts"]] == [(None, 0.0, "too_long")] * 2
    assert [a.completion.policy for a in none["attempts"]] == [5, 5] and not none["recalled"]


async def test_no_role_ends_a_run_over_a_task_that_does_not_fit(environment: Environment) -> None:
    gateway = through(Small("x", room=3))
    critique = await Critic(gateway).judge("t", "q", "a", seed=0)
    assert (critique.verdict, critique.reason) == (None, "too_long")
    assert (await Curator(gateway).review("t", "q", "a", seed=0)).keep is None
    assert await Curator(gateway).lesson("q", "r", "w", seed=0) is None
    drafts = await Proposer(gateway, environment, max_tokens=9, temperature=1.0).draft([], n=2, seed=0)
    assert [draft.completion.finish_reason for draft in drafts] == ["too_long"] * 2
    with pytest.raises(TooLong, match="room for 3"):
        await gateway.complete([Message(role="user", content="a b c d")])


async def test_attempts_are_judged_by_the_environment_one_by_one(environment: Environment, task: Task) -> None:
    backend = Scripted(str(task.answer), "surely not", "", f"Answer: **{task.answer}**")
    solver = Solver(through(backend), environment)
    attempts = await solver.attempt(task, solver.messages(task), Sampling(n=4, seed=9, max_tokens=12, temperature=0.5))
    assert [(a.answer, a.score, a.reason) for a in attempts] == [
        (task.answer, 1.0, "ok"),
        ("surely not", 0.0, "wrong"),
        (None, 0.0, "empty"),
        (task.answer, 1.0, "ok"),
    ]
    assert all(a.completion.policy == 5 for a in attempts)
    [(messages, sampling)] = backend.asked
    assert tuple(messages) == solver.messages(task)
    assert (sampling.n, sampling.seed, sampling.max_tokens, sampling.temperature) == (4, 9, 12, 0.5)


async def test_a_truncated_answer_is_not_right_even_if_it_reads_so(environment: Environment, task: Task) -> None:
    backend = Scripted(str(task.answer), finish=["length", "stop"])
    solver = Solver(through(backend), environment)
    cut, whole = await solver.attempt(task, solver.messages(task), Sampling(n=2))
    assert (cut.answer, cut.score, cut.reason) == (None, 0.0, "truncated")
    assert cut.completion.text == task.answer, "what was said is kept"
    assert (whole.score, whole.reason) == (1.0, "ok")


async def test_a_checker_that_breaks_gives_no_verdict(environment: Environment, task: Task) -> None:
    odd = task.model_copy(update={"seed": task.seed + 1})
    solver = Solver(through(Scripted(str(task.answer))), environment)
    [attempt] = await solver.attempt(odd, solver.messages(odd), Sampling())
    assert (attempt.score, attempt.reason) == (None, "checker_failed")


# -- the proposer


def proposer(backend: Scripted, environment: Environment) -> Proposer:
    return Proposer(through(backend), environment, max_tokens=40, temperature=0.9)


def test_the_proposer_is_asked_in_the_environments_words(environment: Environment) -> None:
    bare = proposer(Scripted("x"), environment).messages()
    assert list(bare) == environment.proposal_prompt(Random(0), demonstrations=0)
    assert all(family in bare[0].content for family in FAMILIES)


def test_earlier_proposals_are_whole_turns_with_the_same_request(environment: Environment) -> None:
    made = proposer(Scripted("x"), environment)
    bare, helped = made.messages(), made.messages(["one", "two"])
    assert (*helped[:1], *helped[5:]) == bare
    assert [m.content for m in helped[1:5]] == [bare[-1].content, "one", bare[-1].content, "two"]


async def test_drafts_are_guided_by_the_schema_and_carry_the_bare_prompt(environment: Environment, task: Task) -> None:
    backend = Scripted(environment.proposal_text(task), "no json")
    made = proposer(backend, environment)
    drafts = await made.draft([environment.proposal_text(task)], n=2, seed=11)
    [(messages, sampling)] = backend.asked
    assert sampling.schema == environment.proposal_schema()
    assert (sampling.n, sampling.seed, sampling.max_tokens, sampling.temperature) == (2, 11, 40, 0.9)
    assert tuple(messages) == made.messages([environment.proposal_text(task)])
    assert [d.messages for d in drafts] == [made.messages()] * 2
    good, bad = [
        await environment.validate(Proposal(id="p", environment=environment.name, text=d.completion.text, seed=1))
        for d in drafts
    ]
    assert isinstance(good, Task) and (good.family, good.difficulty) == (task.family, task.difficulty)
    assert isinstance(bad, Rejection) and bad.reason == "not_json"


# -- the critic


def judgement(verdict: str, fault: str = "none", advice: str = "none") -> str:
    return json.dumps({"verdict": verdict, "fault": fault, "advice": advice})


RIGHT, WRONG = judgement("right"), judgement("wrong", "off by one", "count again")
MALFORMED = [
    "",
    "right",
    "[]",
    '{"verdict": "right"}',
    judgement("perhaps"),
    judgement("wrong", "x" * 61),
    '{"verdict": "right", "fault": "", "advice": "", "key": "4"}',
    '{"verdict": "right", "fault": "\\ud800", "advice": ""}',
    "[" * 100_000,
    RIGHT[:-2],
]


async def test_the_critic_sees_question_and_answer_and_is_held_to_its_schema() -> None:
    backend = Scripted(RIGHT)
    critic = Critic(through(backend), samples=3, max_tokens=50)
    await critic.judge("t", "2 + 2?", "four", seed=8)
    [(messages, sampling)] = backend.asked
    assert tuple(messages) == critic.messages("2 + 2?", "four")
    assert "2 + 2?" in messages[-1].content and "four" in messages[-1].content
    assert (sampling.n, sampling.seed, sampling.max_tokens, sampling.temperature) == (3, 8, 50, 1.0)
    assert sampling.schema is not None
    guide = Draft202012Validator(sampling.schema)
    assert guide.is_valid(json.loads(RIGHT)) and guide.is_valid(json.loads(WRONG))
    assert not guide.is_valid(json.loads(MALFORMED[4])) and not guide.is_valid(json.loads(MALFORMED[6]))


@pytest.mark.parametrize(
    ("texts", "verdict", "confidence"),
    [
        ([RIGHT] * 4, "right", 1.0),
        ([WRONG, RIGHT, RIGHT, RIGHT], "right", 0.75),
        ([RIGHT, WRONG, WRONG, RIGHT], "wrong", 0.5),
        ([WRONG] * 4, "wrong", 0.0),
        (["", RIGHT, WRONG, RIGHT], "right", 2 / 3),
        (["", "", "", RIGHT], "right", 1.0),
    ],
)
async def test_confidence_is_the_share_of_judgements_that_say_right(
    texts: list[str], verdict: str, confidence: float
) -> None:
    critique = await Critic(through(Scripted(*texts))).judge("t7", "q", "a", seed=0)
    assert (critique.trajectory_id, critique.verdict, critique.reason) == ("t7", verdict, "ok")
    assert critique.confidence == pytest.approx(confidence)


async def test_fault_and_advice_belong_to_the_verdict() -> None:
    said = [RIGHT, WRONG, judgement("wrong", "other", "other")]
    critique = await Critic(through(Scripted(*said)), samples=3).judge("t", "q", "a", seed=0)
    assert (critique.verdict, critique.fault, critique.advice) == ("wrong", "off by one", "count again")


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:30] or "empty")
async def test_malformed_judgements_give_no_verdict_and_a_reason(text: str) -> None:
    critique = await Critic(through(Scripted(text))).judge("t", "q", "a", seed=0)
    assert (critique.verdict, critique.confidence, critique.reason) == (None, None, "malformed")


async def test_judgements_that_were_all_cut_off_say_so() -> None:
    cut = Scripted(RIGHT[:-2], finish=["length"] * 2)
    assert (await Critic(through(cut), samples=2).judge("t", "q", "a", seed=0)).reason == "truncated"
    mixed = Scripted(RIGHT[:-2], "nonsense", finish=["length", "stop"])
    assert (await Critic(through(mixed), samples=2).judge("t", "q", "a", seed=0)).reason == "malformed"


# -- the curator


def opinion(keep: bool, why: str) -> str:
    return json.dumps({"keep": keep, "why": why})


@pytest.mark.parametrize(
    ("texts", "keep", "why"),
    [
        ([opinion(True, "clear")] * 4, 1.0, "clear"),
        ([opinion(True, "clear"), *[opinion(False, "wrong"), opinion(False, "trivial")], ""], 1 / 3, "wrong"),
        ([opinion(False, "unclear"), opinion(True, "clear")] * 2, 0.5, "unclear"),
        (["", "{}", opinion(True, "nice"), "[" * 100_000], None, ""),
    ],
)
async def test_a_review_is_the_share_that_would_keep_it(texts: list[str], keep: float | None, why: str) -> None:
    review = await Curator(through(Scripted(*texts))).review("i3", "q", "a", seed=0)
    assert (review.item_id, review.why) == ("i3", why)
    assert review.keep == (None if keep is None else pytest.approx(keep))


async def test_the_curator_sees_the_example_and_is_held_to_its_schema() -> None:
    backend = Scripted(opinion(True, "clear"))
    await Curator(through(backend), samples=2).review("i", "2 + 2?", "four", seed=4)
    [(messages, sampling)] = backend.asked
    assert [m.role for m in messages] == ["system", "user"]
    assert "2 + 2?" in messages[1].content and "four" in messages[1].content
    assert (sampling.n, sampling.seed) == (2, 4)
    assert sampling.schema is not None
    guide = Draft202012Validator(sampling.schema)
    assert guide.is_valid({"keep": False, "why": "trivial"})
    assert not guide.is_valid({"keep": False, "why": "nice"}) and not guide.is_valid({"keep": 1, "why": "clear"})
