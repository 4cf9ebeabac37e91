"""The code environment: truth by execution, answers by value, hostile and lazy programs refused with a reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from autotelic.core.errors import UsageError
from autotelic.core.words import Origin, Proposal, Rejection, Task
from autotelic.environments import Environment, HoldsBack, make_environment, open_environment, solved
from autotelic.environments._code_programs import Refused, find_program, read_program
from autotelic.environments._code_values import arguments_text, canonical, read_arguments, read_value, vary
from autotelic.environments.code import CodeEnvironment

same_loop = pytest.mark.asyncio(loop_scope="module")
DOUBLE = "def f(x):\n    return x * 2"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def code() -> AsyncIterator[CodeEnvironment]:
    environment = CodeEnvironment({"name": "code", "seconds": 0.7})
    await environment.open()
    yield environment
    await environment.aclose()


@pytest.fixture(scope="module")
def closed() -> CodeEnvironment:
    return CodeEnvironment({"name": "code"})


def _proposal(kind: str, program: str, *inputs: str, seed: int = 1) -> Proposal:
    text = json.dumps({"kind": kind, "program": program, "inputs": list(inputs)})
    return Proposal(id="p", environment="code", text=text, seed=seed)


async def _task(code: CodeEnvironment, kind: str, program: str, *inputs: str) -> Task:
    task = await code.validate(_proposal(kind, program, *inputs))
    assert isinstance(task, Task), task
    return task


def _of(tasks: list[Task], family: str) -> list[Task]:
    return [t for t in tasks if t.family == family]


async def test_it_is_an_environment_and_says_where_code_runs() -> None:
    assert isinstance(make_environment({"name": "code"}), Environment)
    async with open_environment({"name": "code", "workers": 1}) as environment:
        assert environment.sandbox not in (None, "unsafe-local", "auto")


def test_real_tasks_are_exact_in_number_balanced_distinct_and_repeatable(closed: CodeEnvironment) -> None:
    tasks = closed.tasks(300, seed=5)
    counts = Counter(t.family for t in tasks)
    assert len({t.question for t in tasks}) == 300 and set(counts.values()) == {100}
    assert {t.difficulty for t in tasks} == {0, 1, 2, 3}
    assert tasks == CodeEnvironment({"name": "code"}).tasks(300, seed=5) != closed.tasks(300, seed=6)
    assert {t.difficulty for t in closed.tasks(30, seed=1, difficulty=7)} == {3}


def test_no_suite_asks_for_a_program_that_is_ever_shown(closed: CodeEnvironment) -> None:
    assert isinstance(closed, HoldsBack)
    suite = closed.suite_tasks(300, seed=5)
    assert len({t.question for t in suite}) == 300 and {t.difficulty for t in suite} == {0, 1, 2, 3}
    assert suite == closed.suite_tasks(300, seed=5) != closed.suite_tasks(300, seed=6)
    held_out = {json.loads(t.key)["program"] for t in suite}
    assert not held_out & {json.loads(t.key)["program"] for seed in range(5) for t in closed.tasks(300, seed=seed)}
    shown = [m.content for seed in range(50) for m in closed.proposal_prompt(Random(seed)) if m.role == "assistant"]
    assert not held_out & {json.loads(text)["program"] for text in shown}


@same_loop
async def test_every_real_task_is_solved_by_its_answer_and_by_no_other_ones(code: CodeEnvironment) -> None:
    tasks = code.tasks(90, seed=2)
    for family in code.families:
        group = _of(tasks, family)
        for task, other in zip(group, group[1:] + group[:1], strict=True):
            assert task.answer is not None and other.answer is not None
            right = await code.check(task, code.parse(task, task.answer))
            assert (right.score, right.reason) == (1.0, "ok"), task
            if other.answer != task.answer:
                wrong = await code.check(task, other.answer)
                assert wrong.score == 0.0 or family == "abduction", (task, other)


@same_loop
async def test_the_sandbox_agrees_with_the_hand_written_truth(code: CodeEnvironment) -> None:
    for task in code.tasks(24, seed=3):
        again = await code.validate(Proposal(id="p", environment="code", text=code.proposal_text(task), seed=9))
        assert isinstance(again, Task) or again.reason == "guessable"
        if isinstance(again, Task):
            assert (again.family, again.difficulty) == (task.family, task.difficulty)
            assert again.question == task.question or task.family == "induction"


@same_loop
async def test_deduction_compares_values_by_type(code: CodeEnvironment) -> None:
    task = await _task(code, "deduction", "def f(x):\n    # secret\n    return [x, {x: 'a'}]", "3")
    assert "secret" not in task.question and task.origin is Origin.PROPOSER and task.answer == "[3, {3: 'a'}]"
    for text in ("[3, {3: 'a'}]", "Answer: [3,{3:'a'}].", '```python\n[3, {3: "a"}]\n```'):
        assert solved((await code.check(task, code.parse(task, text))).score), text
    for text in ("[3.0, {3: 'a'}]", "(3, {3: 'a'})", "[3, {3: 'a'}]\n[4, {4: 'a'}]", "f(3)", "[3][:]"):
        assert (await code.check(task, code.parse(task, text))).score == 0.0, text


@same_loop
async def test_text_counts_with_and_without_quotation_marks(code: CodeEnvironment) -> None:
    task = await _task(code, "deduction", "def f(s):\n    return s + 'n\\n'", "'su'")
    for text in ("'sun\\n'", '"sun\\n"'):
        assert solved((await code.check(task, code.parse(task, text))).score)
    word = await _task(code, "deduction", "def f(s):\n    return s[::-1]", "'cat'")
    assert solved((await code.check(word, code.parse(word, "tac"))).score)
    assert (await code.check(word, code.parse(word, "cat"))).reason == "wrong"


@same_loop
async def test_abduction_takes_any_input_that_works(code: CodeEnvironment) -> None:
    task = await _task(code, "abduction", "def f(a, b):\n    return a + b", "3, 4")
    assert "3, 4" not in task.question and "3, 4" not in task.key
    for text in ("3, 4", "f(0, 7)", "10, -3", "Answer: f(3, 4)"):
        assert solved((await code.check(task, code.parse(task, text))).score), text
    reasons = {"3, 5": "wrong", "7": "error", "'3', 4": "error", "x, 4": "malformed", "3+4, 0": "malformed"}
    for text, reason in reasons.items():
        checked = await code.check(task, code.parse(task, text))
        assert (checked.score, checked.reason) == (0.0, reason), text


@same_loop
async def test_induction_is_judged_on_inputs_that_were_not_shown(code: CodeEnvironment) -> None:
    task = await _task(code, "induction", DOUBLE, "3", "5", "8")
    shown = "def f(x):\n    return {3: 6, 5: 10, 8: 16}.get(x, 0)"
    assert "return x" not in task.question and task.question.count("returns") == 3
    assert (await code.check(task, code.parse(task, shown))).reason == "wrong"
    for text in ("def f(n): return n + n", f"Here it is:\n```python\n{DOUBLE}\n```\nIt doubles."):
        assert solved((await code.check(task, code.parse(task, text))).score), text
    for text in ("return x * 2", "lambda x: x * 2", "def g(x): return x * 2", f"{DOUBLE}\n{DOUBLE}"):
        assert (await code.check(task, code.parse(task, text))).reason == "malformed", text


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def f(x):\n    while True: pass", "timeout"),
        ("def f(x):\n    return 'a' * 10**10", "memory"),
        ("def f(x):\n    import os\n    os._exit(0)", "crashed"),
        ("def f(x):\n    raise SystemExit", "error"),
        ("def f(x):\n    return 1 / 0", "error"),
        ("def f(x):\n    import socket\n    return socket.create_connection(('127.0.0.1', 9), 1)", "error"),
        ("class A:\n    def __eq__(self, other): return True\ndef f(x):\n    return A()", "error"),
        ("import sys\ndef f(x):\n    sys.stdout.write('6')\n    return None", "wrong"),
    ],
)
@same_loop
async def test_a_hostile_answer_fails_with_a_reason(code: CodeEnvironment, program: str, reason: str) -> None:
    task = await _task(code, "induction", DOUBLE, "3")
    checked = await code.check(task, program)
    assert (checked.score, checked.reason) == (0.0, reason), checked
    assert solved((await code.check(task, DOUBLE)).score)


@pytest.mark.parametrize(
    ("program", "inputs", "reason"),
    [
        ("def f(x):\n    return x /", ["3"], "does_not_parse"),
        ("def f(x):\n    return x\0", ["3"], "does_not_parse"),
        ("def g(x):\n    return x", ["3"], "no_function"),
        ("x = 3\ndef f(y):\n    return y", ["3"], "not_a_function"),
        ("print(3)", ["3"], "not_a_function"),
        ("def f():\n    return 3", ["3"], "bad_signature"),
        ("def f(*x):\n    return x", ["3"], "bad_signature"),
        ("def f(x=1):\n    return x", ["3"], "bad_signature"),
        ("def f(x):\n    return 3", ["3"], "ignores_input"),
        ("def f(x, y):\n    return x", ["3, 4"], "ignores_input"),
        ("def f(x):\n    x + 1", ["3"], "no_return"),
        ("import random\ndef f(x):\n    return random.random() * x", ["3"], "banned_import"),
        ("def f(x):\n    from time import time\n    return time() * x", ["3"], "banned_import"),
        ("from . import y\ndef f(x):\n    return y * x", ["3"], "banned_import"),
        ("def f(x):\n    return open(x)", ["'a'"], "banned_name"),
        ("def f(x):\n    return x.__class__", ["3"], "banned_name"),
        ("def f(x):\n    global y\n    return x", ["3"], "banned_name"),
        ("def f(x):\n    yield x\n    return x", ["3"], "banned_name"),
        ("def f(x):\n    return x" + " + 1" * 400, ["3"], "too_long"),
        (DOUBLE, ["x"], "bad_input"),
        (DOUBLE, [""], "bad_input"),
        (DOUBLE, ["3, 4"], "bad_input"),
        (DOUBLE, ["float('inf')"], "bad_input"),
        (DOUBLE, ["'" + "a" * 400 + "'"], "bad_input"),
        ("def f(x):\n    return x.upper()", ["3"], "does_not_run"),
        ("def f(x):\n    return [y for y in {str(x), 'b', 'c', 'd', 'e'}]", ["3"], "not_deterministic"),
        ("def f(x):\n    return lambda: x", ["3"], "not_a_value"),
        ("def f(x):\n    return 'a' * (x + 1000)", ["3"], "not_a_value"),
        ("def f(x):\n    while x > 0: x += 1\n    return x", ["3"], "timeout"),
        ("def f(x):\n    return [x] * 10**9", ["3"], "memory"),
        ("def f(x):\n    return x * 0", ["3"], "guessable"),
        ("def f(x):\n    return x > 3", ["3"], "guessable"),
        ("def f(x):\n    return min(x, 1)", ["50"], "guessable"),
    ],
)
@same_loop
async def test_a_bad_proposal_is_rejected_with_a_reason(
    code: CodeEnvironment, program: str, inputs: list[str], reason: str
) -> None:
    rejection = await code.validate(_proposal("deduction", program, *inputs))
    assert isinstance(rejection, Rejection) and rejection.reason == reason and rejection.detail, rejection


@same_loop
async def test_induction_needs_enough_inputs_that_differ(code: CodeEnvironment) -> None:
    rejection = await code.validate(_proposal("induction", "def f(x):\n    return {3: 4, 5: 6}[x]", "3", "5"))
    assert isinstance(rejection, Rejection) and rejection.reason == "too_few_inputs"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(x): return x", "not_json"),
        ("[]", "malformed"),
        ('{"kind": "deduction", "program": "p"}', "malformed"),
        ('{"kind": "deduction", "program": 1, "inputs": ["3"]}', "malformed"),
        ('{"kind": "deduction", "program": "p", "inputs": "3"}', "malformed"),
        ('{"kind": "deduction", "program": "p", "inputs": [3]}', "malformed"),
        ('{"kind": "deduction", "program": "p", "inputs": []}', "malformed"),
        ('{"kind": ["deduction"], "program": "p", "inputs": ["3"]}', "unknown_kind"),
        ('{"kind": "seduction", "program": "p", "inputs": ["3"]}', "unknown_kind"),
        ('{"kind": "deduction", "program": "\\ud800", "inputs": ["3"]}', "does_not_parse"),
        ('{"kind": "deduction", "program": "def f(x):\\n return x", "inputs": ["\\"\\ud800\\""]}', "bad_input"),
    ],
)
async def test_a_malformed_proposal_never_reaches_the_sandbox(closed: CodeEnvironment, text: str, reason: str) -> None:
    rejection = await closed.validate(Proposal(id="p", environment="code", text=text, seed=1))
    assert isinstance(rejection, Rejection) and rejection.reason == reason, rejection


@given(st.text(max_size=80))
def test_any_text_is_a_program_or_a_reason(text: str) -> None:
    for source in (text, f"def f(x):\n    return {text}"):
        try:
            assert read_program(source).source
        except Refused as refused:
            assert refused.reason
        assert find_program(source) in (None, source)


def test_deep_nesting_is_refused_not_raised() -> None:
    for source in ("-" * 1100 + "1", "def f(x):\n    return " + "-" * 900 + "x", "(" * 900):
        with pytest.raises(Refused):
            read_program(source)


async def test_a_checker_without_its_sandbox_gives_no_verdict(closed: CodeEnvironment) -> None:
    tasks = closed.tasks(6, seed=1)
    for task in _of(tasks, "induction") + _of(tasks, "abduction"):
        checked = await closed.check(task, task.answer)
        assert checked.score is None and checked.reason == "checker_failed" and "open()" in checked.detail
        assert (await closed.check(task, None)).score == 0.0


@same_loop
async def test_prompt_schema_and_validator_agree(code: CodeEnvironment) -> None:
    schema = code.proposal_schema()
    properties = schema["properties"]
    # Guided decoding builds strings of bounded length without escapes, and so without line ends.
    assert "maxLength" not in properties["program"]
    for seed in range(4):
        messages = code.proposal_prompt(Random(seed), demonstrations=2)
        shown = [json.loads(m.content) for m in messages if m.role == "assistant"]
        assert len(shown) == 2
        for wish in shown:
            assert set(wish) == set(schema["required"]) and wish["kind"] in properties["kind"]["enum"]
            assert all(len(i) <= properties["inputs"]["items"]["maxLength"] for i in wish["inputs"])
            proposal = Proposal(id="p", environment="code", text=json.dumps(wish), seed=1)
            outcome = await code.validate(proposal)
            assert isinstance(outcome, Task) or outcome.reason == "guessable"
    assert [m.role for m in code.proposal_prompt(Random(0), demonstrations=0)] == ["system", "user"]


@pytest.mark.parametrize("config", [{"families": ["seduction"]}, {"families": []}, {"workers": 0}, {"famlies": []}])
def test_a_config_that_cannot_work_is_the_users_to_mend(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"environment\.(families|workers|famlies)"):
        CodeEnvironment({"name": "code", **config})


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | st.text(max_size=4),
    lambda v: st.lists(v, max_size=3) | st.tuples(v, v) | st.dictionaries(st.text(max_size=3), v, max_size=2),
    max_leaves=6,
)


@given(st.tuples(_values, _values), st.integers())
def test_values_survive_being_text_and_variations_keep_their_types(arguments: tuple[Any, ...], seed: int) -> None:
    again = read_arguments(arguments_text(arguments))
    assert [canonical(a) for a in again] == [canonical(a) for a in arguments]
    assert [type(v) for v in vary(again, Random(seed))] == [type(v) for v in again]


@given(st.sets(st.integers() | st.text(max_size=3), max_size=6), st.randoms(use_true_random=False))
def test_order_and_hash_seed_do_not_matter_but_types_do(values: set[Any], rng: Any) -> None:
    shuffled = list(values)
    rng.shuffle(shuffled)
    assert canonical(set(shuffled)) == canonical(values) == canonical(read_value(canonical(values)))
    assert canonical(dict.fromkeys(shuffled)) == canonical(dict.fromkeys(values))
    assert len({canonical(v) for v in (1, 1.0, True, "1", [1], (1,), {1})}) == 7
