"""Decoding over the server's log-probabilities and in a form, on models whose every token is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.refinement.kit import Model, in_turn, work

from autotelic.core.errors import UsageError
from autotelic.core.words import Completion, Message
from autotelic.environments import make_environment
from autotelic.refinement import Budget, answer_task, build_strategy, contrastive, guided
from autotelic.serving import Sampling

QUESTION = {"": {"the": -0.2, "6": -2.0, "": -9.0}, "6": {" or": -0.5, "": -1.0}, "the": {" same": -0.1, "": -3.0}}
"""Text so far to the next tokens of a model that knows the question; it prefers what it says of any question."""
NOTHING = {"": {"the": -0.1, "": -4.0}, "6": {" or": -0.1, "": -4.0}, "the": {" same": -0.1, "": -3.0}}
"""The same of a model that does not."""


class Tokens(Model):
    """Gives the likeliest next tokens, by the text so far."""

    def __init__(self, known: dict[str, dict[str, float]], blank: dict[str, dict[str, float]] | None = None) -> None:
        super().__init__(lambda _asked, _index: "")
        self._known, self._blank = known, blank

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        self.asked.append((list(messages), sampling))
        text = messages[-1].content if sampling.unfinished else ""
        asks = next(message for message in messages if message.role == "user").content
        table = self._blank if self._blank is not None and asks == "..." else self._known
        found = table.get(text, {"": -0.1})
        best = max(found, key=lambda token: found[token], default="")
        return [Completion(text=best, finish_reason="stop" if not best else "length", alternatives=(found,))]


@pytest.mark.parametrize(
    ("strength", "plausible", "said"),
    [
        (0.0, 0.1, "the same"),  # greedy
        (1.0, 0.1, "6"),  # "the" and " or" are what it says of any question
        (1.0, 0.5, "the same"),  # "6" is not plausible enough
        (1.0, 0.0, "6"),
    ],
)
async def test_a_token_is_chosen_for_what_the_question_adds(strength: float, plausible: float, said: str) -> None:
    model = Tokens(QUESTION, NOTHING)
    answer = await answer_task(contrastive(strength=strength, plausible=plausible), work(model))
    assert answer.text == said
    length = 3 if said == "the same" else 2
    assert answer.price.calls == 2 * length, "two requests for each token, the end included"
    assert all((s.alternatives, s.max_tokens, s.temperature) == (20, 1, 0.0) for _, s in model.asked)


async def test_what_does_not_end_is_no_answer_and_a_budget_ends_it() -> None:
    endless = Tokens({text: {"a": -0.1} for text in ("", "a", "aa", "aaa")}, {})
    answer = await answer_task(contrastive(), work(endless, max_tokens=3))
    assert answer.text is None and answer.draft.text == "aaa" and answer.price.calls == 6 and not answer.stopped
    cut = await answer_task(contrastive(), work(Tokens(QUESTION, NOTHING), Budget(calls=3)))
    assert cut.draft.by == "direct" and cut.stopped == "calls" and cut.price.calls == 3


async def test_without_a_token_to_choose_there_is_no_answer() -> None:
    answer = await answer_task(contrastive(), work(Tokens({"": {"6": -0.1}, "6": {}})))
    assert answer.text is None and answer.draft.text == "6" and answer.price.calls == 4


async def test_guided_answers_are_asked_for_in_their_form() -> None:
    model = Model(in_turn("6"))
    for text, name, form in (
        ("guided(regex='[0-9]+')", "regex", "[0-9]+"),
        ("guided(grammar='root ::= [0-9]+')", "grammar", "root ::= [0-9]+"),
        ("guided(schema={'type': 'integer'})", "schema", {"type": "integer"}),
        ("guided(choices=('5', '6'))", "choices", ("5", "6")),
    ):
        assert (await answer_task(build_strategy(text), work(model))).text == "6"
        assert getattr(model.asked[-1][1], name) == form
    many = await guided(choices=("5", "6"))(work(model), 4)
    assert len(many) == 4 and model.asked[-1][1].n == 4
    with pytest.raises(UsageError, match="takes one of regex, grammar, schema, choices"):
        build_strategy("guided(regex='a', choices=('a',))")


async def test_without_a_form_of_its_own_an_answer_is_held_to_the_environments() -> None:
    model = Model(in_turn("6"))
    await answer_task(guided(), work(model))
    assert model.asked[-1][1].regex == "[0-9]{1,12}", "a greatest common divisor"
    code = make_environment({"name": "code"})
    await answer_task(guided(), work(model, form=code, task=code.tasks(1, 1)[0]))
    assert model.asked[-1][1].regex is None
