"""Reasoning about programs that the proposer writes, after Absolute Zero (2505.03335).

Three families from one kind of material, a program and inputs for it: *deduction* asks for the output, *abduction* for
an input that gives the output, *induction* for the program behind input/output examples. Truth is what the sandbox
says.

Deviations from the paper: 1. a proposal is one small JSON object without the message of induction tasks, and inputs are
topped up with variations of the proposer's own, because a small model cannot write ten; 2. programs whose output hardly
depends on the input are refused, since their answers can be guessed; 3. the syntax tree decides on style only, and
determinism is seen by running twice under different hash seeds; 4. values are compared outside the sandbox, by type and
value, and expected outputs never enter it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from autotelic.core.errors import EnvironmentFailure, SandboxError
from autotelic.core.words import Frozen, Message, Origin, Proposal, Rejection, Task
from autotelic.environments._code_programs import Program, Refused, find_program, read_program
from autotelic.environments._code_seeds import Seed, read_seeds
from autotelic.environments._code_tasks import SHOWN, Case, Family, Wish, build_task, proposal_json
from autotelic.environments._code_values import arguments_text, canonical, read_arguments, read_value, vary
from autotelic.environments.base import Checked, fewer_than_asked, parse_config, plain_answer, shares

if TYPE_CHECKING:
    from autotelic.sandbox import Outcome, Sandbox

__all__ = ["CodeConfig", "CodeEnvironment"]

_FAMILIES: tuple[Family, ...] = ("deduction", "abduction", "induction")
_CASES = 8
"""Inputs a program is tried on, the proposer's own included."""
_TRIES = 40
_FORMS = {
    "deduction": "Reply with the returned value only, written as a Python literal.",
    "abduction": "Reply with the arguments only, as they stand between the parentheses of the call.",
    "induction": "Reply with the Python function f only.",
}
_PROPOSE = (
    "You write programming exercises. Reply with one JSON object: kind, program (a short deterministic Python function "
    "called f), inputs (its arguments, as they stand between the parentheses of a call)."
)
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


class CodeConfig(Frozen):
    """The `environment` section of a config."""

    name: Literal["code"] = "code"
    """Always `code`."""
    families: tuple[Family, ...] = Field(default=_FAMILIES, min_length=1)
    """Kinds of task in use."""
    workers: int = Field(default=2, ge=1, le=64)
    """Programs that run at once."""
    seconds: float = Field(default=2.0, gt=0, le=60)
    """Longest that one call of a program may take, seconds."""


