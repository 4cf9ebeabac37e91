"""Prompts of a role evolved by reflection and by examples, proved on another suite like weights, kept as versions.

Source: arXiv 2507.19457, "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", by its authors'
package `gepa`. Deviations:
1. The budget counts every call of a model, reflections too, and is never exceeded: what could not be finished is not
   begun. A call that is in the ledger is counted like one that is made, so that an evolution begun again goes the same
   way and pays only for the rest.
2. One prompt is evolved at a time, so nothing is merged.
3. What counts is decided by the gate for weights, on tasks that the evolution never saw. It asks for full marks; the
   search goes by the checker's partial credit, because a weak model's marks are nearly all zero.
4. Every second proposal, the first one to begin with, is made without a model: other solved examples stand after the
   instruction. A small model reflects badly, and examples need no skill. A reflection rewrites the instruction alone.
   After the few-shot search of arXiv 2310.03714, "DSPy: Compiling Declarative Language Model Calls into Self-Improving
   Pipelines"; the answers shown are those known to be right, not the model's own.
5. A minibatch grows with the budget: of three answers by a weak model all are mostly wrong, under any prompt.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from statistics import fmean
from typing import Any

from gepa.api import optimize
from gepa.core.adapter import EvaluationBatch
from gepa.strategies.instruction_proposal import InstructionProposalSignature as Wording
from pydantic import Field

from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen, Message, content_id
from autotelic.evaluation import Comparison, Decision, bootstrap_seed, decide, paired_bootstrap
from autotelic.graphs.prompting import Item, Said, Trials, component_of, credits_of, plain_prompt, prompt_items, scores
from autotelic.graphs.session import Session
from autotelic.graphs.strategy_solver import current_prompts, proofs_on
from autotelic.serving import TOO_LONG, Gateway, Sampling, TooLong
from autotelic.store import PromptCallRow, PromptRow

__all__ = ["Plan", "Reflector", "evolve_in_run"]

LEAST, MOST = 3, 8
"""Items that a prompt is tried on before it is compared: 3 in the paper."""
MINIBATCH = 40
"""One more for each so many calls of the budget, between these bounds."""
HELD_BACK = 12
"""One call in so many goes into a look at the held-back items, on which prompts are compared."""
EXAMPLES = 6
"""Most examples in a prompt."""
HEADING = "Worked examples:"
"""Stands in a prompt between instruction and examples."""
NOTHING = "no prompt that was tried did better on the items held back"


class Plan(Frozen):
    """What is evolved, on what, and how much it may cost."""

    role: str
    """`solver`, `critic`, `proposer` or `curator`."""
    policy: int
    """Number of the policy that answers."""
    learn: int = 1
    """Round whose fresh suite is learned on."""
    prove: int = 2
    """Round whose fresh suite decides; another one."""
    family: str | None = None
    """The solver's prompt for this family; by default an instruction that stands before the prompts of all."""
    calls: int = Field(default=300, ge=1)
    """Most calls of models while evolving. The proof comes on top: two answers to each task of its suites."""


@dataclass(frozen=True)
class Reflector:
    """Who rewrites prompts."""

    gateway: Gateway
    """Where its calls go."""
    name: str
    """What the ledger calls it."""
    max_tokens: int = 512
    """Bound on a reflection, tokens."""


