from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotelic.core.words import Task
from autotelic.evaluation import (
    AlarmConfig,
    RoundStatistics,
    check_alarms,
    constant_baselines,
    generation_verification_gap,
    overall_baseline,
)

QUIET = AlarmConfig()


def tasks(family: str, *answers: str | None, tag: str = "") -> list[Task]:
    return [
        Task.make(environment="e", family=family, question=f"{tag}{family}{i}", key={}, answer=a)
        for i, a in enumerate(answers)
    ]


def test_the_constant_is_chosen_on_other_tasks_where_there_are_any() -> None:
    suite = [*tasks("gcd", "1", "1", "2", "3"), *tasks("spell", "a", "b", None)]
    rows = constant_baselines(suite, [*tasks("gcd", "2", "2", "1", tag="other"), *suite])
    assert [(r.family, r.answer, r.accuracy, r.n, r.chosen_on) for r in rows] == [
        ("gcd", "2", 0.25, 4, "sample"),
        ("spell", "a", 0.5, 2, "suite"),
    ]
    assert overall_baseline(rows) == pytest.approx(2 / 6)
    assert overall_baseline([]) is None
    assert constant_baselines(tasks("gcd", None)) == []


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=30))
def test_no_constant_beats_the_one_chosen_on_the_suite(answers: list[str]) -> None:
    suite = tasks("f", *answers)
    row = constant_baselines(suite)[0]
    assert row.accuracy == max(answers.count(a) for a in answers) / len(answers)
    assert constant_baselines(suite, tasks("f", "d", "c", tag="x"))[0].accuracy <= row.accuracy


def test_a_critic_that_knows_beats_chance_and_widens_the_gap() -> None:
    rng = random.Random(0)
    solved = [i % 2 == 0 for i in range(80)]
    confidences = [min(1.0, max(0.0, rng.gauss(0.7 if s else 0.3, 0.15))) for s in solved]
    attempts = [1.0] * 20 + [0.0] * 80
    found = generation_verification_gap([c > 0.5 for c in confidences], confidences, solved, attempts=attempts)
    assert found is not None
    assert found.auc is not None
    assert found.auc.low > 0.5
    assert found.solver.mean == 0.2
    assert found.gap is not None
    assert found.gap > 0.3
    assert "better than chance" in found.message


def test_a_critic_that_always_says_the_same_is_chance_and_has_no_gap() -> None:
    solved = [i % 4 == 0 for i in range(40)]
    found = generation_verification_gap([True] * 40, [0.9] * 40, solved)
    assert found is not None
    assert found.balanced is not None
    assert found.auc is not None
    assert (found.auc.mean, found.balanced.mean, found.gap) == (0.5, 0.5, 0.0)
    assert "does not tell right from wrong" in found.message


def test_a_swapped_verdict_is_pointed_at_and_missing_verdicts_are_counted() -> None:
    solved = [i % 2 == 0 for i in range(60)]
    found = generation_verification_gap([not s for s in solved], [1.0 - s for s in solved], solved)
    assert found is not None
    assert "swapped" in found.message
    partial = generation_verification_gap([None, True, True], [None, 0.9, 0.9], [True, None, True])
    assert partial is not None
    assert (partial.judged, partial.unjudged, partial.auc, partial.gap) == (1, 1, None, None)
    assert "cannot be measured" in partial.message
    assert generation_verification_gap([True], [1.0], [None]) is None


