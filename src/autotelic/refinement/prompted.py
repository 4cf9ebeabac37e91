"""`prompted`: a strategy under the prompts that were evolved for the policy and proved on other tasks."""

from __future__ import annotations

from dataclasses import replace

from autotelic.core.words import Role
from autotelic.refinement.decoding import direct
from autotelic.refinement.work import Draft, Strategy, Work

__all__ = ["ALL_FAMILIES", "prompted"]

ALL_FAMILIES = "all"
"""Names the instruction that stands before the prompt of every family."""


def prompted(inner: Strategy | None = None) -> Strategy:
    """A strategy under the prompts that the run has evolved for this policy: the solver's, and the critic's.

    They are evolved by `autotelic prompts evolve` and count once they are promoted; where none is, the strategy is as
    it is without. What a later turn says of the form of an answer is always the environment's own.

    Args:
        inner: how the task is answered; `direct` by default.
    """
    inner = inner or direct()

    async def strategy(work: Work, n: int = 1) -> list[Draft]:
        return await inner(_under(work), n)

    return strategy


def _under(work: Work) -> Work:
    """Put the evolved prompts in their places; advice stays after them."""
    system, *rest = work.opening
    plain, evolved = work.form.system_prompt(work.task), work.prompts.get(Role.SOLVER, {})
    told = [evolved.get(ALL_FAMILIES, ""), evolved.get(work.task.family, plain)]
    content = "\n\n".join(filter(None, told)) + system.content.removeprefix(plain)
    opening = (system.model_copy(update={"content": content}), *rest)
    return replace(work, opening=opening, critic=work.prompts.get(Role.CRITIC, {}).get(Role.CRITIC))