async def evolve_in_run(s: Session, plan: Plan, reflector: Reflector | None = None) -> PromptRow:
    """Evolve a prompt of a role from the one that counts now, prove it, and write down what came of it.

    Args:
        s: the session.
        plan: what to do.
        reflector: who reflects; by default the policy itself.

    Raises:
        UsageError: there is nothing to evolve or to learn on, the rounds are the same, or the budget is too small.
        ServingError: a model could not be asked. Nothing but calls is in the ledger; begun again it goes on from them.
    """
    component = component_of(plan.role, plan.family)
    if plan.learn == plan.prove:
        raise UsageError(f"a prompt evolved on fresh:{plan.learn} cannot be proved on it: name another round's suite.")
    reflector = reflector or Reflector(s.server.gateway, f"policy-{plan.policy}")
    seen = {row.learned_on for row in s.ledger.rows(PromptRow, role=plan.role)}
    if f"fresh:{plan.prove}" in seen:
        raise UsageError(
            f"earlier prompts of the {plan.role} were evolved on fresh:{plan.prove}, and reflections have seen its "
            "answers: it proves nothing any more. Name another round with --prove."
        )
    parent = current_prompts(s.ledger, plan.policy).get(plan.role)
    before = {component: plain_prompt(s, plan.role, plan.family), **(parent.prompts if parent else {})}
    trials = Trials(s, plan.role, plan.policy)
    evolution = _Evolution(s, plan, trials, reflector, before)
    await s.serve(plan.policy)
    await evolution.run()
    after = {**before, component: evolution.best()}
    decision, evidence = await _proved(s, plan, trials, before, after)
    row = PromptRow(
        version=max(s.ledger.column(PromptRow, "version"), default=0) + 1,
        role=plan.role,
        policy=plan.policy,
        promoted=decision.promote,
        prompts=after,
        parent=parent.version if parent else None,
        learned_on=f"fresh:{plan.learn}",
        proved_on=f"fresh:{plan.prove}",
        reflector=reflector.name,
        budget=plan.calls,
        calls=evolution.calls,
        tried=evolution.tried(),
        evidence=evidence,
        reasons=list(decision.reasons),
    )
    s.ledger.add([row])
    return row


async def _proved(
    s: Session, plan: Plan, trials: Trials, before: dict[str, str], after: dict[str, str]
) -> tuple[Decision, dict[str, Any]]:
    """Have the gate decide between prompts."""
    if after == before:
        return Decision(promote=False, reasons=(NOTHING,)), {}
    gate = s.config.gate.asked_again(proofs_on(s.ledger, plan.policy, plan.prove))
    found: dict[str, Comparison | None] = {}
    for suite, round in (("fresh", plan.prove), ("frozen", 0)):
        items = prompt_items(s, plan.role, suite, round, plan.family)
        first = scores(items, await trials.answers(before, items, f"{suite}: as before"))
        second = scores(items, await trials.answers(after, items, f"{suite}: evolved"))
        seed = bootstrap_seed(s.config.seed)
        found[suite] = paired_bootstrap(first, second, confidence=gate.confidence, seed=seed)
    decision = decide(gate, fresh=found["fresh"], frozen=found["frozen"])
    return decision, {suite: one.model_dump(mode="json") for suite, one in found.items() if one is not None}


