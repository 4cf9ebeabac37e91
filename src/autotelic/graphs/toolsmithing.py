"""How a function becomes a skill, and how a skill leaves: by matched rollouts and nothing else.

Every function that was written and every decision is a row of the ledger, under an id that does not depend on how often
it was tried: first what was written and whether its tests pass, then what the rollouts showed. So what was killed goes
on, and no function is written twice.

Source: arXiv 2305.17126, 2305.16291 (functions written and tried by the model), 2606.08755 (matched rollouts).
"""

from __future__ import annotations

from collections.abc import Sequence

from autotelic.agents import SkillDraft, Toolsmith, Unfit, next_version, read_draft
from autotelic.core.errors import UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Rejection, Task
from autotelic.evaluation import Comparison, SkillDecision, SkillGateConfig, admit_skill, keep_skill
from autotelic.graphs.session import Session, as_dicts
from autotelic.graphs.skill_library import SkillLibrary, skills_of
from autotelic.graphs.trials import Trial, Workshop, matched_rollouts, open_workshop, solved_examples, trial_tasks
from autotelic.memory.items import Skill
from autotelic.store import NodeRow, SkillRow
from autotelic.tools import Toolbox

__all__ = ["make_in_run", "make_skills", "measure_again", "measure_in_run"]


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
    drafts = await _drafts(w, family, examples, round)
    gate = w.config.gate.among(sum(draft.kept for draft in drafts))
    rows = []
    for draft in drafts:
        id_ = draft.id.replace("/draft/", "/made/", 1)
        if draft.kept and w.ledger.get(SkillRow, id_) is None:
            w.ledger.add([await _judge(w, id_, draft, tasks, gate)])
        rows.append(w.ledger.get(SkillRow, id_) or draft)
    return rows


async def measure_again(w: Workshop, tasks: Sequence[Task], *, round: int, family: str | None = None) -> list[SkillRow]:
    """Measure skills of the library again, each without it against with it, and retire those that do no good.

    A skill that a person pinned is measured too, and stays. Where the gain shows again, the skill says so from now on.

    Args:
        w: what to work with.
        tasks: new tasks; each skill is tried on those of its family.
        round: the run's round; a skill is measured once in a round, from the one after its own on.
        family: only skills of this family.

    Returns:
        A row for each skill that was measured.
    """
    for skill in await skills_of(w.shelf):
        if family not in (None, skill.family) or skill.round >= round:
            continue
        id_ = f"r{round}/again/{skill.id}"
        row = w.ledger.get(SkillRow, id_)
        if row is None:
            row = await _measure(w, id_, skill, [task for task in tasks if task.family == skill.family], round)
            w.ledger.add([row])
        if not row.kept and not skill.pinned:
            await w.shelf.retire([skill.id], round=round, reason=row.detail)
        elif row.reason == "no_harm" and row.evidence["low"] > 0:
            gain = (row.evidence["gain"], row.evidence["low"], row.evidence["high"])
            await w.shelf.replace(skill.model_copy(update={"gain": gain}))
    return w.ledger.rows(SkillRow, round=round, kind="again", order="id", **({"family": family} if family else {}))


async def make_in_run(s: Session, library: SkillLibrary, family: str) -> list[SkillRow]:
    """Have functions written for a family of a run by its champion, once in a round; see `make_skills`.

    Raises:
        UsageError: the environment has no such family, there is no example of it, or the solver is the user's agent.
    """
    if family not in s.environment.families:
        raise UsageError(f"the run has no family {family!r}. It has: {', '.join(s.environment.families)}.")
    examples, round = solved_examples(s, family), _last_round(s)
    await s.serve(s.ledger.champion().number)
    async with open_workshop(s, library) as w:
        tasks = [task for task in trial_tasks(s, round) if task.family == family]
        return await make_skills(w, family, examples, tasks, round=round)


async def measure_in_run(s: Session, library: SkillLibrary, family: str | None = None) -> list[SkillRow]:
    """Measure the skills of a run again with its champion, once in a round; see `measure_again`."""
    round = _last_round(s)
    await s.serve(s.ledger.champion().number)
    async with open_workshop(s, library) as w:
        return await measure_again(w, trial_tasks(s, round), round=round, family=family)


def _last_round(s: Session) -> int:
    return max(s.ledger.column(NodeRow, "round", node="propose"), default=0)


async def _drafts(w: Workshop, family: str, examples: Sequence[tuple[str, str]], round: int) -> list[SkillRow]:
    """Return the round's functions for a family, written once; those whose tests pass are `kept` to be measured."""
    ids = [f"r{round}/draft/{family}/{index}" for index in range(w.config.drafts)]
    if not w.ledger.count(SkillRow, id=ids):
        smith = Toolsmith(w.gateway, w.sandbox, max_tokens=w.config.max_tokens, temperature=w.config.temperature)
        drafts = await smith.draft(
            family,
            examples,
            environment=w.environment.name,
            n=len(ids),
            seed=derive(w.seed, "toolsmith", round, family),
            round=round,
            known=await skills_of(w.shelf),
            taken=_names(w.toolbox),
        )
        w.ledger.add([_draft_row(id_, family, draft, round) for id_, draft in zip(ids, drafts, strict=True)])
    return w.ledger.rows(SkillRow, id=ids, order="index")