class CodeEnvironment:
    """Environment of the three Absolute Zero task types.

    Args:
        config: the `environment` section of the user's config.
        sandbox: back end for the programs; `auto` takes the strongest that works here.

    Raises:
        UsageError: the config cannot be read.
    """

    name = "code"

    def __init__(self, config: Mapping[str, Any], *, sandbox: str = "auto") -> None:
        self.config = parse_config(CodeConfig, config)
        self.families: list[str] = list(self.config.families)
        self.sandbox: str | None = None
        self._backend = sandbox
        self._box: Sandbox | None = None
        self._seeds, self._held_out = read_seeds()

    async def open(self) -> None:
        """Start the sandbox.

        Raises:
            SandboxError: no back end passes its self-test here.
        """
        if self._box is None:
            from autotelic.sandbox import Limits, Sandbox

            limits = Limits(seconds=self.config.seconds)
            self._box = await Sandbox.open(self._backend, workers=self.config.workers, limits=limits)
            self.sandbox = self._box.backend

    async def aclose(self) -> None:
        """Stop the sandbox."""
        box, self._box = self._box, None
        if box is not None:
            await box.aclose()

    def tasks(self, n: int, seed: int, difficulty: int | None = None) -> list[Task]:
        """See `Environment.tasks`; real tasks come from the seed programs, their inputs varied."""
        return self._draw(self._seeds, n, seed, difficulty)

    def suite_tasks(self, n: int, seed: int) -> list[Task]:
        """See `HoldsBack.suite_tasks`: other programs, for who has seen a program has seen the answer to any inputs."""
        return self._draw(self._held_out, n, seed, None)

    def _draw(self, seeds: list[Seed], n: int, seed: int, difficulty: int | None) -> list[Task]:
        rng = Random(f"tasks {seed}")
        found: list[Task] = []
        for family, share in shares(n, self.families, rng).items():
            found += self._family_tasks(seeds, family, share, Random(f"{family} {seed} {difficulty}"), difficulty)
        rng.shuffle(found)
        return found

    def _family_tasks(self, seeds: list[Seed], family: str, n: int, rng: Random, difficulty: int | None) -> list[Task]:
        top = max(s.program.level for s in seeds)
        seeds = [s for s in seeds if difficulty is None or s.program.level == min(max(difficulty, 0), top)]
        rng.shuffle(seeds)
        tasks: dict[str, Task] = {}
        for draw in range(n * _TRIES):
            if len(tasks) == n:
                break
            chosen = seeds[draw % len(seeds)]
            cases = _trusted_cases(chosen, rng)
            try:
                wish = Wish(family, chosen.program, [c.arguments for c in cases[:1]])
                task = build_task(wish, cases, seed=rng.getrandbits(31), origin=Origin.SUITE)
            except Refused:
                continue
            tasks.setdefault(task.question, task)
        if len(tasks) < n:
            raise EnvironmentFailure(fewer_than_asked(self.name, family, len(tasks), n))
        return list(tasks.values())

    def tools(self, task: Task) -> list[Any]:  # noqa: ARG002
        """No tools."""
        return []

    def system_prompt(self, task: Task) -> str:
        """See `Environment.system_prompt`."""
        return _FORMS[task.family]

    def parse(self, task: Task, text: str) -> str | None:
        """Find a value, an argument list or a program, by family."""
        if task.family == "induction":
            blocks = _BLOCK.findall(text)
            source = (blocks[-1] if blocks else text).strip("\n")
            return source if source.strip() else None
        answer = plain_answer(text, quotes=False)
        if answer is not None and task.family == "abduction" and answer.startswith("f(") and answer.endswith(")"):
            answer = answer[2:-1].strip()
        return answer or None

    async def check(self, task: Task, answer: str | None) -> Checked:
        """Judge by value (deduction), by running the program (abduction) or the answer (induction) in the sandbox.

        Besides the usual reasons: `error`, `timeout`, `memory`, `output`, `crashed`, `refused` for what an answer did
        when it ran.
        """
        if answer is None or not answer.strip():
            return Checked(score=0.0, reason="empty")
        try:
            key = json.loads(task.key)
            if task.family == "deduction":
                return _check_output(key["output"], answer)
            if task.family == "abduction":
                return await self._check_input(key, answer)
            return await self._check_program(key, answer)
        except Exception as error:
            return Checked(score=None, reason="checker_failed", detail=f"{type(error).__name__}: {error}")

    async def try_out(self, task: Task, answer: str) -> Checked | None:
        """See `ShowsExamples.try_out`. What a program returns (deduction) is the question itself, not an example."""
        try:
            return await self._tried(task, answer)
        except SandboxError:  # nothing can be run just now
            return None

    async def _tried(self, task: Task, answer: str) -> Checked | None:
        key = json.loads(task.key)
        if task.family == "deduction":
            return None
        if task.family == "abduction":
            cases, program = [(answer, key["output"])], str(key["program"])
        else:
            cases, program = list(zip(key["inputs"], key["outputs"], strict=True))[:SHOWN], find_program(answer) or ""
        if not program:
            return Checked(score=0.0, reason="malformed", detail="there is no program that parses and defines f")
        faults = [fault for given, wanted in cases if (fault := await self._fault(program, given, wanted))]
        return Checked(score=1 - len(faults) / len(cases), reason="wrong" if faults else "ok", detail="; ".join(faults))

    async def _fault(self, program: str, given: str, wanted: str) -> str:
        """Say in what a call does not return what it should; empty if it does."""
        try:
            outcome = await self._call(program, read_arguments(given))
        except ValueError as error:
            return f"{given} is no list of arguments: {error}"
        if outcome.status != "ok":
            return f"f({given}) fails: {outcome.error or outcome.status}"[:200]
        returned = _value(outcome)
        return "" if returned == wanted else f"f({given}) returns {returned or outcome.value}, not {wanted}"[:200]

    async def _check_input(self, key: dict[str, Any], answer: str) -> Checked:
        try:
            arguments = read_arguments(answer)
        except ValueError as error:
            return Checked(score=0.0, reason="malformed", detail=str(error))
        outcome = await self._call(key["program"], arguments)
        return _check_outcome(key["output"], outcome)

    async def _check_program(self, key: dict[str, Any], answer: str) -> Checked:
        program = find_program(answer)
        if program is None:
            return Checked(score=0.0, reason="malformed", detail="no program that parses and defines f")
        for arguments, output in zip(key["inputs"], key["outputs"], strict=True):
            checked = _check_outcome(output, await self._call(program, read_arguments(arguments)))
            if checked.score != 1.0:
                return checked
        return Checked(score=1.0)

    def proposal_prompt(self, rng: Random, demonstrations: int = 3) -> list[Message]:
        """See `Environment.proposal_prompt`; demonstrations are seed programs."""
        ask = Message(role="user", content="Write an exercise.")
        messages = [Message(role="system", content=f"{_PROPOSE} Kinds: {', '.join(self.families)}.")]
        for seed in rng.sample(self._seeds, min(demonstrations, len(self._seeds))):
            inputs = [seed.arguments, vary(seed.arguments, rng)]
            text = proposal_json(rng.choice(self.families), seed.program.source, [arguments_text(a) for a in inputs])
            messages += [ask, Message(role="assistant", content=text)]
        return [*messages, ask]

    def proposal_schema(self) -> dict[str, Any]:
        """See `Environment.proposal_schema`."""
        return {
            "type": "object",
            "properties": {
                "kind": {"type": "string", "enum": self.families},
                # No maxLength: guided decoding then allows no escapes, and a program needs line ends.
                "program": {"type": "string"},
                "inputs": {
                    "type": "array",
                    "items": {"type": "string", "maxLength": 40},
                    "minItems": 1,
                    "maxItems": 4,
                },
            },
            "required": ["kind", "program", "inputs"],
            "additionalProperties": False,
        }

    def proposal_text(self, task: Task) -> str:
        """See `Environment.proposal_text`."""
        key = json.loads(task.key)
        inputs = key["inputs"][: key["given"]] if task.family == "induction" else [key.get("input", task.answer)]
        return proposal_json(task.family, key["program"], inputs)

    async def validate(self, proposal: Proposal) -> Task | Rejection:
        """Read, judge and run a proposal; the task's truth is what its program returned.

        Reasons, besides those of the style gate (`read_program`): `not_json`, `malformed`, `unknown_kind`, `bad_input`,
        `does_not_run`, `timeout`, `memory`, `output`, `crashed`, `refused`, `not_deterministic`, `not_a_value`,
        `guessable`, `too_few_inputs`.
        """
        try:
            wish = self._read(proposal.text)
            cases = await self._run_cases(wish, Random(f"proposal {proposal.seed}"))
            return build_task(wish, cases, seed=proposal.seed, origin=proposal.origin)
        except Refused as refused:
            return Rejection(reason=refused.reason, detail=str(refused))

    def _read(self, text: str) -> Wish:
        try:
            wish = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Refused("not_json", str(error)) from error
        if not isinstance(wish, dict) or set(wish) != {"kind", "program", "inputs"}:
            raise Refused("malformed", "expected an object with kind, program and inputs, nothing else")
        kind, source, inputs = wish["kind"], wish["program"], wish["inputs"]
        if kind not in self.families:
            raise Refused("unknown_kind", f"{kind!r} is none of {', '.join(self.families)}")
        if not isinstance(source, str) or not isinstance(inputs, list) or not all(isinstance(i, str) for i in inputs):
            raise Refused("malformed", "program is text and inputs is a list of texts")
        if not 1 <= len(inputs) <= _CASES:
            raise Refused("malformed", f"{len(inputs)} inputs; expected 1 to {_CASES}")
        program = read_program(source)
        return Wish(kind, program, [_read_input(program, i) for i in inputs])

    async def _run_cases(self, wish: Wish, rng: Random) -> list[Case]:
        """Run the proposer's inputs, which must work, and variations of them, of which those that work are kept."""
        cases = [Case(a, await self._truth(wish.program, a)) for a in wish.inputs]
        for _ in range(_CASES - len(cases)):
            arguments = vary(rng.choice(wish.inputs), rng)
            try:
                cases.append(Case(arguments, await self._truth(wish.program, arguments)))
            except Refused as refused:
                if refused.reason == "not_deterministic":
                    raise
        return cases

    async def _truth(self, program: Program, arguments: tuple[Any, ...]) -> str:
        call = f"f({arguments_text(arguments)})"
        outcome = await self._sandbox.call_twice(program.source, "f", arguments_text(arguments))
        if outcome.status != "ok":
            raise Refused(_reason(outcome), f"{call}: {outcome.error or outcome.status}"[:200])
        value = _value(outcome)
        if value is None:
            raise Refused("not_a_value", f"{call} returns {str(outcome.value)[:60]}")
        return value

    async def _call(self, source: str, arguments: tuple[Any, ...]) -> Outcome:
        return await self._sandbox.call(source, "f", arguments_text(arguments))

    @property
    def _sandbox(self) -> Sandbox:
        if self._box is None:
            raise EnvironmentFailure(
                "the code environment has no sandbox yet; expected open() before use. Open it first."
            )
        return self._box