GOLDS = {"gcd": [str(i % 9) for i in range(40)]}
RAISED: dict[str, RoundStatistics] = {
    "answer_diversity": RoundStatistics(answers={"gcd": ["1"] * 39 + ["2"]}, golds=GOLDS),
    "truncation": RoundStatistics(episode_reasons={"ok": 10, "truncated": 30}),
    "proposal_validity": RoundStatistics(proposal_reasons={"not_json": 99, "ok": 1}),
    "proposal_novelty": RoundStatistics(proposal_reasons={"duplicate": 99, "ok": 1, "not_json": 20}),
    "family_coverage": RoundStatistics(families=["a", "b", "c"], families_seen=["a"]),
    "general_text": RoundStatistics(text_logprob=-5.0, text_logprob_base=-3.0),
    "below_base": RoundStatistics(gains_over_base=[0.2, -0.1, None, -0.05]),
    "completion_length": RoundStatistics(mean_tokens=90.0, mean_tokens_base=10.0),
}
CALM: dict[str, RoundStatistics] = {
    "answer_diversity": RoundStatistics(answers={"gcd": [str(i % 7) for i in range(40)]}, golds=GOLDS),
    "truncation": RoundStatistics(episode_reasons={"ok": 30, "truncated": 10}),
    "proposal_validity": RoundStatistics(proposal_reasons={"not_json": 50, "duplicate": 5, "ok": 45}),
    "proposal_novelty": RoundStatistics(proposal_reasons={"duplicate": 50, "ok": 50}),
    "family_coverage": RoundStatistics(families=["a", "b", "c"], families_seen=["a", "c"]),
    "general_text": RoundStatistics(text_logprob=-3.5, text_logprob_base=-3.0),
    "below_base": RoundStatistics(gains_over_base=[-0.2, 0.1, -0.2]),
    "completion_length": RoundStatistics(mean_tokens=12.0, mean_tokens_base=10.0),
}


@pytest.mark.parametrize("name", RAISED)
def test_each_alarm_goes_off_alone_says_what_it_saw_and_can_be_quiet(name: str) -> None:
    alarms = check_alarms(RAISED[name], QUIET)
    assert [a.name for a in alarms] == [name]
    assert "expected" in alarms[0].message
    assert alarms[0].value != alarms[0].limit
    assert check_alarms(CALM[name], QUIET) == []


def test_one_family_of_guesses_is_no_collapse_and_several_are() -> None:
    golds = {family: [str(i % 9) for i in range(40)] for family in ("gcd", "spell", "count")}
    guesses, answers = ["2"] * 40, [str(i % 9) for i in range(40)]
    one = RoundStatistics(answers={"gcd": guesses, "spell": answers, "count": answers}, golds=golds)
    all_ = RoundStatistics(answers=dict.fromkeys(golds, guesses), golds=golds)
    assert check_alarms(one, QUIET) == []
    assert [a.name for a in check_alarms(all_, QUIET)] == ["answer_diversity"]


@pytest.mark.parametrize("per_family", [10, 20])
@pytest.mark.parametrize("said", ["1", None])
def test_neither_few_tasks_of_a_family_nor_missing_answers_hide_a_collapse(per_family: int, said: str | None) -> None:
    families = ("gcd", "spell", "count", "sum", "calendar", "products")
    golds = {family: [str(i % 9) for i in range(per_family)] for family in families}
    cut = RoundStatistics(answers={family: [said] * (per_family - 1) + [None] for family in families}, golds=golds)
    [alarm] = check_alarms(cut, QUIET)
    assert alarm.name == "answer_diversity"
    assert ("'1'" if said else f"{per_family} of {per_family} are missing") in alarm.message


def test_some_missing_answers_among_others_are_no_collapse() -> None:
    answers = {"gcd": [None] * 20 + [str(i % 7) for i in range(20)]}
    assert check_alarms(RoundStatistics(answers=answers, golds=GOLDS), QUIET) == []


@pytest.mark.parametrize("start", range(5, 101))
def test_a_fall_of_exactly_the_margin_is_not_below_base(start: int) -> None:
    config = AlarmConfig(below_base_margin=0.05)
    lost, more = (start - 5) / 100 - start / 100, (start - 5) / 100 - start / 100 - 0.01
    assert check_alarms(RoundStatistics(gains_over_base=[lost, lost]), config) == []
    assert check_alarms(RoundStatistics(gains_over_base=[more, more]), config)


def test_an_alarm_can_be_turned_off() -> None:
    off = AlarmConfig(
        min_diversity=None,
        max_truncated=None,
        min_validity=None,
        min_novelty=None,
        min_coverage=None,
        max_text_drop=None,
        below_base_rounds=None,
        max_length_ratio=None,
    )
    assert [check_alarms(statistics, off) for statistics in RAISED.values()] == [[]] * len(RAISED)


def test_a_family_with_one_right_answer_and_few_items_raise_nothing() -> None:
    same = RoundStatistics(answers={"f": ["1"] * 50}, golds={"f": ["1"] * 50})
    few = RoundStatistics(answers={"gcd": ["1"] * 19}, golds=GOLDS, episode_reasons={"truncated": 19})
    assert check_alarms(same, QUIET) == check_alarms(few, QUIET) == check_alarms(RoundStatistics(), QUIET) == []
