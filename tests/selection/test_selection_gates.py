"""Gates, the funnel, the selector and replay: fates, reasons, and the laws they keep."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotelic.core.errors import UsageError
from autotelic.core.words import Role, Task, TrainingExample, content_id
from autotelic.selection import (
    Answered,
    Balanced,
    Candidate,
    Drop,
    Gate,
    Past,
    Pool,
    answer_share,
    contamination,
    curate,
    exact_duplicates,
    family_quota,
    learnable_band,
    luck,
    max_examples,
    more_than_luck,
    near_duplicates,
    per_task_cap,
    replay,
    verified_only,
)

GCD = "Find the Greatest Common Divisor (GCD) of these numbers: {}. Give only the GCD as your final answer."


def candidate(id_: str, question: str = "gcd of 12 and 18", answer: str = "6", **rest: Any) -> Candidate:
    family, role = rest.pop("family", "gcd"), rest.pop("role", Role.SOLVER)
    completion = rest.pop("completion", answer)
    example = TrainingExample(
        id=content_id(role, question, completion), role=role, messages=(), completion=completion, family=family
    )
    base: dict[str, Any] = {"task_id": content_id(question), "score": 1.0, "solve_rate": 0.5}
    return Candidate(id=id_, example=example, question=question, answer=answer, **(base | rest))


def reasons(gate: Gate, *candidates: Candidate) -> dict[str, str]:
    return {drop.item_id: drop.reason for drop in gate(candidates)}


def past(one: Candidate) -> Past:
    return Past(
        example_id=one.example.id, task_id=one.task_id, question=one.question, answer=one.answer, role=one.example.role
    )


def test_only_what_is_verified_and_a_missing_verdict_is_not_zero() -> None:
    rows = [candidate(str(i), score=score) for i, score in enumerate([1.0, 0.999, 0.0, None])]
    assert reasons(verified_only(), *rows) == {"1": "wrong", "2": "wrong", "3": "no_verdict"}


def test_the_band_is_open_at_both_ends() -> None:
    rows = [candidate(str(i), solve_rate=rate) for i, rate in enumerate([0.0, 0.1, 0.9, 1.0, None])]
    assert reasons(learnable_band(), *rows) == {"0": "unsolved", "3": "too_easy", "4": "no_solve_rate"}
    assert set(reasons(learnable_band(0.1, 0.9), *rows)) == {"0", "1", "2", "3", "4"}


def attempts(task: str, *answers: str, key: str, family: str = "gcd") -> list[Answered]:
    return [Answered(task_id=task, family=family, answer=a, right=a == key) for a in answers]


def test_luck_is_what_the_answers_to_other_tasks_would_have_got_right() -> None:
    habit = [one for i in range(4) for one in attempts(f"other{i}", "1", "1", "2", "3", key="9")]
    guessed = attempts("guessed", "1", "1", "2", "7", key="1")
    read = attempts("read", "18", "18", "1", "2", key="18")
    alone = attempts("alone", "5", "6", key="5", family="spell")
    found = luck([*habit, *guessed, *read, *alone])
    q = (8 + 1) / 20  # "1" among the 16 answers to the others and the 4 of `read`
    assert found == {
        "guessed": pytest.approx(1 - (1 - q) ** 4 - 4 * q * (1 - q) ** 3),
        "read": 0.0,
        "alone": 0.0,
    }
    rows = [candidate(name, luck=found[name]) for name in found]
    assert reasons(more_than_luck(0.2), *rows) == {"guessed": "lucky"}
    assert reasons(more_than_luck(1.0), *rows) == {}


@given(st.lists(st.sampled_from("12345"), min_size=1, max_size=8), st.lists(st.sampled_from("123"), max_size=8))
def test_luck_is_a_probability_and_grows_with_the_habit(own: list[str], other: list[str]) -> None:
    def of(*habit: str) -> float:
        rows = [*attempts("own", *own, key="1"), *attempts("other", *other, *habit, key="9")]
        return luck(rows).get("own", 0.0)

    assert 0.0 <= of("2") <= of("1") <= of("1", "1") <= 1.0


def test_exact_duplicates_of_history_and_batch() -> None:
    old, new, again = candidate("old", completion="x"), candidate("new"), candidate("again")
    drops = reasons(exact_duplicates([old.example.id]), old, new, again)
    assert drops.pop("old") == "seen_before"
    assert list(drops.values()) == ["duplicate"] and set(drops) < {"new", "again"}


def test_near_duplicates_of_history_and_batch_but_not_attempts_at_one_task() -> None:
    first = candidate("1", GCD.format("12, 18"))
    turned = candidate("2", GCD.format("18, 12").rstrip("."))
    other = candidate("3", GCD.format("12, 20"), "4")
    attempt = candidate("4", first.question, completion="it is 6", answer=" 6.", solve_rate=0.4)
    proposer = candidate("5", first.question, role=Role.PROPOSER)
    assert reasons(near_duplicates([]), first, other, attempt, proposer) == {}
    both = reasons(near_duplicates([]), first, turned, other, attempt)
    assert set(both.values()) == {"near_batch"} and (set(both) == {"2"} or set(both) == {"1", "4"})
    assert reasons(near_duplicates([past(turned)]), first, other, attempt, proposer) == dict.fromkeys(
        ["1", "4"], "near_history"
    )


def test_contamination_by_task_by_question_and_by_nearness() -> None:
    text = GCD.format("12, 18")
    task = Task.make(environment="gym", family="gcd", question=text, key={"answer": 6}, answer="6")
    free = Task.make(environment="code", family="abduction", question="def f(x, y):\n    return x * y + 7", key={})
    rows = [
        candidate("id", "whatever", task_id=task.id),
        candidate("question", f"  {text.upper()}\n", "7"),
        candidate("near", GCD.format("18, 12").rstrip("."), role=Role.PROPOSER),
        candidate("free", "def f(x, y): return x * y + 7  # easy", "any input"),
        candidate("fine", GCD.format("12, 20"), "4"),
    ]
    assert reasons(contamination([task, free]), *rows) == {
        "id": "suite_task",
        "question": "suite_question",
        "near": "suite_near_copy",
        "free": "suite_near_copy",
    }


def countdown(numbers: str, answer: str | None) -> Task:
    question = (
        f"Calculate 20 using the numbers {numbers}. Each number may be used at most once. Use '*' for "
        "multiplication and '/' for division. Final answer format instructions: provide your solution as arithmetic "
        "expression without the equals sign, and do not include the target number in it."
    )
    return Task.make(environment="gym", family="countdown", question=question, key={"n": numbers}, answer=answer)


@pytest.mark.parametrize("answer", ["4*(10 - 5)", "(4*(10 - 5))", "10 * 4 / (7 - 5)"])
def test_a_copy_is_found_whichever_right_answer_was_given(answer: str) -> None:
    gate = contamination([countdown("4, 10, 5", "4*(10 - 5)")])
    copy, other = countdown("5, 10, 4", None).question, countdown("5, 10, 3", None).question
    assert reasons(gate, candidate("copy", copy, answer), candidate("other", other, answer)) == {
        "copy": "suite_near_copy"
    }


def test_a_copy_is_found_by_the_answer_on_record() -> None:
    task = Task.make(environment="gym", family="gcd", question=GCD.format("12, 18"), key={}, answer="6")
    copy = GCD.format("18, 12").replace("only", "just")
    said = [candidate("said", copy, "6 (six)", gold="6"), candidate("unknown", copy, "6 (six)")]
    assert reasons(contamination([task]), *said) == {"said": "suite_near_copy"}


def test_tasks_with_one_right_answer_each_are_other_tasks_in_another_order() -> None:
    def sums(left: int, right: int) -> Task:
        question = f"State the final answer to the following arithmetic problem: {left} - {right} ="
        return Task.make(environment="gym", family="sum", question=question, key={}, answer=str(left - right))

    suite = [sums(left, left + right) for left in range(1, 5) for right in range(1, 5)]
    turned = [sums(left + right, left) for left in range(1, 5) for right in range(1, 5)]
    rows = [candidate(one.id, one.question, str(one.answer), gold=one.answer) for one in turned]
    assert reasons(contamination(suite), *rows) == {}


def test_caps_keep_what_there_is_most_to_learn_from() -> None:
    rows = [candidate(str(i), completion=str(i), solve_rate=rate) for i, rate in enumerate([0.9, 0.5, 0.1, None])]
    assert reasons(per_task_cap(1), *rows) == dict.fromkeys(["0", "2", "3"], "task_cap")
    assert reasons(per_task_cap(2), *rows) == dict.fromkeys(["0", "3"], "task_cap")  # harder before easier
    rows.append(candidate("other", family="spell"))
    assert reasons(family_quota(3), *rows) == {"3": "family_quota"}


def test_no_answer_is_more_than_its_share_of_a_family() -> None:
    rows = [
        candidate(f"{answer}{i}", answer=answer) for answer, n in [("a", 50), ("b", 10), ("c", 5)] for i in range(n)
    ]
    rows += [candidate(f"z{i}", answer="z", family="other") for i in range(4)]
    result = curate(rows, [answer_share(0.5)])
    assert Counter(id_[0] for id_ in result.kept) == {"a": 15, "b": 10, "c": 5, "z": 4}
    assert {drop.reason for drop in result.dropped} == {"common_answer"}
    assert Counter(id_[0] for id_ in curate(rows, [answer_share(0.1)]).kept) == {"a": 5, "b": 5, "c": 5, "z": 4}


def kept_answers(sizes: dict[str, int], gate: Gate) -> dict[str, int]:
    rows = [candidate(f"{answer}/{i}", answer=answer) for answer, n in sizes.items() for i in range(n)]
    return Counter(id_.split("/")[0] for id_ in curate(rows, [gate]).kept)


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ({"1": 100}, {"1": 4}),
        ({"1": 99, "2": 1}, {"1": 4, "2": 1}),
        ({"1": 90, "2": 10}, {"1": 10, "2": 10}),
        ({"yes": 50, "no": 50}, {"yes": 50, "no": 50}),
        ({"yes": 50, "no": 50, "maybe": 1}, {"yes": 50, "no": 50, "maybe": 1}),
        ({"a": 60, "b": 60, "c": 60, "d": 3}, {"a": 60, "b": 60, "c": 60, "d": 3}),
        ({"a": 90, "b": 20, "c": 10, "d": 10, "e": 10}, {"a": 21, "b": 20, "c": 10, "d": 10, "e": 10}),
        ({"mon": 3, "tue": 2}, {"mon": 3, "tue": 2}),
        ({str(n): 5 for n in range(7)}, {str(n): 5 for n in range(7)}),
    ],
)
def test_a_common_answer_is_held_down_and_no_answer_below_a_few(sizes: dict[str, int], kept: dict[str, int]) -> None:
    assert kept_answers(sizes, answer_share(0.3)) == kept
    assert kept_answers(sizes, answer_share(1.0)) == sizes


def test_the_share_is_one_of_the_rows_that_there_is_room_for() -> None:
    rows = [candidate(f"1/{i}", answer="1", solve_rate=0.5) for i in range(30)]
    rows += [candidate(f"{n}", answer=str(n), solve_rate=0.17) for n in range(2, 72)]
    result = curate(rows, [answer_share(0.3, 30), family_quota(30)])
    assert (len(result.kept), sum(id_.startswith("1/") for id_ in result.kept)) == (30, 9)


def test_the_selector_takes_families_in_turn_and_the_most_informative_first() -> None:
    rates = {"a1": 0.5, "a2": 0.3, "a3": 0.7, "a4": None, "b1": 0.9, "b2": 1.0}
    rows = [candidate(id_, family=id_[0], solve_rate=rate) for id_, rate in rates.items()]
    selection = Balanced()(rows, 5)
    assert selection.ranked == ("a1", "b1", "a2", "b2", "a3")
    assert [(drop.item_id, drop.reason) for drop in selection.dropped] == [("a4", "over_limit")]
    assert reasons(max_examples(5), *rows) == {"a4": "over_limit"}


def test_the_first_gate_that_objects_gives_the_reason_and_the_funnel_adds_up() -> None:
    rows = [
        candidate("kept"),
        candidate("wrong", score=0.0, solve_rate=0.0),
        candidate("easy", "gcd of 3 and 9", "3", solve_rate=1.0),
        candidate("copy"),
        candidate("free", score=None),
    ]
    gates = [verified_only(), learnable_band(), exact_duplicates([])]
    result = curate(rows, gates)
    fates = {drop.item_id: drop.reason for drop in result.dropped}
    [copy] = {"kept", "copy"} - set(result.kept)
    assert fates == {"wrong": "wrong", "free": "no_verdict", "easy": "too_easy", copy: "duplicate"}
    assert result.funnel == {
        "candidates": 5, "wrong": 1, "no_verdict": 1, "too_easy": 1, "duplicate": 1, "kept": 1,
    }  # fmt: skip
    assert all(drop.detail for drop in result.dropped)


def test_misuse_is_named() -> None:
    with pytest.raises(UsageError, match="'a' first"):
        curate([candidate("a"), candidate("a")], [])
    with pytest.raises(UsageError, match="Mend the gate"):
        curate([candidate("a")], [lambda rows: [Drop(item_id="b", reason="no")]])
    makers: list[Callable[[], Gate]] = [
        lambda: per_task_cap(0),
        lambda: learnable_band(1, 0),
        lambda: answer_share(0),
        lambda: more_than_luck(0),
        lambda: near_duplicates([], 2),
        lambda: contamination([], 0),
    ]
    for make in makers:
        with pytest.raises(UsageError):
            make()


def rows_strategy() -> st.SearchStrategy[list[Candidate]]:
    questions = st.sampled_from(
        [f"{verb} the gcd of the two numbers {pair} now" for verb in ("find", "give") for pair in ("4 6", "6 4", "8 2")]
    )
    one = st.tuples(
        questions,
        st.sampled_from(["2", "2.0", "4"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([None, 0.0, 0.5, 1.0]),
        st.sampled_from([None, 0.0, 0.25, 0.5, 0.75, 1.0]),
    )
    return st.lists(one, max_size=20).map(
        lambda raw: [
            candidate(f"i{i}", q, a, family=f, score=score, solve_rate=rate)
            for i, (q, a, f, score, rate) in enumerate(raw)
        ]
    )


GATES: dict[str, Gate] = {
    "verified": verified_only(),
    "band": learnable_band(),
    "exact": exact_duplicates([candidate("h", "find the gcd of the two numbers 8 2 now", "2").example.id]),
    "near": near_duplicates([past(candidate("h", "give the gcd of the two numbers 2 8 now", "2"))]),
    "contamination": contamination(
        [Task.make(environment="g", family="a", question="find the gcd of the two numbers 4 6 now", key={}, answer="2")]
    ),
    "cap": per_task_cap(2),
    "quota": family_quota(3),
    "share": answer_share(0.4),
    "room": answer_share(0.4, 3),
    "max": max_examples(7),
}


@pytest.mark.parametrize("name", GATES)
@given(rows=rows_strategy(), seed=st.integers())
@settings(max_examples=40)
def test_every_gate_is_idempotent_and_blind_to_order(name: str, rows: list[Candidate], seed: int) -> None:
    gate = GATES[name]
    result = curate(rows, [gate])
    kept = [one for one in rows if one.id in set(result.kept)]
    assert gate(kept) == []
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert set(curate(shuffled, [gate]).kept) == set(result.kept)


@given(rows=rows_strategy(), order=st.permutations(list(GATES.values())))
@settings(max_examples=40)
def test_every_item_has_exactly_one_fate(rows: list[Candidate], order: list[Gate]) -> None:
    result = curate(rows, order)
    fates = Counter([*result.kept, *(drop.item_id for drop in result.dropped)])
    assert fates == Counter(one.id for one in rows)
    assert (
        sum(n for reason, n in result.funnel.items() if reason != "candidates")
        == result.funnel["candidates"]
        == len(rows)
    )


NEVER: Gate = contamination([])


def test_replay_draws_its_shares_balanced_and_never_a_suite_task() -> None:
    new = [candidate(f"n{i}", f"new {i}") for i in range(60)]
    earlier = [candidate(f"e{i}", f"old {i}", family="a" if i < 90 else "b") for i in range(100)]
    real = [candidate(f"r{i}", f"real {i}", family="c") for i in range(5)] + [earlier[95], new[0]]
    suite = [Task.make(environment="g", family="b", question=f"old {i}", key={}, answer="6") for i in range(96, 100)]
    pools = [Pool("earlier", earlier, 0.1), Pool("real", real, 0.3)]
    result = replay(new, pools, contamination=contamination(suite), seed=3)
    assert {name: len(rows) for name, rows in result.rows.items()} == {"earlier": 10, "real": 5}  # 60 new are 60%
    assert Counter(one.example.family for one in result.rows["earlier"]) == {"a": 5, "b": 5}
    assert {drop.item_id for drop in result.dropped} == {"e96", "e97", "e98", "e99"}
    drawn = [one.example.id for rows in result.rows.values() for one in rows]
    assert len(set(drawn)) == len(drawn) and not set(drawn) & {one.example.id for one in new}


@given(st.integers(0, 5), st.integers(0, 1000))
def test_replay_depends_on_the_seed_alone(seed: int, order: int) -> None:
    new = [candidate(f"n{i}", f"new {i}") for i in range(8)]
    rows = [candidate(f"e{i}", f"old {i % 25}", family=f"f{i % 3}") for i in range(30)]
    mixed = random.Random(order).sample(rows, len(rows))
    first = replay(new, [Pool("earlier", rows, 0.5)], contamination=NEVER, seed=seed)
    assert first == replay(new, [Pool("earlier", mixed, 0.5)], contamination=NEVER, seed=seed)
    assert len(first.rows["earlier"]) == 8
    draws = {tuple(replay(new, [Pool("e", rows, 0.5)], contamination=NEVER, seed=s).rows["e"]) for s in range(5)}
    assert len(draws) > 1


def test_replay_refuses_shares_that_leave_no_room() -> None:
    with pytest.raises(UsageError, match=r"a 0\.5, b 0\.5"):
        replay([], [Pool("a", [], 0.5), Pool("b", [], 0.5)], contamination=NEVER, seed=0)
    with pytest.raises(UsageError, match="same name"):
        replay([], [Pool("a", [], 0.1), Pool("a", [], 0.1)], contamination=NEVER, seed=0)