def _draft_row(id: str, family: str, draft: SkillDraft, round: int) -> SkillRow:
    row = SkillRow(
        id=id,
        round=round,
        index=int(id.rpartition("/")[2]),
        family=family,
        policy=draft.completion.policy or 0,
        kind="draft",
        kept=isinstance(draft.outcome, Skill),
        messages=as_dicts(draft.messages),
        text=draft.completion.text,
    )
    if isinstance(draft.outcome, Rejection):
        row.reason, row.detail = draft.outcome.reason, draft.outcome.detail
    return row


async def _judge(w: Workshop, id: str, draft: SkillRow, tasks: Sequence[Task], gate: SkillGateConfig) -> SkillRow:
    """Return what is to be written down about a function, after what it says was done."""
    row = SkillRow(
        id=id,
        round=draft.round,
        index=draft.index,
        family=draft.family,
        policy=draft.policy,
        kind="made",
        kept=False,
        text=draft.text,
    )
    skill = read_draft(draft.text)
    known = [one for one in await skills_of(w.shelf) if one.id != skill.id]
    try:
        skill = next_version(skill, known, _names(w.toolbox))  # a function before it may have been stored by now
    except Unfit as error:
        row.reason, row.detail = error.reason, str(error)
        return row
    origin = {"environment": w.environment.name, "family": row.family, "round": row.round, "policy": row.policy}
    skill = skill.model_copy(update=origin)
    row.skill_id = skill.id
    beside = [one for one in known if one.id != skill.parent]
    seen = {one.id for one in await skills_of(w.shelf, w.scopes)}
    known, beside = ([one for one in some if one.id in seen] for some in (known, beside))
    trial = await matched_rollouts(w, id, skill, known, beside, tasks, gate)
    decision = _one_policy(trial) or admit_skill(gate, trial.comparison, called=trial.called)
    _decided(row, trial, decision)
    if decision.keep and trial.comparison is not None:
        await _store(w, row, _measured(skill, trial.comparison))
    return row


async def _measure(w: Workshop, id: str, skill: Skill, tasks: Sequence[Task], round: int) -> SkillRow:
    """Return what is to be written down about a skill of the library that is measured beside the others."""
    others = [one for one in await skills_of(w.shelf, w.scopes) if one.id != skill.id]
    trial = await matched_rollouts(w, id, skill, others, others, tasks, w.config.gate)
    decision = _one_policy(trial) or keep_skill(w.config.gate, trial.comparison)
    if skill.pinned and not decision.keep:
        decision = decision.model_copy(update={"keep": True, "words": f"pinned by a person; {decision.words}"})
    row = SkillRow(
        id=id,
        round=round,
        family=skill.family,
        policy=0,
        kind="again",
        skill_id=skill.id,
        kept=True,
        text=skill.code,
    )
    _decided(row, trial, decision)
    return row


async def _store(w: Workshop, row: SkillRow, skill: Skill) -> None:
    """Put a skill into the library, in the place of its last version. Doing it twice changes nothing."""
    if skill.id not in {one.id for one in await skills_of(w.shelf)}:
        told = await w.shelf.add([skill])
        if skill.id not in told.added:
            why = told.refused.get(skill.id) or "a person had it forgotten"
            row.kept, row.reason, row.detail = False, "not_stored", f"the library did not take it: {why}; {row.detail}"
            return
    if skill.parent:
        await w.shelf.retire([skill.parent], round=row.round, reason=f"{skill.id} took its place: {row.detail}")


def _one_policy(trial: Trial) -> SkillDecision | None:
    """Nothing is decided by what two policies answered; who is in stays in, who is out stays out."""
    if len(trial.policies) < 2:
        return None
    names = " and ".join(f"policy-{number}" for number in sorted(trial.policies))
    return SkillDecision(keep="/again/" in trial.id, reason="policy_changed", words=f"{names} answered, not one policy")


def _measured(skill: Skill, found: Comparison) -> Skill:
    return skill.model_copy(update={"gain": (found.gain, found.low, found.high)})


def _decided(row: SkillRow, trial: Trial, decision: SkillDecision) -> None:
    row.kept, row.reason, row.detail, row.trial = decision.keep, decision.reason, decision.words, trial.id
    row.policy = min(trial.policies, default=row.policy)
    row.evidence = {**(trial.comparison.model_dump() if trial.comparison else {}), "called": trial.called}


def _names(toolbox: Toolbox) -> set[str]:
    return {tool.name for tool in (*toolbox.allowed, *toolbox.refused)}