def _reason(outcome: Outcome) -> str:
    if outcome.status != "error":
        return outcome.status
    if outcome.error.startswith("NotDeterministic"):
        return "not_deterministic"
    return "not_a_value" if "the result holds" in outcome.error else "does_not_run"


def _read_input(program: Program, text: str) -> tuple[Any, ...]:
    try:
        arguments = read_arguments(text)
    except ValueError as error:
        raise Refused("bad_input", str(error)) from error
    if len(arguments) != program.parameters:
        raise Refused("bad_input", f"{len(arguments)} arguments for {program.parameters} parameters")
    return arguments


def _trusted_cases(seed: Seed, rng: Random) -> list[Case]:
    """Cases of a hand-written program; inputs it does not take are left out."""
    cases = []
    for _ in range(_CASES):
        arguments = vary(seed.arguments, rng)
        try:
            cases.append(Case(arguments, canonical(seed.call(*read_arguments(arguments_text(arguments))))))
        except (ValueError, IndexError):
            continue
    return cases


def _value(outcome: Outcome) -> str | None:
    """Canonical text of what a call returned, `None` if that is not a value."""
    try:
        return canonical(read_value(outcome.value or ""))
    except ValueError:
        return None


def _check_output(expected: str, answer: str) -> Checked:
    """Compare an answer with the expected value; text counts with and without its quotation marks."""
    value = read_value(expected)
    if isinstance(value, str) and answer == value:
        return Checked(score=1.0)
    try:
        given = canonical(read_value(answer))
    except ValueError as error:
        return Checked(score=0.0, reason="wrong" if isinstance(value, str) else "malformed", detail=str(error))
    return Checked.of(float(given == expected))


def _check_outcome(expected: str, outcome: Outcome) -> Checked:
    if outcome.status != "ok":
        return Checked(score=0.0, reason=outcome.status, detail=outcome.error[:200])
    return Checked.of(float(_value(outcome) == expected))
