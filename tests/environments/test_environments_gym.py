"""The reasoning_gym environment: exact scoring, repeatable tasks, proposals refused with a reason, nothing executed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotelic.core.errors import EnvironmentFailure, UsageError
from autotelic.core.words import Origin, Proposal, Rejection, Task
from autotelic.environments import Environment, make_environment, open_environment, solved
from autotelic.environments import reasoning_gym as module
from autotelic.environments._gym_apart import Apart
from autotelic.environments._gym_levels import DEFAULT_FAMILIES, LEVELS, REGEXES
from autotelic.environments._gym_scorers import Scorer, is_arithmetic
from autotelic.environments.reasoning_gym import ReasoningGym
from autotelic.evaluation.selftest import self_test

OTHERS = [
    *("leg_counting", "number_filtering", "sentence_reordering", "n_queens", "simple_integration", "mini_sudoku"),
    *("binary_matrix", "countdown", "family_relationships", "complex_arithmetic", "tower_of_hanoi", "gsm_symbolic"),
]


@pytest.fixture(scope="module")
def gym() -> ReasoningGym:
    return ReasoningGym({"name": "reasoning_gym"})


@pytest.fixture(scope="module")
def wide() -> ReasoningGym:
    return ReasoningGym({"name": "reasoning_gym", "families": [*LEVELS, *OTHERS]})


def _proposal(text: str, seed: int = 1) -> Proposal:
    return Proposal(id="p", environment="reasoning_gym", text=text, seed=seed)


def test_it_is_an_environment_found_by_name() -> None:
    environment = make_environment({"name": "reasoning_gym", "families": ["gcd"]})
    assert isinstance(environment, Environment)
    assert environment.families == ["gcd"]


async def test_every_family_gives_its_own_answer_full_marks_and_a_wrong_one_less(wide: ReasoningGym) -> None:
    tasks = wide.tasks(len(wide.families) * 4, seed=11)
    assert {t.family for t in tasks} == {*LEVELS, *OTHERS}
    for task in tasks:
        assert task.answer is not None
        right = await wide.check(task, task.answer)
        assert (right.score, right.reason) == (1.0, "ok"), task
        wrong = await wide.check(task, "zzz 987654321")
        assert wrong.score is not None and not solved(wrong.score) and wrong.reason == "wrong", task
        assert wide.parse(task, task.answer) == task.answer.strip(), task


async def test_every_right_answer_has_the_form_that_the_model_is_held_to() -> None:
    gym = ReasoningGym({"name": "reasoning_gym", "families": list(REGEXES)})
    for task in gym.tasks(60 * len(REGEXES), seed=7):
        assert re.fullmatch(gym.answer_regex(task) or "", task.answer or ""), (task.family, task.answer)


async def test_partial_credit_is_kept_but_is_not_solved(wide: ReasoningGym) -> None:
    task = next(t for t in wide.tasks(400, seed=3) if t.family == "time_intervals" and "days" in (t.answer or ""))
    days = int((task.answer or "").split()[0])
    checked = await wide.check(task, f"{days + 1} days")
    assert checked.score is not None and 0.5 < checked.score < 1.0
    assert not solved(checked.score) and checked.reason == "wrong"


async def test_an_answer_that_is_right_but_not_the_packages_own_counts() -> None:
    gym = ReasoningGym({"name": "reasoning_gym", "families": ["countdown"]})
    for task in gym.tasks(8, seed=1, difficulty=0):
        left, operator, right = (task.answer or "").split() if (task.answer or "").count(" ") == 2 else ("", "", "")
        if operator == "+":
            assert solved((await gym.check(task, f"({right} + {left})")).score)
            return
    pytest.fail("no sum among eight countdown tasks")


def test_tasks_are_exact_in_number_balanced_distinct_and_repeatable(gym: ReasoningGym) -> None:
    tasks = gym.tasks(500, seed=7)
    counts = Counter(t.family for t in tasks)
    assert len(tasks) == len({t.question for t in tasks}) == len({t.id for t in tasks}) == 500
    assert set(counts) == set(DEFAULT_FAMILIES) and max(counts.values()) - min(counts.values()) <= 1
    assert {t.difficulty for t in tasks if t.family == "gcd"} == {0, 1, 2, 3}
    assert tasks == gym.tasks(500, seed=7) == ReasoningGym({"name": "reasoning_gym"}).tasks(500, seed=7)
    assert not {t.id for t in tasks} & {t.id for t in gym.tasks(60, seed=8) if t.family == "calendar_arithmetic"}


def test_difficulty_is_the_level_asked_for_or_the_familys_highest(gym: ReasoningGym) -> None:
    tasks = gym.tasks(60, seed=1, difficulty=3)
    assert {t.family: t.difficulty for t in tasks} == {f: gym.levels(f) - 1 for f in gym.families}


@pytest.mark.e2e
def test_another_process_makes_the_same_tasks() -> None:
    code = (
        "from autotelic.environments.reasoning_gym import ReasoningGym; from autotelic.environments._gym_levels import "
        "LEVELS; print(*[t.id for t in ReasoningGym({'name': 'reasoning_gym', 'families': list(LEVELS)}).tasks(90, 5)])"
    )
    source = str(Path(__file__).parents[2] / "src")
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": source, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1 and len(runs.pop().split()) == 90


def test_too_small_a_family_says_how_many_there_are() -> None:
    level = {"min_value": 1, "max_value": 3}
    gym = ReasoningGym({"name": "reasoning_gym", "families": {"gcd": {"levels": [level]}}})
    assert len(gym.tasks(5, seed=0)) == 5
    with pytest.raises(EnvironmentFailure, match=r"found \d different tasks of family 'gcd'; 50 were asked for"):
        gym.tasks(50, seed=0)


async def test_no_verdict_when_the_task_is_not_the_one_on_record(gym: ReasoningGym) -> None:
    task = gym.tasks(6, seed=2)[0]
    for changed in (task.model_copy(update={"seed": task.seed + 1}), task.model_copy(update={"difficulty": 9})):
        checked = await gym.check(changed, task.answer)
        assert checked.score is None and checked.reason == "checker_failed" and checked.detail


async def test_an_empty_answer_is_wrong_not_unknown(gym: ReasoningGym) -> None:
    task = gym.tasks(6, seed=2)[0]
    for nothing in (None, "", "  \n"):
        checked = await gym.check(task, nothing)
        assert (checked.score, checked.reason) == (0.0, "empty")


@pytest.mark.parametrize("family", ["string_insertion", "binary_matrix", "n_queens", "simple_integration", "countdown"])
async def test_an_answer_is_never_run(family: str, tmp_path: Path) -> None:
    gym = ReasoningGym({"name": "reasoning_gym", "families": [family]})
    trace = tmp_path / "ran"
    attacks = [
        f"__import__('pathlib').Path({str(trace)!r}).touch()",
        f"[open({str(trace)!r}, 'w')]",
        "oracle_answer",
        "entry['answer']",
        "9**9**9**9",
        "1e999999999",
        "(" * 5000,
    ]
    for task in gym.tasks(3, seed=4):
        for attack in attacks:
            checked = await gym.check(task, attack)
            assert checked.score is not None and checked.score < 0.1, attack
    assert not trace.exists()


@given(st.integers(-999, 999), st.integers(-999, 999), st.sampled_from(["+", "-", "*", "/"]))
def test_arithmetic_passes(a: int, b: int, operator: str) -> None:
    assert is_arithmetic(f"({a} {operator} {b}) * 2**(3 - 1)", symbols=False)
    assert is_arithmetic(f"({a} {operator} {b}) * x**3/3 + sin(x) * (5*x - 7)**(3/2) + C", symbols=True)


@pytest.mark.parametrize(
    "text",
    [
        *("x.__class__", "f(x)", "sin(x, y)", "2**99", "(x**9)**9", "'a'*9", "[1]", "lambda: 1", "x if x else y", "_"),
        *("sin(exp(99999999.0))", "exp(exp(9))", "exp(x + log(x))", "sin(1001)", "factorial(9)", "gamma(9)", "1j"),
        *("9**9**9", "2**\u0669\u0669", "1e400", "0x" + "f" * 99, "9" * 400),
    ],
)
def test_what_is_not_plain_arithmetic_is_refused(text: str) -> None:
    assert not is_arithmetic(text, symbols=True)


@pytest.mark.parametrize("text", ["x", "sqrt(4)", "2**(1/2)", "2**.5"])
def test_where_a_number_is_asked_for_names_and_roots_are_refused(text: str) -> None:
    assert is_arithmetic(text, symbols=True)
    assert not is_arithmetic(text, symbols=False)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("family", ["countdown", "simple_integration", "intermediate_integration"])
async def test_no_short_answer_holds_up_the_run(family: str) -> None:
    attacks = [
        *("sin(exp(99999999.0))", "exp(exp(9e9))", "9**9**9", "9^9^9", "exp(99**32)", "x**x**x", "1/0", "0**-1"),
        *("1e99_999_999", "1.e9_9999999", "1e-99_999_999", "1E+999_9999", "1e\uff19\uff19\uff19\uff19\uff19\uff19"),
        *(
            "999999999999999999**32",
            "(2**(1/2)+3**(1/2))*(2**(1/2)-3**(1/2))+25",
            "-" * 400 + "1",
            "(" * 200 + "1" + ")" * 200,
        ),
    ]
    async with open_environment({"name": "reasoning_gym", "families": [family]}) as gym:
        (task,) = gym.tasks(1, seed=4)
        for attack in attacks:
            checked = await gym.check(task, attack)
            assert checked.score is not None and checked.score < 0.1, attack
        assert solved((await gym.check(task, task.answer)).score)


@pytest.mark.timeout(120)
async def test_an_answer_that_takes_too_long_is_wrong_and_nothing_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Apart", partial(Apart, seconds=1.0))
    gym = ReasoningGym({"name": "reasoning_gym", "families": ["intermediate_integration"]})
    (task,) = gym.tasks(1, seed=4, difficulty=3)
    checking = asyncio.create_task(gym.check(task, "(x+1)**9*(sin(x)+2)**9*(exp(x)+3)**9*(cos(x)+1)**9"))
    turns = 0
    while not checking.done():
        await asyncio.sleep(0.05)
        turns += 1
    assert turns > 3
    assert ((await checking).score, (await checking).reason) == (0.0, "timeout")
    assert solved((await gym.check(task, task.answer)).score)
    await gym.aclose()


@pytest.mark.timeout(120)
async def test_a_scorer_apart_is_ended_when_it_must_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit(4)")
    monkeypatch.chdir(tmp_path)
    apart = Apart(seconds=0.5)
    assert await apart.score(eval, "print('not a score') or share / 2", {"share": 1}) == 0.5
    with pytest.raises(TimeoutError, match=r"more than 0\.5 s"):
        await apart.score(eval, "9**9**9", {})
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        await apart.score(eval, "1/0", {})
    with pytest.raises(EnvironmentFailure, match="exit code 3"):
        await apart.score(eval, "__import__('os')._exit(3)", {})
    worker = int(await apart.score(eval, "__import__('os').getpid()", {}))
    assert worker not in (os.getpid(), 0) and os.getsid(worker) != os.getsid(0), "Ctrl-C does not reach it"
    apart.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert await apart.score(eval, "1", {}) == 1.0
    apart.close()
    apart.close()


@pytest.mark.timeout(120)
async def test_who_waits_for_a_score_keeps_nobody_waiting_and_is_not_waited_for() -> None:
    apart = Apart(seconds=60)
    assert await apart.score(eval, "1", {}) == 1.0
    waiting = [asyncio.create_task(apart.score(eval, "9**9**9", {})) for _ in range(40)]
    await asyncio.sleep(0.2)
    assert await asyncio.to_thread(int, "1") == 1
    for one in waiting[:20]:
        one.cancel()
    apart.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in found} <= {asyncio.CancelledError, EnvironmentFailure}


@pytest.mark.parametrize(
    ("family", "answers"),
    [
        ("prime_factorization", ["x", "2, 3", "[]"]),
        ("boxnet", ['"a"', "1e400", "0", "null"]),
        ("game_of_life", ["{}", '{"a": 1e999}']),
    ],
)
async def test_an_answer_that_breaks_a_sound_scorer_is_malformed(family: str, answers: list[str]) -> None:
    gym = ReasoningGym({"name": "reasoning_gym", "families": [family]})
    (task,) = gym.tasks(1, seed=4)
    for answer in answers:
        checked = await gym.check(task, answer)
        assert (checked.score, checked.reason) == (0.0, "malformed"), answer
        assert "Error: " in checked.detail


@pytest.mark.parametrize("broken", [None, 7.0, float("nan")])
async def test_a_scorer_that_breaks_on_the_right_answer_too_gives_no_verdict(
    broken: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reasoning_gym.arithmetic.prime_factorization import PrimeFactorizationDataset

    def score(self: Any, answer: str, entry: dict[str, Any]) -> float:
        if broken is None:
            raise RuntimeError("out of order")
        return broken

    gym = ReasoningGym({"name": "reasoning_gym", "families": ["prime_factorization"]})
    (task,) = gym.tasks(1, seed=4)
    monkeypatch.setattr(PrimeFactorizationDataset, "score_answer", score)
    for answer in ("x", task.answer):
        checked = await gym.check(task, answer)
        assert (checked.score, checked.reason) == (None, "checker_failed")


async def test_what_is_no_number_is_never_right() -> None:
    gym = ReasoningGym({"name": "reasoning_gym", "families": ["complex_arithmetic", "polynomial_equations"]})
    for task in gym.tasks(8, seed=1):
        for answer in ("nan", "NaN", "-nan", "nanj", "nani", "nan+nanj", "3+nani", "inf", "-Infinity", "infj", "[NaN]"):
            checked = await gym.check(task, answer)
            assert checked.score is not None and not solved(checked.score), (task.family, answer)


@pytest.mark.parametrize("family", ["gsm_symbolic", "letter_jumble", "polynomial_equations", "time_intervals"])
async def test_other_guesses_beside_the_right_one_are_not_right(family: str) -> None:
    gym = ReasoningGym({"name": "reasoning_gym", "families": [family]})
    for task in gym.tasks(12, seed=1):
        for beside in (f"{task.answer} or 3", f"{task.answer}, 3 or 4", f"{task.answer}\n7 days"):
            checked = await gym.check(task, beside)
            assert checked.score is not None and not solved(checked.score), (task.answer, beside)
    await self_test(gym, gym.tasks(150, seed=5))


class Words:
    """A data set whose answers are words."""

    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        return float(answer == entry["answer"])


def test_the_word_nan_is_right_where_it_is_the_answer() -> None:
    score = Scorer(Words())
    assert score("nan", {"answer": "nan"}) == score("infant", {"answer": "infant"}) == 1.0
    assert score("nan", {"answer": ""}) == 0.0 != score("", {"answer": ""})


async def test_a_proposal_becomes_a_task_of_its_kind_drawn_from_its_seed(gym: ReasoningGym) -> None:
    text = '{"family":"gcd","difficulty":1}'
    tasks = [await gym.validate(_proposal(text, seed)) for seed in range(20)]
    assert all(isinstance(t, Task) and (t.family, t.difficulty) == ("gcd", 1) for t in tasks)
    assert all(isinstance(t, Task) and t.origin is Origin.PROPOSER and gym.proposal_text(t) == text for t in tasks)
    assert len({t.id for t in tasks if isinstance(t, Task)}) > 15
    assert tasks[3] == await gym.validate(_proposal(text, 3))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gcd please", "not_json"),
        ("[" * 100_000, "not_json"),
        ("[1]", "malformed"),
        ('{"family": "gcd"}', "malformed"),
        ('{"family": "gcd", "difficulty": 1, "answer": "4"}', "malformed"),
        ('{"family": "chess", "difficulty": 1}', "unknown_family"),
        ('{"family": ["gcd"], "difficulty": 1}', "unknown_family"),
        ('{"family": "gcd", "difficulty": 4}', "unknown_difficulty"),
        ('{"family": "gcd", "difficulty": -1}', "unknown_difficulty"),
        ('{"family": "gcd", "difficulty": true}', "unknown_difficulty"),
        ('{"family": "gcd", "difficulty": 1.0}', "unknown_difficulty"),
    ],
)
async def test_a_bad_proposal_is_rejected_with_a_reason(gym: ReasoningGym, text: str, reason: str) -> None:
    rejection = await gym.validate(_proposal(text))
    assert isinstance(rejection, Rejection) and rejection.reason == reason and rejection.detail


async def test_what_the_package_cannot_generate_is_a_rejection() -> None:
    level = {"min_numbers": 2, "max_numbers": 2, "max_value": 2, "min_target": 900, "max_target": 999}
    gym = ReasoningGym({"name": "reasoning_gym", "families": {"countdown": {"levels": [level]}}})
    rejection = await gym.validate(_proposal('{"family": "countdown", "difficulty": 0}'))
    assert isinstance(rejection, Rejection) and rejection.reason == "does_not_run"
    with pytest.raises(EnvironmentFailure, match="countdown"):
        gym.tasks(1, seed=0)


async def test_the_prompt_shows_only_what_the_schema_and_the_validator_accept(gym: ReasoningGym) -> None:
    schema = gym.proposal_schema()
    for seed in range(5):
        messages = gym.proposal_prompt(Random(seed))
        shown = [m.content for m in messages if m.role == "assistant"]
        assert len(shown) == 3 and messages[-1].role == "user"
        for text in shown:
            wish = json.loads(text)
            assert set(wish) == set(schema["required"])
            assert wish["family"] in schema["properties"]["family"]["enum"]
            assert isinstance(await gym.validate(_proposal(text)), Task)
    assert [m.role for m in gym.proposal_prompt(Random(0), demonstrations=0)] == ["system", "user"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"families": ["gdc"]}, "Did you mean .*gcd"),
        ({"families": ["isomorphic_strings"]}, "which cannot be used"),
        ({"families": ["coin_flip"]}, "which cannot be used: .* 0 is right nearly always"),
        ({"families": ["game_of_life_halting"]}, "which cannot be used: .* takes every answer"),
        ({"families": ["gcd", "puzzle24"]}, "'puzzle24', which cannot be used: .* which numbers"),
        ({"families": []}, "environment.families"),
        ({"family": ["gcd"]}, "environment.family is not a key here. Keys: name, families"),
        ({"families": {"gcd": {"levels": [{"max_values": 3}]}}}, "Parameters: min_numbers"),
        ({"families": {"gcd": {"levels": [{"min_value": 9, "max_value": 3}]}}}, "max_value must be"),
        ({"families": {"gcd": {"levels": []}}}, "levels"),
    ],
)
def test_a_config_that_cannot_work_says_what_to_write(config: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ReasoningGym({"name": "reasoning_gym", **config})


async def test_the_default_calendar_asks_nothing_with_two_answers(gym: ReasoningGym) -> None:
    tasks = [t for t in gym.tasks(600, seed=1) if t.family == "calendar_arithmetic"]
    assert not [t for t in tasks if t.answer in ("Yes", "No")]
    assert max(Counter(t.answer for t in tasks).values()) < 0.25 * len(tasks)


async def test_open_environment_closes_what_it_opens() -> None:
    async with open_environment({"name": "reasoning_gym", "families": ["gcd"]}) as environment:
        assert environment.sandbox is None
        assert len(environment.tasks(3, seed=1)) == 3
