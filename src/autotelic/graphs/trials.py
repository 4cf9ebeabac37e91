"""Matched rollouts: the same tasks answered without a skill and with it, and what comes of the comparison.

Both sides are answered by the same policy, greedily and with the same seed, with the same other tools. Both speak in
the tool loop's form, even where there is no other tool, so that a skill is not credited with the form. The tasks are
new: none that a function was written after, none of a suite that decides about policies. Every answer is a row of the
ledger, so what was killed goes on.

Source: arXiv 2606.08755 (skills are validated by matched rollouts before they are stored).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from autotelic.agents import Attempt, Bounds, Picker, Solver, ToolLoop
from autotelic.core.errors import UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Origin, Task
from autotelic.environments import Environment
from autotelic.evaluation import Comparison, SkillGateConfig, bootstrap_seed, full_marks, paired_bootstrap
from autotelic.graphs.config import ToolsmithConfig
from autotelic.graphs.evaluating import draw_suite
from autotelic.graphs.session import Session, first_failure
from autotelic.graphs.skill_library import SkillLibrary, skills_of, with_skills
from autotelic.memory.items import Skill
from autotelic.sandbox import Sandbox
from autotelic.serving import Gateway, Sampling
from autotelic.store import EpisodeRow, Ledger, TaskRow, TrialRow
from autotelic.tools import Toolbox

__all__ = ["Trial", "Workshop", "matched_rollouts", "open_workshop", "solved_examples", "trial_tasks"]

_AT_ONCE = 16  # a call of a tool waits for a free sandbox no longer than its own bound on time allows


@dataclass(frozen=True)
class Workshop:
    """What the toolsmith of a run works with."""

    config: ToolsmithConfig
    gateway: Gateway
    environment: Environment
    sandbox: Sandbox
    ledger: Ledger
    shelf: SkillLibrary
    toolbox: Toolbox
    """The run's own tools, without skills."""
    bounds: Bounds
    """How far an answer may go."""
    max_tokens: int
    """Bound on one turn of an answer, tokens."""
    seed: int
    """The run's."""
    scopes: tuple[str, ...] | None = None
    """Of the skills that stand beside one that is measured; `None` for any."""
    picker: Picker | None = None
    """Offers a task a few of many tools."""


@dataclass(frozen=True)
class Trial:
    """What matched rollouts came to."""

    id: str
    policies: frozenset[int]
    """Who answered: one policy, unless another was delivered in between."""
    called: int
    """Answers with the skill in which it was called and did its work."""
    comparison: Comparison | None
    """Without the skill (before) against with it (after)."""


async def matched_rollouts(
    w: Workshop,
    trial: str,
    skill: Skill,
    before: Sequence[Skill],
    beside: Sequence[Skill],
    tasks: Sequence[Task],
    gate: SkillGateConfig,
) -> Trial:
    """Answer the same tasks without and with a skill, as far as that is not done, and compare.

    Args:
        w: what to work with; its tools are there on both sides.
        trial: id; the policy that is served becomes part of it.
        skill: what is measured.
        before: skills that are there without it.
        beside: skills that are there with it.
        tasks: what is answered.
        gate: gives the confidence of the interval.
    """
    trial = f"{trial}/policy-{w.gateway.policy or 0}"
    w.ledger.add_tasks(tasks)
    for helped, skills in ((False, before), (True, [*beside, skill])):
        toolbox = with_skills(w.toolbox, skills, w.sandbox)
        await _answer(w, trial, helped, skill.name, toolbox, tasks)
    rows = w.ledger.rows(TrialRow, trial=trial, task_id=[task.id for task in tasks])
    scores = {(row.helped, row.task_id): row.score for row in rows}
    return Trial(
        id=trial,
        policies=frozenset(row.policy for row in rows),
        called=sum(row.helped and row.calls > 0 for row in rows),
        comparison=paired_bootstrap(
            [scores[False, task.id] for task in tasks],
            [scores[True, task.id] for task in tasks],
            confidence=gate.confidence,
            seed=bootstrap_seed(w.seed),
        ),
    )


