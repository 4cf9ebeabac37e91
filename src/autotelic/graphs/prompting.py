"""What a role's prompts are evolved and proved on: items, each of which can be asked under any system prompt.

The solver answers the tasks of a suite. The critic judges answers to those tasks that the ledger holds, as many right
as wrong, so that the share it judges as the checker did is its balanced accuracy; the curator says which of them it
would keep. The proposer writes proposals; one is good if it is valid and new. A suite's name and round say which items
these are.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

from autotelic.agents import Critic, Curator, Proposer, Solver
from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen, Proposal, Rejection, Role, Score, Task, content_id
from autotelic.environments import solved
from autotelic.evaluation import full_marks
from autotelic.graphs.acquire import met_tasks
from autotelic.graphs.session import Session, first_failure
from autotelic.graphs.strategy_solver import reached, work_of
from autotelic.refinement import ALL_FAMILIES, Answer, prompted
from autotelic.serving import TOO_LONG
from autotelic.store import EvaluationRow, ExampleRow, PromptCallRow

__all__ = ["Item", "Said", "Trials", "component_of", "credits_of", "plain_prompt", "prompt_items", "scores"]

Prompts = Mapping[str, str]
"""Component to system prompt, the evolved ones of a role: see `PromptRow.prompts`."""


class Said(Frozen):
    """What a role said to an item."""

    text: str
    """In its own words."""
    answer: str | None
    """What was found in them, `None` if nothing."""
    score: Score
    """As the environment's checker has it, `None` for no verdict."""
    feedback: str
    """What a reflection is told of it."""


@dataclass(frozen=True)
class Item:
    """Something to be answered under prompts."""

    id: str
    """The same whenever the run is asked for it."""
    shown: str
    """What is asked, as a reflection reads it."""
    ask: Callable[[Prompts], Awaitable[Said]]
    """Have it answered."""
    kind: str
    """Examples for a prompt are taken from all kinds in turn: a family, a verdict."""
    solved: str = ""
    """It and what is right, as an example in a prompt shows them; empty where nothing is known to be right."""
    once: bool = False
    """Whether an answer that another item has given already is worth nothing."""


def component_of(role: str, family: str | None) -> str:
    """Name the prompt that is evolved: of a family, of all families, or of the role.

    Raises:
        UsageError: there is no such prompt.
    """
    if role not in _ITEMS:
        raise UsageError(f"no prompts are evolved for the role {role!r}. There are: {', '.join(_ITEMS)}.")
    if role == Role.SOLVER:
        return family or ALL_FAMILIES
    if family is not None:
        raise UsageError(f"the {role} has one prompt for all families; --family {family} goes with --role solver.")
    return role


def plain_prompt(s: Session, role: str, family: str | None) -> str:
    """Return the prompt that an evolution begins from where none is evolved yet: the environment's or the role's own.

    For all families at once that is nothing: what is evolved stands before each family's own.

    Raises:
        UsageError: the family has no one prompt.
    """
    if role == Role.CRITIC:
        return Critic(s.server.gateway).messages("", "")[0].content
    if role == Role.CURATOR:
        return Curator(s.server.gateway).messages("", "")[0].content
    if role == Role.PROPOSER:
        return s.proposer.bare()[0].content
    if family is None:
        return ""
    found = {s.environment.system_prompt(task) for task in s.ledger.suite("frozen") if task.family == family}
    if len(found) != 1:
        raise UsageError(
            f"the tasks of {family!r} in the frozen suite have {len(found)} prompts, and one is needed to begin from. "
            "Leave --family out: an instruction is then evolved that stands before all of them."
        )
    return found.pop()


def prompt_items(s: Session, role: str, suite: str, round: int, family: str | None = None) -> list[Item]:
    """Return what a role is asked on a suite, its kinds in turn, in an order that the run's seed decides.

    Args:
        s: the session.
        role: `solver`, `critic`, `proposer` or `curator`.
        suite: `fresh` or `frozen`.
        round: the suite's round, 0 for `frozen`.
        family: only tasks of this one; for the solver.
    """
    kinds = _ITEMS[role](s, suite, round)
    rng = random.Random(s.seed("prompt items", role, suite, round))
    queues = [rng.sample(items, len(items)) for kind, items in sorted(kinds.items()) if family in (None, kind)]
    return [item for item in chain.from_iterable(zip_longest(*queues)) if item is not None]


def credits_of(items: Sequence[Item], rows: Sequence[PromptCallRow]) -> list[Score]:
    """Return what the checker gave for each answer, partial credit too; 0.0 for a repetition, `None` for no verdict."""
    first: dict[str | None, str] = {}
    found: list[Score] = []
    for item, row in zip(items, rows, strict=True):
        repeated = item.once and row.answer is not None and first.setdefault(row.answer, item.id) != item.id
        found.append(0.0 if repeated else row.score)
    return found