class _Evolution:
    """One evolution: `gepa`'s loop in a thread of its own, every call of a model in the session's event loop."""

    def __init__(self, s: Session, plan: Plan, trials: Trials, reflector: Reflector, before: Mapping[str, str]) -> None:
        self._s, self._plan, self._trials, self._reflector = s, plan, trials, reflector
        self._component = component_of(plan.role, plan.family)
        self._before = dict(before)
        self._items = prompt_items(s, plan.role, "fresh", plan.learn, plan.family)
        held = min(len(self._items) // 2, max(1, plan.calls // HELD_BACK))
        self._held, self._learned = self._items[:held], self._items[held:]
        # Half of what is learned on at most: examples come from the other half.
        self._minibatch = min(max(LEAST, min(plan.calls // MINIBATCH, MOST)), (len(self._learned) + 1) // 2)
        # What one more prompt may take: two minibatches, the reflection, and a look at what is held back.
        self._turn = 2 * self._minibatch + 1 + held
        self._texts = {self._before[self._component]: "start"}  # and how each came to be
        self._used: set[str] = set()
        self._proposals = self._reflections = 0
        self._loop = asyncio.get_running_loop()
        self._call: Any = None
        self._failure: BaseException | None = None
        self.propose_new_texts: Any = self._propose
        if len(self._items) < 2:
            raise UsageError(
                f"fresh:{plan.learn} has {len(self._items)} items for the {plan.role}; 2 are needed, one to learn from "
                "and one to compare on. Name another round with --on."
            )
        if len(self._held) + self._turn > plan.calls:
            raise UsageError(
                f"{plan.calls} calls are too few to try one prompt, which may take "
                f"{len(self._held) + self._turn}. Raise --calls."
            )

    @property
    def calls(self) -> int:
        """Calls that were made, those read from the ledger among them."""
        return len(self._used)

    async def run(self) -> None:
        """Evolve until the budget is used up. When this is cancelled or a call fails, no further call is made."""
        self._s.progress.start("evolve", self._plan.calls)
        work = asyncio.ensure_future(asyncio.to_thread(self._optimize))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._failure = asyncio.CancelledError()
            if self._call is not None:
                self._call.cancel()
            await asyncio.gather(work, return_exceptions=True)
            raise
        finally:
            self._s.progress.stop("evolve")
        if self._failure is not None:  # one that the package took for a mishap of a reflection
            raise self._failure

    def best(self) -> str:
        """Return the prompt that did best on what is held back, the first of equals."""
        marks = {text: self._marks(text, self._held) for text in self._texts}
        seen = {text: fmean(found) for text, found in marks.items() if len(found) == len(self._held)}
        return max(seen, key=lambda text: seen[text])

    def tried(self) -> list[dict[str, Any]]:
        """Return every prompt that was tried; on how many items says how far it came."""
        best, rows = self.best(), []
        for text, by in self._texts.items():
            marks = self._marks(text, self._items)
            score = fmean(marks) if marks else None
            rows.append({"text": text, "by": by, "tasks": len(marks), "score": score, "chosen": text == best})
        return rows

    def _marks(self, text: str, items: Sequence[Item]) -> list[float]:
        """Return how those of the items came out that were answered under a prompt, partial credit counted."""
        prompts = self._under(text)
        asked = [item for item in items if self._trials.id(prompts, item.id) in self._used]
        return [credit or 0.0 for credit in credits_of(asked, [self._trials.known(prompts, i.id) for i in asked])]

    def _under(self, text: str) -> dict[str, str]:
        return {**self._before, self._component: text}

    # -- in the thread

    def _optimize(self) -> None:
        optimize(
            seed_candidate={self._component: self._before[self._component]},
            trainset=self._learned,
            valset=self._held,
            adapter=self,
            reflection_minibatch_size=self._minibatch,
            stop_callbacks=self._spent,
            logger=_Silent(),
            seed=self._s.seed("evolve", self._plan.role, self._plan.learn),
        )

    def evaluate(self, batch: list[Item], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """Answer a batch under a candidate's prompt."""
        rows = self._wait(lambda: self._answers(candidate[self._component], batch))
        # The search has to put a number on every answer: no verdict, no credit. The gate drops such pairs.
        marks = [credit or 0.0 for credit in credits_of(batch, rows)]
        seen = list(zip(batch, rows, strict=True)) if capture_traces else None
        return EvaluationBatch(outputs=[row.text for row in rows], scores=marks, trajectories=seen)

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],  # noqa: ARG002
        eval_batch: Any,
        components_to_update: list[str],
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return what was asked and said, and what was wrong with it, the worst first."""
        worst_first = sorted(zip(eval_batch.scores, eval_batch.trajectories, strict=True), key=lambda one: one[0])
        records = [
            {"Inputs": item.shown, "Generated Outputs": row.text, "Feedback": row.feedback}
            for _, (item, row) in worst_first
        ]
        return dict.fromkeys(components_to_update, records)

    def _propose(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """Return another prompt, with other examples or a rewritten instruction; nothing where neither was found."""
        (component,) = components_to_update
        seen = reflective_dataset[component]
        instruction, shown = _parts(candidate[component])
        self._proposals += 1
        examples = self._examples({one["Inputs"] for one in seen}) if self._proposals % 2 else ""
        if examples:
            text, by = _joined(instruction, examples), "examples"
        elif rewritten := self._reflect(instruction, seen):
            text, by = _joined(rewritten, shown), "reflection"
        else:
            return {}
        self._texts.setdefault(text, by)
        return {component: text}

    def _examples(self, tried_on: set[str]) -> str:
        """Return solved examples of what is learned on, of all kinds in turn, but for what a prompt is tried on next.

        They have at most as many characters as the model's context has tokens: what a token is only the server knows,
        and a prompt that is too long all the same is refused there, and so does not win.
        """
        rng = random.Random(self._s.seed("examples", self._plan.role, self._component, self._proposals))
        kinds: dict[str, list[str]] = {}
        for item in rng.sample(self._learned, len(self._learned)):
            if item.solved and item.shown not in tried_on:
                kinds.setdefault(item.kind, []).append(item.solved)
        found: dict[str, None] = {}  # an ordered set: two proposals may be the same
        room = self._s.config.serving.max_model_len
        for one in filter(None, chain.from_iterable(zip_longest(*kinds.values()))):
            if one not in found and len(found) < EXAMPLES and len(one) <= room:
                found[one] = None
                room -= len(one)
        return "\n\n".join(found)

    def _reflect(self, instruction: str, seen: Sequence[Mapping[str, Any]]) -> str:
        """Return an instruction rewritten after the worst that was seen; empty where the reflection said nothing."""
        # As many as in the paper: more do not fit into a small model's context.
        asked = {"current_instruction_doc": instruction, "dataset_with_feedback": seen[:LEAST]}
        prompt = str(Wording.prompt_renderer(asked))
        return str(Wording.output_extractor(self._wait(lambda: self._reflection(prompt)).text)["new_instruction"])

    def _spent(self, gepa_state: Any) -> bool:
        """Whether there is no room left for one more prompt."""
        # Where every answer is right there is nothing to reflect on, and a turn costs nothing: turns are bounded too.
        idle = gepa_state.i >= self._plan.calls
        return idle or self._failure is not None or self.calls + self._turn > self._plan.calls

    def _wait(self, work: Callable[[], Any]) -> Any:
        """Have the session's loop do something, and wait for it."""
        self._go_on()
        try:
            self._call = asyncio.run_coroutine_threadsafe(work(), self._loop)
            return self._call.result()
        except BaseException as error:
            self._failure = self._failure or error
            raise

    # -- in the loop

    async def _answers(self, text: str, items: Sequence[Item]) -> list[PromptCallRow]:
        self._go_on()
        rows = await self._trials.answers(self._under(text), items)
        self._count(rows)
        return rows

    def _go_on(self) -> None:
        """Make no call after a failure: the thread may have asked for one before it could know."""
        if self._failure is not None:
            raise self._failure

    async def _reflection(self, prompt: str) -> PromptCallRow:
        self._go_on()
        self._reflections += 1
        name = f"reflection/{self._reflector.name}/{self._reflections}"

        async def make() -> Said:
            seed = self._s.seed("reflect", content_id(prompt), self._reflections)
            sampling = Sampling(max_tokens=self._reflector.max_tokens, temperature=1.0, seed=seed)
            try:
                (said,) = await self._reflector.gateway.complete([Message(role="user", content=prompt)], sampling)
            except TooLong:
                return Said(text="", answer=None, score=None, feedback=TOO_LONG)
            return Said(text=said.text.strip(), answer=None, score=None, feedback=said.finish_reason)

        row = await self._trials.call({"reflection": prompt}, name, make)
        self._count([row])
        return row

    def _count(self, rows: Sequence[PromptCallRow]) -> None:
        before = self.calls
        self._used |= {row.id for row in rows}
        self._s.progress.advance("evolve", self.calls - before)


class _Silent:
    """Takes what the package would print."""

    def log(self, message: str) -> None:
        """Drop it."""


def _joined(instruction: str, examples: str) -> str:
    """Return a prompt of two parts, either of which may be empty."""
    return "\n\n".join(filter(None, (instruction, examples and f"{HEADING}\n\n{examples}")))


def _parts(prompt: str) -> tuple[str, str]:
    """Take apart what `_joined` put together."""
    instruction, _, examples = prompt.partition(f"{HEADING}\n\n")
    return instruction.rstrip("\n"), examples
