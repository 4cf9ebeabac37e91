"""The toolsmith has the model write tools: a function with a docstring, a schema and tests.

Source: arXiv 2305.17126, "Large Language Models as Tool Makers"; arXiv 2305.16291, "Voyager". Deviations:

1. The tests are the model's own and count for little: passing them in the sandbox makes a draft. What makes a skill of
   it are matched rollouts on other tasks (`autotelic.graphs.toolsmithing`), which a function that only knows its tests
   by heart cannot win.
2. The model lists the parameters by name and type, and the JSON schema is made of that: a small model writes no schema,
   and none that was written by a model is ever interpreted.
3. A failed draft is not sent back for repair; another one is sampled.

What is not covered: a function that depends on the time of day passes when two calls see the same; and a docstring may
lie to the solver. Both can only cost accuracy, which is what is measured.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jsonschema import Draft202012Validator
from pydantic import Field, ValidationError

from autotelic.agents.skills import Unfit, as_json, as_literals, read_function
from autotelic.core.dialect import strict_json
from autotelic.core.faults import faults
from autotelic.core.words import Completion, Frozen, Message, Rejection, content_id
from autotelic.memory.items import Skill
from autotelic.sandbox import Outcome, Sandbox
from autotelic.serving import Gateway, Sampling

__all__ = ["SkillDraft", "Toolsmith", "check_tests", "next_version", "read_draft"]

SYSTEM = (
    "You write Python functions that help to solve tasks. Write one function that is right for every task of the kind, "
    "not only for those shown: with a docstring, the standard library only, no files and no network, and the same "
    "result for the same arguments. Then write tests: arguments in the order of the parameters, and the result."
)
Kind = Literal["string", "integer", "number", "boolean", "strings", "integers", "numbers"]
_ITEMS = {"strings": "string", "integers": "integer", "numbers": "number"}
_NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")
_MIN_TESTS, _MAX_TESTS = 3, 6

_ATOM: list[dict[str, Any]] = [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]
_VALUE = {"anyOf": [*_ATOM, {"type": "array", "items": {"anyOf": _ATOM}}]}


def _closed(**properties: Any) -> dict[str, Any]:
    names = list(properties)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


SCHEMA: dict[str, Any] = _closed(
    name={"type": "string", "maxLength": 40},
    parameters={
        "type": "array",
        "items": _closed(name={"type": "string", "maxLength": 40}, type={"enum": list(get_args(Kind))}),
        "minItems": 1,
        "maxItems": 4,
    },
    code={"type": "string"},
    tests={
        "type": "array",
        "items": _closed(arguments={"type": "array", "items": _VALUE}, result=_VALUE),
        "minItems": _MIN_TESTS,
        "maxItems": _MAX_TESTS,
    },
)

EXAMPLE = (
    (("How many vowels has 'tea house'?", "5"), ("How many vowels has 'rhythm'?", "0")),
    json.dumps(
        {
            "name": "count_vowels",
            "parameters": [{"name": "text", "type": "string"}],
            "code": 'def count_vowels(text):\n    """Count the vowels of a text."""\n'
            '    return sum(letter in "aeiou" for letter in text.lower())',
            "tests": [
                {"arguments": ["tea house"], "result": 5},
                {"arguments": ["rhythm"], "result": 0},
                {"arguments": ["Ida"], "result": 2},
            ],
        }
    ),
)
"""A worked example that stands in every prompt: examples of a kind of task, and what the model should write, in the
very form that guided decoding allows."""


class _Parameter(Frozen):
    name: str
    type: Kind


class _Test(Frozen):
    arguments: tuple[Any, ...]
    result: Any


class _Written(Frozen):
    name: str
    parameters: tuple[_Parameter, ...] = Field(max_length=8)
    code: str
    tests: tuple[_Test, ...] = Field(max_length=20)


@dataclass(frozen=True)
class SkillDraft:
    """One function as written, and what the sandbox said to it."""

    completion: Completion
    """What the model wrote."""
    messages: tuple[Message, ...]
    """The prompt."""
    outcome: Skill | Rejection
    """A skill whose tests pass and whose gain is not measured yet, or why it is none."""


class Toolsmith:
    """Has functions written for families of tasks.

    Args:
        gateway: where model calls go.
        sandbox: where the functions run.
        max_tokens: bound on one function with its tests, tokens.
        temperature: sampling temperature.
    """

    def __init__(self, gateway: Gateway, sandbox: Sandbox, *, max_tokens: int = 640, temperature: float = 1.0) -> None:
        self._gateway = gateway
        self._sandbox = sandbox
        self._max_tokens = max_tokens
        self._temperature = temperature

    def messages(self, examples: Sequence[tuple[str, str]], known: Sequence[Skill] = ()) -> tuple[Message, ...]:
        """Return the prompt: a worked example, then solved examples of the family and what there is already."""
        first = {skill.name: skill.description.partition("\n")[0] for skill in known}
        there = "".join(f"\n- {name}: {line}" for name, line in first.items())
        return (
            Message(role="system", content=SYSTEM),
            Message(role="user", content=_request(EXAMPLE[0])),
            Message(role="assistant", content=EXAMPLE[1]),
            Message(role="user", content=_request(examples) + (f"\n\nThere are already:{there}" if there else "")),
        )

    async def draft(
        self,
        family: str,
        examples: Sequence[tuple[str, str]],
        *,
        environment: str = "",
        n: int = 1,
        seed: int,
        round: int = 0,
        known: Sequence[Skill] = (),
        taken: Collection[str] = (),
    ) -> list[SkillDraft]:
        """Have `n` functions written after the same examples, and try their tests.

        Args:
            family: family of tasks they are for.
            examples: solved examples, question and answer.
            environment: environment of the family.
            n: functions.
            seed: seed of the request.
            round: round they are made in.
            known: skills that are there; a function with the name of one is its next version.
            taken: names of other tools, which a skill cannot have.
        """
        messages = self.messages(examples, [skill for skill in known if skill.family == family])
        sampling = Sampling(n=n, seed=seed, max_tokens=self._max_tokens, temperature=self._temperature, schema=SCHEMA)
        drafts, codes = list[SkillDraft](), {skill.code for skill in known}
        for completion in await self._gateway.complete(list(messages), sampling):
            outcome: Skill | Rejection
            try:
                skill = await self._tried(completion, codes, known, taken)
                made = {"environment": environment, "family": family, "round": round}
                outcome = skill.model_copy(update=made | {"policy": completion.policy or 0})
                codes.add(skill.code)
            except Unfit as error:
                outcome = Rejection(reason=error.reason, detail=str(error)[:300])
            drafts.append(SkillDraft(completion, messages, outcome))
        return drafts

    async def _tried(
        self, completion: Completion, codes: Collection[str], known: Sequence[Skill], taken: Collection[str]
    ) -> Skill:
        if completion.finish_reason == "length":
            raise Unfit("truncated", f"cut off after {completion.completion_tokens} tokens")
        written = read_draft(completion.text)
        if written.code in codes:
            raise Unfit("duplicate", f"the very code of {written.name} is there already")
        skill = next_version(written, known, taken)
        await check_tests(skill, self._sandbox)
        return skill


async def check_tests(skill: Skill, sandbox: Sandbox) -> None:
    """Run a skill's tests in the sandbox, each in two processes with different hash seeds.

    The expected results stay outside: the verdict is made here, where no line of the code ever ran.

    Raises:
        Unfit: with reason `tests_failed`, `not_deterministic`, `bad_tests`, or the limit that it broke: `timeout`,
            `memory`, `output`, `crashed`. A program that writes into its own result pipe is `crashed`.
    """
    order = read_function(skill.code, skill.name).parameters
    for number, (arguments, expected) in enumerate(skill.tests, 1):
        outcome = await sandbox.call_twice(skill.code, skill.name, as_literals(order, arguments))
        if outcome.status != "ok":
            raise Unfit(_reason(outcome), f"test {number}: {outcome.error}")
        if not _same(str(outcome.value), expected):
            said = f"gave {str(outcome.value)[:100]}, expected {expected!r:.100}"
            raise Unfit("tests_failed", f"test {number}: {said}")


def read_draft(text: str) -> Skill:
    """Read what the model wrote, as far as that can be judged without running it. Its origin is left open.

    Raises:
        Unfit: with reason `not_json`, `bad_name`, `no_docstring`, `schema_mismatch` or `too_few_tests`, or one of
            `read_function`'s.
    """
    try:
        strict_json(text)  # no name twice, no NaN, nothing infinite; the second parser is stricter about text
        written = _Written.model_validate_json(text)
    except ValidationError as error:
        raise Unfit("not_json", faults(error, most=1)) from None
    except (ValueError, RecursionError) as error:
        raise Unfit("not_json", str(error)) from None
    names = [parameter.name for parameter in written.parameters]
    if not _NAME.fullmatch(written.name) or keyword.iskeyword(written.name):
        raise Unfit("bad_name", f"{written.name[:60]!r} is not a name such as count_letters")
    function = read_function(written.code, written.name)
    if len(set(names)) < len(names) or set(function.parameters) != set(names):
        told = f"the function takes {', '.join(function.parameters) or 'nothing'}"
        raise Unfit("schema_mismatch", f"{told}, the parameters are {', '.join(names) or 'none'}")
    if not function.docstring.strip():
        raise Unfit("no_docstring", f"{written.name} does not say what it does")
    schema = _closed(**{parameter.name: _schema(parameter.type) for parameter in written.parameters})
    return Skill(
        id=f"{written.name}-{content_id('skill', written.name, written.code)[:8]}",
        name=written.name,
        description=function.docstring,
        code=written.code,
        parameters=schema,
        tests=_tests(written, names, schema),
    )


def next_version(skill: Skill, known: Sequence[Skill], taken: Collection[str] = ()) -> Skill:
    """Return the skill with its version: one more than that of the known skill with its name, which is its parent.

    Raises:
        Unfit: with reason `bad_name`, because another tool has the name or a person pinned the version that is there;
            or `duplicate`.
    """
    if skill.name in taken:
        raise Unfit("bad_name", f"another tool is called {skill.name}")
    if any(one.code == skill.code for one in known):
        raise Unfit("duplicate", f"the very code of {skill.name} is there already")
    earlier = [one for one in known if one.name == skill.name]
    if not earlier:
        return skill
    last = max(earlier, key=lambda one: one.version)
    if last.pinned:
        raise Unfit("bad_name", f"{skill.name} was pinned by a person and gets no other version")
    return skill.model_copy(update={"version": last.version + 1, "parent": last.id})


def _request(examples: Sequence[tuple[str, str]]) -> str:
    shown = "\n\n".join(f"Task:\n{question}\nAnswer:\n{answer}" for question, answer in examples)
    return f"{shown}\n\nWrite a function that helps with tasks of this kind."


def _schema(kind: Kind) -> dict[str, Any]:
    return {"type": "array", "items": {"type": _ITEMS[kind]}} if kind in _ITEMS else {"type": kind}


def _tests(written: _Written, names: list[str], schema: dict[str, Any]) -> tuple[tuple[dict[str, Any], Any], ...]:
    """The tests by names of arguments, if they fit the schema and could tell something."""
    fits = Draft202012Validator(schema).is_valid
    found: dict[str, tuple[dict[str, Any], Any]] = {}
    for test in written.tests:
        arguments = dict(zip(names, test.arguments, strict=False))
        if len(test.arguments) != len(names) or not fits(arguments):
            raise Unfit("schema_mismatch", f"the test {str(test.arguments)[:100]} does not fit the parameters")
        found[as_json(arguments)] = (arguments, test.result)
    if len(found) < _MIN_TESTS:
        raise Unfit("too_few_tests", f"{len(found)} different tests, at least {_MIN_TESTS} are needed")
    if len({as_json(result) for _, result in found.values()}) == 1:
        raise Unfit("too_few_tests", "all tests expect the same result")
    return tuple(found.values())


def _reason(outcome: Outcome) -> str:
    if outcome.status == "error":
        return "not_deterministic" if outcome.error.startswith("NotDeterministic") else "tests_failed"
    return "bad_tests" if outcome.status == "refused" else outcome.status


def _same(text: str, expected: Any) -> bool:
    """Whether a result, as the sandbox's canonical text, is the expected JSON; 1 and 1.0 are not the same."""
    try:
        return as_json(ast.literal_eval(text)) == as_json(expected)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
