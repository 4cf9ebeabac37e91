"""How a function becomes a skill, and how a skill leaves: by matched rollouts and nothing else.

The same tasks are answered twice by the same policy, greedily and with the same seed: with the tools that are there,
and with the skill besides. Both sides speak in the tool loop's form, even where there is no other tool, so that a skill
is not credited with the form. The tasks are new: none that the function was written after, none of a suite that decides
about policies. Every draft, every answer and every decision is a row of the ledger, under an id that does not depend on
how often it was tried; so what was killed goes on.

Source: arXiv 2606.08755 (matched rollouts before a skill is stored), 2305.17126, 2305.16291.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from autotelic.agents import Attempt, Bounds, Picker, SkillDraft, Solver, ToolLoop, Toolsmith, Unfit, next_version
from autotelic.core.errors import UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Origin, Rejection, Task
from autotelic.environments import Environment
from autotelic.evaluation import (
    Comparison,
    SkillDecision,
    SkillGateConfig,
    admit_skill,
    bootstrap_seed,
    full_marks,
    keep_skill,
    paired_bootstrap,
)
from autotelic.graphs.config import ToolsmithConfig
from autotelic.graphs.evaluating import draw_suite
from autotelic.graphs.session import Session, as_dicts, first_failure
from autotelic.graphs.skill_library import SkillLibrary, skills_of, with_skills
from autotelic.memory.items import Skill
from autotelic.sandbox import Sandbox
from autotelic.serving import Gateway, Sampling
from autotelic.store import Ledger, SkillRow, TaskRow, TrialRow
from autotelic.tools import Toolbox

__all__ = [
    "Trial",
    "Workshop",
    "make_skills",
    "matched_rollouts",
    "measure_again",
    "open_workshop",
    "solved_examples",
    "trial_tasks",
]

_AT_ONCE = 16  # a call of a tool waits for a free sandbox no longer than its own bound on time allows


@dataclass(frozen=True)
class Workshop:
    """What the toolsmith of a run works with."""

    config: ToolsmithConfig
    gateway: Gateway
    environment: Environment
    sandbox: Sandbox
    ledger: Ledger
    library: SkillLibrary
    toolbox: Toolbox
    """The run's own tools, without skills."""
    bounds: Bounds
    """How far an answer may go."""
    max_tokens: int
    """Bound on one turn of an answer, tokens."""
    seed: int
    """The run's."""
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


async def make_skills(
    w: Workshop, family: str, examples: Sequence[tuple[str, str]], tasks: Sequence[Task], *, round: int
) -> list[SkillRow]:
    """Have functions written for a family, try them one after the other, and store those that show a gain.

    Args:
        w: what to work with.
        family: family of tasks.
        examples: solved examples to write after.
        tasks: other tasks of the family, for the matched rollouts.
        round: the run's round.

    Returns:
        A row for each function: kept, or why not.
    """
    ids = [f"r{round}/made/{family}/{index}" for index in range(w.config.drafts)]
    done = set(w.ledger.column(SkillRow, "id", id=ids))
    if len(done) < len(ids):
        smith = Toolsmith(w.gateway, w.sandbox, max_tokens=w.config.max_tokens, temperature=w.config.temperature)
        drafts = await smith.draft(
            family,
            examples,
            environment=w.environment.name,
            n=len(ids),
            seed=derive(w.seed, "toolsmith", round, family),
            round=round,
            known=await skills_of(w.library),
            taken=_names(w.toolbox),
        )
        gate = w.config.gate.among(sum(isinstance(draft.outcome, Skill) for draft in drafts))
        for id_, draft in zip(ids, drafts, strict=True):
            if id_ not in done:
                w.ledger.add([await _judge(w, id_, family, draft, tasks, gate, round)])
    return w.ledger.rows(SkillRow, id=ids, order="id")


async def measure_again(w: Workshop, tasks: Sequence[Task], *, round: int, family: str | None = None) -> list[SkillRow]:
    """Measure skills of the library again, each without it against with it, and retire those that do no good.

    A skill that a person pinned is measured too, and stays. Where the gain shows again, the skill says so from now on.

    Args:
        w: what to work with.
        tasks: new tasks; each skill is tried on those of its family.
        round: the run's round; a skill is measured once in a round.
        family: only skills of this family.

    Returns:
        A row for each skill that was measured.
    """
    ids = []
    for skill in await skills_of(w.library):
        if family not in (None, skill.family):
            continue
        ids.append(id_ := f"r{round}/again/{skill.id}")
        if w.ledger.get(SkillRow, id_) is not None:
            continue
        row = _row(id_, "again", skill, round)
        others = [one for one in await skills_of(w.library) if one.id != skill.id]
        own = [task for task in tasks if task.family == skill.family]
        trial = await matched_rollouts(w, id_, skill, others, others, own, w.config.gate)
        decision = _one_policy(trial) or keep_skill(w.config.gate, trial.comparison)
        if skill.pinned and not decision.keep:
            decision = decision.model_copy(update={"keep": True, "words": f"pinned by a person; {decision.words}"})
        _decided(row, trial, decision)
        if not decision.keep:
            await w.library.retire([skill.id], round=round, reason=decision.words)
        elif trial.comparison is not None and decision.reason == "no_harm" and trial.comparison.low > 0:
            await w.library.replace(_measured(skill, trial.comparison))
        w.ledger.add([row])
    return w.ledger.rows(SkillRow, id=ids, order="id")


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