def scores(items: Sequence[Item], rows: Sequence[PromptCallRow]) -> list[Score]:
    """Return the score of each answer: 1.0 for full marks, 0.0 for less or for a repetition, `None` for no verdict."""
    return [full_marks(credit) for credit in credits_of(items, rows)]


class Trials:
    """Answers of one role and policy under prompts, each asked for once: what the ledger holds is read.

    Args:
        s: the session; it serves the policy.
        role: who answers.
        policy: number of the policy.
    """

    def __init__(self, s: Session, role: str, policy: int) -> None:
        self._s = s
        self._key: dict[str, Any] = {"role": role, "policy": policy}
        self._known = {row.id: row for row in s.ledger.rows(PromptCallRow, **self._key)}

    def id(self, prompts: Prompts, item: str) -> str:
        """Return the key of a call in the ledger."""
        return content_id(self._key, dict(prompts), item)

    def known(self, prompts: Prompts, item: str) -> PromptCallRow:
        """Return a call that was made."""
        return self._known[self.id(prompts, item)]

    async def call(self, prompts: Prompts, item: str, make: Callable[[], Awaitable[Said]]) -> PromptCallRow:
        """Return what was said to an item under prompts; if nothing was yet, have it said."""
        key = self.id(prompts, item)
        if key not in self._known:
            said = await make()
            under = content_id(dict(prompts))
            row = PromptCallRow(id=key, **self._key, prompts=under, item=item, **said.model_dump())
            self._s.ledger.add([row])
            self._known[key] = row
        return self._known[key]

    async def answers(self, prompts: Prompts, items: Sequence[Item], title: str | None = None) -> list[PromptCallRow]:
        """Return the answers to items, in their order; `title` is that of a progress bar."""

        async def ask(item: Item) -> None:
            await self.call(prompts, item.id, lambda: item.ask(prompts))

        # A minibatch may hold an item twice.
        todo = list({item.id: item for item in items if self.id(prompts, item.id) not in self._known}.values())
        if title is not None:
            await self._s.each(title, todo, ask, done=len(items) - len(todo))
        else:
            await _side_by_side(ask, todo)
        return [self.known(prompts, item.id) for item in items]


