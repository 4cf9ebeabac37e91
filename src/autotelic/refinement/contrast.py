"""Contrastive decoding over the server's log-probabilities: each token by what the question adds to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from autotelic.core.waiting import side_by_side
from autotelic.core.words import Message
from autotelic.refinement.work import LIKELIEST, Draft, Share, Strategy, Work, strategy_of

__all__ = ["contrastive"]

_BLANK = "..."
"""A question that asks nothing."""


def contrastive(
    *, strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5, plausible: Share = 0.1
) -> Strategy:
    """Answers whose every token is likelier by the model than by an amateur that does not know the question.

    The amateur is the model itself, asked without the question. Two requests are made for each token, so this is for
    short answers. It is greedy: several drafts are the same.

    A character of several tokens cannot be chosen.

    Source: arXiv 2210.15097, "Contrastive Decoding: Open-ended Text Generation as Optimization" (score and plausibility
    bound); the amateur without the question after arXiv 2306.17806. Deviations: of the amateur's distribution only the
    20 likeliest tokens are known, any other counts as likely as the last of them; under a budget a direct answer is
    asked for first.

    Args:
        strength: weight of the amateur's log-probabilities; 0 is greedy decoding.
        plausible: least probability of a token that may be chosen, as a share of the likeliest one's, in [0, 1].
    """

    async def one(work: Work) -> Draft:
        await work.ensure_answer()
        asked = (work.prompt()[0], Message(role="user", content=_BLANK))
        text, ended = "", False
        for _ in range(work.max_tokens):
            known, guessed = await side_by_side([_next(work, work.prompt(), text), _next(work, asked, text)])
            token = _chosen(known, guessed, strength, plausible)
            ended = token == ""
            if not token:
                break
            text += token
        answer = work.form.parse(work.task, text) if ended else None
        return work.note(Draft(text=text, answer=answer, by="contrastive"))

    return strategy_of(one)


async def _next(work: Work, messages: tuple[Message, ...], text: str) -> Mapping[str, float]:
    """Return the likeliest next tokens after `text`, with their log-probabilities."""
    begun = (Message(role="assistant", content=text),) if text else ()
    (said,) = await work.ask(
        (*messages, *begun), temperature=0.0, max_tokens=1, alternatives=LIKELIEST, unfinished=bool(text)
    )
    return said.alternatives[0] if said.alternatives else {}


def _chosen(known: Mapping[str, float], guessed: Mapping[str, float], strength: float, plausible: float) -> str | None:
    """Return the plausible token that the model prefers most against the amateur; the empty text is the end.

    `None` if none can be chosen: the server gave no log-probabilities, or all were of parts of a character.
    """
    if not known:
        return None
    bound = max(known.values()) + (math.log(plausible) if plausible else -math.inf)
    floor = min(guessed.values(), default=0.0)
    worth = {token: p - strength * guessed.get(token, floor) for token, p in known.items() if p >= bound}
    return max(worth, key=lambda token: worth[token])