@asynccontextmanager
async def open_workshop(s: Session, library: SkillLibrary) -> AsyncIterator[Workshop]:
    """Open the workshop of a run, with a sandbox of its own; the policy to work with is served already.

    Raises:
        UsageError: the run's solver is an agent of the user's, whose tools are its own.
        SandboxError: no sandbox passes its self-test.
    """
    if s.config.solver is not None:
        raise UsageError(f"solver is {s.config.solver}, which brings its own tools: skills cannot be measured with it.")
    async with await Sandbox.open(s.config.sandbox) as sandbox:
        yield Workshop(
            config=s.config.toolsmith,
            gateway=s.server.gateway,
            environment=s.environment,
            sandbox=sandbox,
            ledger=s.ledger,
            shelf=library,
            toolbox=s.toolbox.without(skill.name for skill in await skills_of(library)),
            bounds=s.config.solve.bounds,
            max_tokens=s.config.solve.max_tokens,
            seed=s.config.seed,
            scopes=s.config.memory.scopes,
            picker=s.picker,
        )


def solved_examples(s: Session, family: str) -> list[tuple[str, str]]:
    """Return examples of a family for the toolsmith to write after, question and answer: real ones, then solved ones.

    Raises:
        UsageError: the run has none.
    """
    real = s.ledger.rows(TaskRow, origin=Origin.REAL.value, family=family, order="id")
    found = {row.id: (row.question, row.answer) for row in real if row.answer is not None}
    episodes = {row.task_id: row.answer for row in s.ledger.rows(EpisodeRow, family=family, score=1.0, order="id")}
    tasks = s.ledger.tasks(episodes)
    found |= {id_: (tasks[id_].question, answer) for id_, answer in episodes.items() if answer and id_ not in found}
    if not found:
        raise UsageError(f"the run has no solved example of {family!r} yet. Raise memory.real, or let it run a round.")
    return list(found.values())[: s.config.toolsmith.examples]


def trial_tasks(s: Session, round: int) -> list[Task]:
    """Return the round's tasks for matched rollouts, drawn once: of no suite, no proposal and no real example."""
    draw_suite(s, "trial", s.config.toolsmith.tasks * len(s.environment.families), round)
    return s.ledger.suite("trial", round=round)


async def _answer(w: Workshop, trial: str, helped: bool, name: str, toolbox: Toolbox, tasks: Sequence[Task]) -> None:
    solver = Solver(w.gateway, w.environment, ToolLoop(w.gateway, toolbox, w.bounds, w.picker))
    done = set(w.ledger.column(TrialRow, "task_id", trial=trial, helped=helped))
    free = asyncio.Semaphore(_AT_ONCE)

    async def ask(task: Task) -> None:
        async with free:
            seed = derive(w.seed, "trial", task.id)
            sampling = Sampling(n=1, seed=seed, temperature=0.0, max_tokens=w.max_tokens)
            (attempt,) = await solver.attempt(task, solver.messages(task), sampling)
        w.ledger.add([_trial_row(trial, helped, task, seed, attempt, name)])

    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                if task.id not in done:
                    group.create_task(ask(task))
    except* Exception as failures:
        raise first_failure(failures) from failures


def _trial_row(trial: str, helped: bool, task: Task, seed: int, attempt: Attempt, name: str) -> TrialRow:
    return TrialRow(
        trial=trial,
        helped=helped,
        task_id=task.id,
        round=int(trial[1 : trial.index("/")]),
        policy=attempt.completion.policy or 0,
        seed=seed,
        text=attempt.completion.text,
        answer=attempt.answer,
        score=full_marks(attempt.score),
        reason=attempt.reason,
        calls=sum(record.call.name == name and record.result.ok for record in attempt.calls),
    )