async def _side_by_side(ask: Callable[[Item], Any], items: Sequence[Item]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(ask(item))
    except* Exception as failures:
        raise first_failure(failures) from failures


Kinds = dict[str, list[Item]]


def _solver(s: Session, suite: str, round: int) -> Kinds:
    """Tasks by family, answered directly, the way that `prompted` does."""
    strategy, solver = prompted(), Solver(s.server.gateway, s.environment)
    rows = s.ledger.rows(EvaluationRow, suite=suite, round=round, order=("task_id", "policy", "memory"))
    verified = {row.task_id: row.answer for row in rows[::-1] if row.answer is not None and solved(row.score)}

    def item(task: Task) -> Item:
        async def ask(prompts: Prompts) -> Said:
            work = replace(work_of(s, task, solver.messages(task)), prompts={Role.SOLVER: prompts})
            found = await reached(strategy, work)
            score = (await s.environment.check(task, found.text)).score
            feedback = _feedback(task, found, score, work.max_tokens)
            return Said(text=found.draft.text, answer=found.text, score=score, feedback=feedback)

        right = verified.get(task.id) if task.answer is None else task.answer
        example = "" if right is None else f"Task: {task.question.strip()}\nRight answer: {right}"
        return Item(task.id, f"{s.environment.system_prompt(task)}\n\n{task.question}", ask, task.family, example)

    kinds: Kinds = {}
    for task in s.ledger.suite(suite, round=round):
        kinds.setdefault(task.family, []).append(item(task))
    return kinds


def _feedback(task: Task, found: Answer, score: Score, max_tokens: int) -> str:
    if solved(score):
        return "Right."
    right = "" if task.answer is None else f" A right answer is: {task.answer}"
    if any(completion.finish_reason == "length" for step in found.steps for completion in step.completions):
        return f"Wrong: it was cut off, an answer may have at most {max_tokens} tokens.{right}"
    if found.text is None:
        why = "the instructions are too long" if found.stopped == TOO_LONG else "there is no answer in it"
        return f"Wrong: {why}.{right}"
    return f"Wrong.{right}"


Judge = Callable[[Prompts, str, str, str], Awaitable[tuple[str | None, str, str]]]
"""From prompts, name, question and answer to `right`, `wrong` or `None`, what was said, and why there is no verdict."""


def _critic(s: Session, suite: str, round: int) -> Kinds:
    async def judge(prompts: Prompts, name: str, question: str, answer: str) -> tuple[str | None, str, str]:
        critic = Critic(s.server.gateway, samples=s.config.critique.samples, system=prompts[Role.CRITIC])
        said = await critic.judge(name, question, answer, seed=s.seed("judged", name))
        return said.verdict, f"{said.verdict or ''} {said.fault} {said.advice}".strip(), said.reason

    return _judged(s, suite, round, judge, {"right": "Verdict: right", "wrong": "Verdict: wrong"})


def _curator(s: Session, suite: str, round: int) -> Kinds:
    async def judge(prompts: Prompts, name: str, question: str, answer: str) -> tuple[str | None, str, str]:
        found = await Curator(s.server.gateway, system=prompts[Role.CURATOR]).review(
            name, question, answer, seed=s.seed("judged", name)
        )
        if found.keep is None:
            return None, "", "malformed"
        verdict = "wrong" if found.keep < 0.5 else "right"  # a tie drops nothing
        return verdict, f"keep: {verdict == 'right'}, why: {found.why}", ""

    return _judged(s, suite, round, judge, {"right": "Keep: true", "wrong": "Keep: false"})


def _judged(s: Session, suite: str, round: int, judge: Judge, told: Mapping[str, str]) -> Kinds:
    """Right and wrong answers that policies gave to the suite without help, one a task; examples say what is `told`."""
    rows = s.ledger.rows(EvaluationRow, suite=suite, round=round, memory=False, order=("task_id", "policy"))
    random.Random(s.seed("judged", suite, round)).shuffle(rows)
    by_task = {row.task_id: row for row in rows if row.answer is not None and row.score is not None}
    tasks = s.ledger.tasks(by_task)

    def item(row: EvaluationRow, truth: str) -> Item:
        name, question, answer = f"{row.task_id}/{row.policy}", tasks[row.task_id].question, str(row.answer)

        async def ask(prompts: Prompts) -> Said:
            verdict, text, reason = await judge(prompts, name, question, answer)
            feedback = f"The answer is {truth}." if verdict else f"There is no verdict: {reason}."
            return Said(text=text, answer=verdict, score=float(verdict == truth), feedback=feedback)

        example = f"Task: {question.strip()}\nAnswer: {answer}\n{told[truth]}"
        return Item(name, f"{question}\n\nAnswer:\n{answer}", ask, truth, example)

    right = [item(row, "right") for row in by_task.values() if solved(row.score)]
    wrong = [item(row, "wrong") for row in by_task.values() if not solved(row.score)]
    fewer = min(len(right), len(wrong))
    return {"right": right[:fewer], "wrong": wrong[:fewer]}


def _proposer(s: Session, suite: str, round: int) -> Kinds:
    """As many proposals as the suite has tasks, each after examples of its own."""
    settings, known = s.config.propose, met_tasks(s)
    rows = s.ledger.rows(ExampleRow, role=Role.PROPOSER.value, order=["round", "position"])
    drawn = s.environment.tasks(4 * len(s.environment.families), s.seed("prompt examples"))
    pool = [row.completion for row in rows if row.round < max(1, round)] + [*map(s.environment.proposal_text, drawn)]

    def item(index: int) -> Item:
        name = f"{suite}/{round}/{index}"
        seed = s.seed("proposed", name)
        examples = random.Random(seed).sample(pool, min(settings.examples, len(pool)))

        async def ask(prompts: Prompts) -> Said:
            system, limits = prompts[Role.PROPOSER], settings.model_dump(include={"max_tokens", "temperature"})
            writer = Proposer(s.server.gateway, s.environment, system=system, **limits)
            (draft,) = await writer.draft(examples, n=1, seed=seed)
            text = draft.completion.text
            proposal = Proposal(id=name, environment=s.environment.name, text=text, seed=seed)
            task = await s.environment.validate(proposal)
            if isinstance(task, Rejection):
                return Said(text=text, answer=None, score=0.0, feedback=f"Not valid: {task.reason}: {task.detail}")
            if task.id in known:
                return Said(text=text, answer=task.id, score=0.0, feedback="Valid, but the run has this task already.")
            return Said(text=text, answer=task.id, score=1.0, feedback="Valid and new.")

        good = f"Exercise: {random.Random(seed + 1).choice(pool)}" if pool else ""
        shown = "Write an exercise. Earlier ones:\n" + "\n".join(examples)
        return Item(name, shown, ask, "proposal", good, once=True)

    return {"proposal": [item(index) for index in range(len(s.ledger.suite(suite, round=round)))]}


_ITEMS: dict[str, Callable[[Session, str, int], Kinds]] = {
    Role.SOLVER.value: _solver,
    Role.CRITIC.value: _critic,
    Role.PROPOSER.value: _proposer,
    Role.CURATOR.value: _curator,
}
