"""Strategies on a model whose right behaviour is known by construction."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refinement.kit import (
    ENVIRONMENT,
    JUDGE,
    RIGHT,
    TASK,
    Model,
    in_turn,
    judged,
    judging,
    remembered,
    work,
)

from autotelic.core.errors import UsageError
from autotelic.core.words import Completion, Message
from autotelic.refinement import (
    Budget,
    Draft,
    Work,
    answer_task,
    best_of,
    build_strategy,
    conversation,
    critic,
    debate,
    decided,
    direct,
    few_shot,
    least_to_most,
    mixture,
    monte_carlo,
    plan_and_solve,
    reflexion,
    self_consistency,
    self_refine,
    tool_loop,
    tree_of_thoughts,
    universal,
    vote,
)
from autotelic.serving import Gateway, Sampling
from autotelic.tools import Toolbox, tool


def draft(answer: str | None) -> Draft:
    return Draft(text=answer or "", answer=answer, by="test")


# -- decoding and votes


async def test_direct_is_greedy_for_one_and_one_request_for_many() -> None:
    model = Model(in_turn("6"))
    assert (await answer_task(direct(), work(model))).text == "6"
    assert len(await direct()(work(model), 5)) == 5
    first, second = (sampling for _, sampling in model.asked)
    assert (first.n, first.temperature, second.n, second.temperature) == (1, 0.0, 5, 0.7)


def shown(model: Model) -> list[list[str]]:
    """What each call was shown between the system prompt and the question."""
    return [[message.content for message in messages[1:-1]] for messages, _ in model.asked]


async def test_examples_stand_before_the_question_and_are_shared_by_all_drafts() -> None:
    model = Model(in_turn("6"))
    answer = await answer_task(self_consistency(few_shot(k=2), n=4, batch=4), work(model, examples=remembered(9)))
    assert answer.text == "6" and shown(model) == [["like 0?", "0", "like 1?", "1"]] * 2
    assert [sampling.n for _, sampling in model.asked] == [1, 3], "what few_shot answers by itself, then samples"
    messages = model.asked[0][0]
    assert messages[0].role == "system" and messages[-1].content == TASK.question
    few = Model(in_turn("6"))
    assert (await answer_task(few_shot(k=3), work(few, examples=remembered(1)))).text == "6"
    assert shown(few) == [["like 0?", "0"]]


async def test_from_a_pool_every_draft_sees_other_examples_and_the_same_ones_again() -> None:
    vote = self_consistency(few_shot(k=2, pool=6), n=6, batch=5, confidence=1.0, heat=0.0)
    model = Model(lambda _asked, _index: "6")
    await answer_task(vote, work(model, examples=remembered(9)))
    seen = shown(model)
    assert len(seen) == 6 and all((s.n, s.temperature) == (1, 0.0) for _, s in model.asked)
    assert all(len(set(one)) == 4 and int(one[1]) < int(one[3]) < 6 for one in seen), "of the pool, the nearest first"
    assert len({tuple(one) for one in seen}) > 1
    again = Model(lambda _asked, _index: "6")
    await answer_task(vote, work(again, examples=remembered(9)))
    assert sorted(shown(again)) == sorted(seen)
    scarce = Model(in_turn("6"))
    await answer_task(few_shot(k=3, pool=24), work(scarce, examples=remembered(2)))
    assert shown(scarce) == [["like 0?", "0", "like 1?", "1"]]


async def test_there_are_no_examples_without_a_memory() -> None:
    with pytest.raises(UsageError, match="there is none here"):
        await answer_task(few_shot(), work(Model(in_turn("6"))))


async def test_a_vote_takes_the_most_frequent_answer_and_keeps_every_draft() -> None:
    model = Model(in_turn("4", "6", "6.", "5"))
    answer = await answer_task(self_consistency(n=4, batch=4), work(model))
    assert answer.text == "6" and answer.draft.score == 0.5 and answer.price.calls == 2
    assert [d.answer for d in answer.draft.of] == ["4", "6", "6", "5"]
    assert [(s.n, s.temperature) for _, s in model.asked] == [(1, 0.0), (3, 0.7)], "first the model's own answer"
    tied = Model(in_turn("4", "6", "6", "4"))
    assert (await answer_task(self_consistency(n=4, batch=4), work(tied))).text == "4", "a tie changes nothing"


async def test_sampling_stops_when_the_vote_is_decided() -> None:
    sure = Model(in_turn("6"))
    answer = await answer_task(self_consistency(n=16, batch=4), work(sure))
    assert (answer.price.calls, len(answer.draft.of)) == (2, 5), "five of five: 98% sure"
    assert not decided((3,), 9, 0.95) and decided((4,), 9, 0.95), "three of three are 94% sure"
    torn = Model(lambda _asked, index: str(index))
    assert len((await answer_task(self_consistency(n=16, batch=4), work(torn))).draft.of) == 16
    every = Model(in_turn("6"))
    assert len((await answer_task(self_consistency(n=16, batch=16), work(every))).draft.of) == 16


async def test_drafts_are_as_hot_as_they_are_asked_to_be() -> None:
    for text, heat in (
        ("self_consistency(n=2, heat=0.5)", 0.5),
        ("best_of(n=2)", 0.7),
        ("best_of(n=2, heat=0.3)", 0.3),
    ):
        model = Model(in_turn("6"))
        await answer_task(build_strategy(text), work(model))
        assert model.asked[-1][1].temperature == heat


async def test_likelihood_outweighs_numbers_and_chooses_the_best() -> None:
    said = [("4", -5.0), ("4", -5.0), ("6", -0.1)]
    weighed = await answer_task(self_consistency(n=3, batch=3, weigh="likelihood"), work(Model(in_turn(*said))))
    assert weighed.text == "6"
    chosen = await answer_task(best_of(n=3, by="likelihood"), work(Model(in_turn(*said))))
    assert (chosen.text, chosen.draft.score) == ("6", -0.1)
    assert [d.score for d in chosen.draft.of] == [-5.0, -5.0, -0.1]


class Sure(Model):
    """Tells the likeliest tokens of each place of its answers, by answer."""

    places: ClassVar[dict[str, tuple[dict[str, float], ...]]] = {
        # Of equal likelihood, so nothing stands out; a place that a guide left no choice in says nothing.
        "4": ({"4": -0.7, "5": -0.7}, {"}": 0.0, "x": -9999.0}),
        # One of two is nearly sure, though it was the other that was sampled.
        "6": ({"7": -0.01, "6": -4.61},),
    }

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        assert sampling.alternatives == 20 and not sampling.logprobs
        found = await super().complete(messages, sampling, policy)
        return [one.model_copy(update={"alternatives": self.places[one.text]}) for one in found]


async def test_certainty_is_how_far_one_token_stands_out_and_outweighs_numbers() -> None:
    weighed = await answer_task(self_consistency(n=3, batch=3, weigh="certainty"), work(Sure(in_turn("4", "4", "6"))))
    assert weighed.text == "6"
    chosen = await answer_task(best_of(n=3), work(Sure(in_turn("4", "4", "6"))))
    assert chosen.text == "6" and [d.score for d in chosen.draft.of] == pytest.approx([0.7, 0.7, 2.31])


async def test_best_of_by_the_critic_and_by_the_checker_where_it_may_be_used() -> None:
    model = Model(judging(lambda answer: answer == "7", in_turn("4", "7", "5")))
    assert (await answer_task(best_of(n=3, by="critic"), work(model))).text == "7"
    key = await answer_task(best_of(n=3, by="checker"), work(Model(in_turn("no", RIGHT, "5")), may_check=True))
    assert key.text == RIGHT and [d.score for d in key.draft.of] == [0.0, 1.0, 0.0]
    with pytest.raises(UsageError, match="may not be used"):
        await answer_task(best_of(n=3, by="checker"), work(Model(in_turn("1"))))


async def test_the_critic_is_asked_once_about_equal_answers_and_drafts_without_certainty_vote() -> None:
    model = Model(judging(lambda answer: answer == "7", in_turn("4", "7", "4", "7.")))
    answer = await answer_task(best_of(n=4, by="critic"), work(model))
    assert answer.text == "7" and model.asks(JUDGE) == 2 and [d.score for d in answer.draft.of] == [0, 1, 0, 1]

    async def silent(_work: Work, n: int = 1) -> list[Draft]:
        return [draft(text) for text in ("5", "6", "6")][:n]

    voted = await answer_task(best_of(silent, n=3), work(model))
    assert voted.text == "6" and [d.score for d in voted.draft.of] == [None] * 3


async def test_a_critic_cut_off_while_judging_leaves_the_best_it_has_seen() -> None:
    model = Model(judging(lambda answer: answer == "7", in_turn("4", "7", "5", "6")))
    answer = await answer_task(best_of(n=4, by="critic"), work(model, Budget(calls=4)))
    assert answer.stopped == "calls" and answer.text == "7"


async def test_the_model_chooses_among_texts_that_no_vote_can_count() -> None:
    model = Model(lambda asked, index: '{"choice": "2"}' if "Which answer agrees" in asked else f"text {index}")
    answer = await answer_task(universal(n=3), work(model))
    schema = model.asked[-1][1].schema
    assert answer.text == "text 1" and schema and schema["properties"]["choice"]["enum"] == ["1", "2", "3"]
    mute = Model(lambda asked, index: "no idea" if "Which answer agrees" in asked else f"text {index}")
    assert (await answer_task(universal(n=3), work(mute))).text == "text 0"


ANSWERS = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=9)


@given(ANSWERS)
def test_a_vote_is_won_by_a_largest_group(answers: list[str | None]) -> None:
    won = vote([draft(a) for a in answers])
    real = [a for a in answers if a is not None]
    assert won.winner.answer == (None if not real else max(real, key=lambda a: (real.count(a), -real.index(a))))
    assert won.share == (real.count(won.winner.answer or "") / len(answers) if real else 0.0)
    assert sum(won.counts) == len(real) and list(won.counts) == sorted(won.counts, reverse=True)


def test_where_no_weight_tells_drafts_apart_numbers_do() -> None:
    assert vote([draft("4"), draft("6"), draft("6")], [0.0, 0.0, 0.0]).winner.answer == "6"


async def test_the_root_of_a_tree_is_what_the_model_answers_by_itself() -> None:
    model = Model(judging(lambda _: True, in_turn("6")))
    plain = work(Model(in_turn("6"))).prompt()
    assert (await answer_task(monte_carlo(), work(model))).text == "6" and tuple(model.asked[0][0]) == plain


@given(ANSWERS, st.integers(0, 4), st.sampled_from(["1", "2", "4"]))
def test_what_is_decided_for_certain_cannot_be_turned(answers: list[str | None], left: int, more: str) -> None:
    won = vote([draft(a) for a in answers])
    if decided(won.counts, left, 1.0):
        later = vote([*(draft(a) for a in answers), *(draft(more) for _ in range(left))])
        assert later.winner.answer == won.winner.answer


# -- feedback


async def test_a_draft_that_the_critic_accepts_is_left_alone() -> None:
    model = Model(judging(lambda _: True, in_turn("4", "6")))
    answer = await answer_task(self_refine(), work(model))
    assert answer.text == "4" and not model.asks("Answer again") and len(answer.draft.of) == 1


async def test_a_revision_counts_only_if_the_critic_prefers_it() -> None:
    better = Model(judging(lambda answer: answer == "6", in_turn("4", "6")))
    answer = await answer_task(self_refine(), work(better))
    assert answer.text == "6" and [d.answer for d in answer.draft.of] == ["4", "6"] and answer.draft.begun.answer == "4"
    assert better.asks("it is too small") == 1, "the critic's words are the feedback"
    blind = Model(judging(lambda _: False, in_turn("4", "6")))
    answer = await answer_task(self_refine(rounds=3), work(blind))
    assert answer.text == "4" and len(answer.draft.of) == 4, "to a critic without preference nothing is revised"


class Coin(Model):
    """Answers anew each time it may, and as a critic tosses a coin for every judgement."""

    def __init__(self, seed: int) -> None:
        coin, self._made = random.Random(seed), 0
        super().__init__(
            lambda asked, _: judged(coin.choice(["right", "wrong"])) if JUDGE in asked else f"{self._next()}"
        )

    def _next(self) -> int:
        self._made += 1
        return self._made


@pytest.mark.parametrize("strategy", ["self_refine", "reflexion"])
async def test_a_critic_that_tosses_a_coin_overrules_next_to_nothing(strategy: str) -> None:
    said = [(await answer_task(build_strategy(strategy), work(Coin(seed)))).text for seed in range(120)]
    assert said.count("1") >= 115, "the first draft is the answer"
    willing = [(await answer_task(build_strategy(f"{strategy}(margin=0.25)"), work(Coin(s)))).text for s in range(60)]
    assert willing.count("1") < 45, "what the margin is for"


@pytest.mark.parametrize("strategy", ["self_refine", "reflexion"])
async def test_without_a_verdict_nothing_speaks_against_a_draft(strategy: str) -> None:
    model = Model(lambda asked, _: "no idea" if JUDGE in asked else "4")
    answer = await answer_task(build_strategy(strategy), work(model))
    assert answer.text == "4" and answer.price.calls == 2 and answer.draft.score is None


async def test_what_was_tried_before_a_budget_ended_is_in_the_answer() -> None:
    model = Model(judging(lambda _: False, in_turn("4", "Think.", "5")))
    cut = await answer_task(reflexion(tries=9), work(model, Budget(calls=6)))
    assert cut.stopped == "calls" and cut.text == "4" and cut.draft.first is not None
    assert [d.answer for d in cut.draft.of] == ["4", "5"]
    voted = await answer_task(self_consistency(n=9, batch=4), work(Model(in_turn("4", "5", "6", "7")), Budget(calls=2)))
    assert voted.stopped == "calls" and len(voted.draft.of) == 5


async def test_what_the_critic_refused_is_not_asked_for_again_word_for_word() -> None:
    model = Model(judging(lambda _answer: False, in_turn("6")))
    await answer_task(self_refine(rounds=3), work(model))
    revisions = [sampling for messages, sampling in model.asked if "Answer again" in messages[-1].content]
    assert [sampling.temperature for sampling in revisions] == [0.0, 0.7, 0.7]
    assert len({sampling.seed for sampling in revisions}) == 3


async def test_reflexion_tries_again_with_what_it_learned() -> None:
    says = judging(lambda answer: answer == "6", in_turn("4", "Try larger numbers.", "5", "Try even ones.", "6"))
    model = Model(says)
    answer = await answer_task(reflexion(tries=5), work(model))
    assert answer.text == "6" and [d.answer for d in answer.draft.of] == ["4", "5", "6"]
    assert answer.draft.learned == ("Try larger numbers.", "Try even ones.")
    last = [messages[0].content for messages, _ in model.asked if messages[-1].content == TASK.question][-1]
    assert "- Try larger numbers.\n- Try even ones." in last


async def test_reflexion_by_the_checker_and_without_any_success() -> None:
    right = await answer_task(
        reflexion(by="checker"), work(Model(in_turn("no", "Think.", RIGHT, "never")), may_check=True)
    )
    assert right.text == RIGHT and right.price.calls == 3
    none = await answer_task(reflexion(tries=2), work(Model(judging(lambda _: False, in_turn("4", "Think.", "5")))))
    assert none.text == "4" and len(none.draft.learned) == 1


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@tool
def broken(number: int) -> int:
    """Fail."""
    raise ValueError("no")


def calling(name: str) -> str:
    return json.dumps({"calls": [{"tool": name, "arguments": {"number": 3}}]})


async def test_tools_check_an_answer_and_without_evidence_it_stays() -> None:
    mended = Model(in_turn("4", calling("double"), '{"answer":"6"}'))
    answer = await answer_task(critic(), work(mended, toolbox=Toolbox([double])))
    assert answer.text == "6" and [d.answer for d in answer.draft.of] == ["4", "6"]
    failed = Model(in_turn("4", calling("broken"), '{"answer":"6"}'))
    assert (await answer_task(critic(), work(failed, toolbox=Toolbox([broken])))).text == "4"
    mute = Model(in_turn("4", calling("double"), '{"answer":" "}'))
    assert (await answer_task(critic(), work(mute, toolbox=Toolbox([double])))).text == "4", "no answer mends nothing"
    with pytest.raises(UsageError, match=r"tools\.use"):
        await answer_task(critic(), work(Model(in_turn("4"))))


async def test_the_tool_loop_is_a_strategy_that_others_wrap() -> None:
    model = Model(lambda asked, _: '{"answer":"6"}' if asked == "6" else calling("double"))
    answer = await answer_task(self_consistency(tool_loop(), n=2), work(model, toolbox=Toolbox([double])))
    assert answer.text == "6" and [d.by for d in answer.draft.of] == ["tool_loop"] * 2 and answer.price.calls == 4


# -- planning and search


async def test_a_plan_is_made_and_followed() -> None:
    model = Model(lambda asked, _: "First divide." if "short plan" in asked else "6")
    assert (await answer_task(plan_and_solve(), work(model))).text == "6"
    assert [m.content for m in model.asked[1][0]][-2] == "First divide."


async def test_simpler_questions_are_answered_in_turn_and_then_the_task() -> None:
    listed = json.dumps({"questions": ["What divides 12?", "And 18?"]})
    model = Model(lambda asked, _: listed if "simpler questions" in asked else f"re {asked.split()[-1]}")
    await answer_task(least_to_most(), work(model))
    last = [(m.role, m.content) for m in model.asked[-1][0]][1:-1]
    assert last == [
        ("user", f"{TASK.question}\n\nWhat divides 12?"),
        ("assistant", "re 12?"),
        ("user", "And 18?"),
        ("assistant", "re 18?"),
    ]
    assert model.asked[-1][0][-1].content.startswith(TASK.question) and len(model.asked) == 4
    broken_list = Model(lambda asked, _: '{"questions": ["What' if "simpler questions" in asked else "6")
    assert (await answer_task(least_to_most(), work(broken_list))).price.calls == 2
    for said in ("null", "3", "{}"):
        no_list = Model(in_turn(f'{{"questions": {said}}}', "6"))
        assert (await answer_task(least_to_most(), work(no_list))).text == "6"


async def test_a_tree_keeps_the_chains_that_are_rated_best() -> None:
    rated: list[str] = []

    class Rating(Model):
        async def complete(self, messages, sampling, policy):  # type: ignore[no-untyped-def]
            if sampling.schema:
                chain = messages[-2].content
                rated.append(chain)
                said = {"choice": "sure" if chain in ("b", "b\nc") else "impossible"}
                self._says = lambda _a, _i: json.dumps(said)
            elif sampling.stop:
                self._says = lambda _a, index: "abc"[index]
            else:
                self._says = lambda _a, _i: messages[-2].content.replace("\n", "")
            return await super().complete(messages, sampling, policy)

    answer = await answer_task(tree_of_thoughts(width=3, beam=1, depth=2), work(Rating(in_turn(""))))
    assert answer.text == "bc" and rated == ["a", "b", "c", "b\na", "b\nb", "b\nc"]
    assert answer.price.calls == 2 + 6 + 1


async def test_monte_carlo_finds_what_the_checker_knows_and_stops_there() -> None:
    class Leaf(Model):
        async def complete(self, messages, sampling, policy):  # type: ignore[no-untyped-def]
            chain = messages[-2].content if len(messages) > 3 else ""
            self._says = lambda _a, index: "abc"[index] if sampling.stop else RIGHT if chain == "a\nc" else "no"
            return await super().complete(messages, sampling, policy)

    answer = await answer_task(
        monte_carlo(iterations=40, width=3, depth=2, by="checker"), work(Leaf(in_turn("")), may_check=True)
    )
    assert answer.text == RIGHT and answer.draft.score == 1.0 and len(answer.draft.of) <= 13
    assert sum(d.score == 1.0 for d in answer.draft.of) == 1


# -- together


@pytest.mark.parametrize(
    ("topology", "hears"),
    [("full", ["bc", "ac", "ab"]), ("ring", ["c", "a", "b"]), ("star", ["bc", "a", "a"])],
)
async def test_who_hears_whom_in_a_debate(topology: str, hears: list[str]) -> None:
    model = Model(in_turn("a", "b", "c", "x", "y", "z"))
    await answer_task(build_strategy(f"debate(rounds=1, topology={topology!r})"), work(model))
    asked = [messages[-1].content for messages, _ in model.asked[3:]]
    heard = {"".join(line[2:] for line in text.splitlines() if line.startswith("- ")) for text in asked}
    assert heard == set(hears) and len(asked) == 3


async def test_a_debate_ends_when_positions_settle() -> None:
    model = Model(in_turn("4", "6", "6"))
    answer = await answer_task(debate(rounds=5), work(model))
    assert answer.text == "6" and answer.price.calls == 3 + 3 + 3
    assert (answer.draft.of[0].answer, answer.draft.score) == ("6", 1.0)


async def test_other_models_take_part_and_are_counted() -> None:
    other = Model(in_turn("9"))
    gateway = Gateway(other, attempts=1)
    gateway.unblock(None)
    own = Model(in_turn("6"))
    answer = await answer_task(mixture(n=2), work(own, others=(gateway,)))
    assert answer.text == "6" and [d.answer for d in answer.draft.of] == ["6", "6", "9", "6"]
    assert (len(own.asked), len(other.asked), answer.price.calls) == (2, 1, 3)
    assert "- 6\n- 9" in own.asked[-1][0][-1].content


# -- by name


async def test_an_instructor_says_what_to_do_until_nothing_is_left() -> None:
    def says(asked: str, _index: int) -> str:
        if "You tell an assistant" not in asked:
            return "6" if "Now give the answer" in asked else "so 12 = 2 * 6"
        return "Done." if "so 12 = 2 * 6" in asked else "Find the factors.\nThen stop."

    model = Model(says)
    answer = await answer_task(conversation(turns=5), work(model))
    assert answer.text == "6" and answer.price.calls == 4, "an instruction, what came of it, done, the answer"
    assert [m.content for m in model.asked[1][0][1:]] == [f"{TASK.question}\n\nFind the factors. Then stop."]
    assert "Assistant: so 12 = 2 * 6" in model.asked[2][0][-1].content
    other = Model(lambda _asked, _index: "6")
    through = Gateway(other, attempts=1)
    through.unblock(None)
    mixed = await answer_task(conversation(turns=1), work(Model(lambda _a, _i: "Count."), others=(through,)))
    assert mixed.text == "6" and len(other.asked) == 2 and mixed.price.calls == 3


def test_a_text_builds_a_strategy_or_says_what_is_wrong() -> None:
    assert callable(build_strategy("reflexion(best_of(direct, n=3), tries=2)"))
    for text, said in {
        "self_consistency(n=0)": "greater than or equal to 1",
        "self_consistency(n=1000000)": "less than or equal to 1000",
        "debate(topology='fall')": "'full', 'ring' or 'star'",
        "debate(speakers=1)": "greater than or equal to 2",
        "best_of(3)": "instance of Strategy",
        "direct(n=3)": "It takes nothing",
        "best_of(m=3)": "It takes inner, n=8, by='certainty'",
        "nobody": "no strategy is called 'nobody'",
        "direct().x": "is not a strategy",
        "direct(": "is not a strategy",
        "best_of(n=[x for x in 'a'])": "is not a strategy",
    }.items():
        with pytest.raises(UsageError, match=said.replace("(", r"\(")):
            build_strategy(text)


def test_the_key_is_in_no_prompt() -> None:
    asked = work(Model(in_turn("6"))).prompt(Message(role="user", content="more"))
    assert TASK.key not in "".join(m.content for m in asked)
    assert asked[0].content == ENVIRONMENT.system_prompt(TASK)