async def _judge(
    w: Workshop,
    id: str,
    family: str,
    draft: SkillDraft,
    tasks: Sequence[Task],
    gate: SkillGateConfig,
    round: int,
) -> SkillRow:
    """Return what is to be written down about a draft, after what it says was done."""
    row = SkillRow(
        id=id,
        round=round,
        family=family,
        policy=draft.completion.policy or 0,
        kind="made",
        kept=False,
        reason="",
        detail="",
        messages=as_dicts(draft.messages),
        text=draft.completion.text,
    )
    if isinstance(draft.outcome, Rejection):
        row.reason, row.detail = draft.outcome.reason, draft.outcome.detail
        return row
    known = [one for one in await skills_of(w.library) if one.id != draft.outcome.id]
    try:
        skill = next_version(draft.outcome, known, _names(w.toolbox))  # a draft before it may have been stored by now
    except Unfit as error:
        row.reason, row.detail = error.reason, str(error)
        return row
    row.skill_id = skill.id
    beside = [one for one in known if one.id != skill.parent]
    trial = await matched_rollouts(w, id, skill, known, beside, tasks, gate)
    decision = _one_policy(trial) or admit_skill(gate, trial.comparison, called=trial.called)
    _decided(row, trial, decision)
    if decision.keep and trial.comparison is not None:
        await _store(w, row, _measured(skill, trial.comparison))
    return row


async def _store(w: Workshop, row: SkillRow, skill: Skill) -> None:
    """Put a skill into the library, in the place of its last version. Doing it twice changes nothing."""
    told = await w.library.add([skill])
    if why := told.refused.get(skill.id) or told.merged.get(skill.id):
        row.kept, row.reason, row.detail = False, "not_stored", f"the library did not take it: {why}; {row.detail}"
    elif skill.parent:
        await w.library.retire([skill.parent], round=row.round, reason=f"{skill.id} took its place: {row.detail}")


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


def _one_policy(trial: Trial) -> SkillDecision | None:
    """Nothing is decided by what two policies answered; who is in stays in, who is out stays out."""
    if len(trial.policies) < 2:
        return None
    names = " and ".join(f"policy-{number}" for number in sorted(trial.policies))
    return SkillDecision(keep="/again/" in trial.id, reason="policy_changed", words=f"{names} answered, not one policy")


def _measured(skill: Skill, found: Comparison) -> Skill:
    return skill.model_copy(update={"gain": (found.gain, found.low, found.high)})


def _row(id: str, kind: str, skill: Skill, round: int) -> SkillRow:
    return SkillRow(
        id=id,
        round=round,
        family=skill.family,
        policy=0,
        kind=kind,
        skill_id=skill.id,
        kept=True,
        reason="",
        detail="",
        text=skill.code,
    )


def _decided(row: SkillRow, trial: Trial, decision: SkillDecision) -> None:
    row.kept, row.reason, row.detail, row.trial = decision.keep, decision.reason, decision.words, trial.id
    row.policy = min(trial.policies, default=row.policy)
    row.evidence = {**(trial.comparison.model_dump() if trial.comparison else {}), "called": trial.called}


def _names(toolbox: Toolbox) -> set[str]:
    return {tool.name for tool in (*toolbox.allowed, *toolbox.refused)}


# -- in a run


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
            library=library,
            toolbox=s.toolbox,
            bounds=s.config.solve.bounds,
            max_tokens=s.config.solve.max_tokens,
            seed=s.config.seed,
            picker=s.picker,
        )


def solved_examples(s: Session, family: str) -> list[tuple[str, str]]:
    """Return real examples of a family, question and answer, for the toolsmith to write after."""
    rows = s.ledger.rows(TaskRow, origin=Origin.REAL.value, family=family, order="id")
    return [(row.question, row.answer) for row in rows if row.answer is not None][: s.config.toolsmith.examples]


def trial_tasks(s: Session, round: int) -> list[Task]:
    """Return the round's tasks for matched rollouts, drawn once: of no suite, no proposal and no real example."""
    draw_suite(s, "trial", s.config.toolsmith.tasks * len(s.environment.families), round)
    return s.ledger.suite("trial", round=round)
