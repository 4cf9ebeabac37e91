"""Test-time training: weights made for the tasks at hand, by the trainer of the loop, and thrown away after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from autotelic.refinement.decoding import direct
from autotelic.refinement.work import Count, Draft, Share, Strategy, Work

__all__ = ["Adapting", "adapted"]


@dataclass(frozen=True)
class Adapting:
    """What `adapted` builds; a suite of tasks is answered by it, not one task."""

    inner: Strategy
    by: Literal["neighbours", "vote"]
    k: int
    n: int
    agreement: float
    epochs: int
    seconds: float

    async def __call__(self, work: Work, n: int = 1) -> list[Draft]:
        """Answer one task, with the weights that are served."""
        return await self.inner(work, n)


def adapted(
    inner: Strategy | None = None,
    *,
    by: Literal["neighbours", "vote"] = "neighbours",
    k: Count = 4,
    n: Count = 8,
    agreement: Share = 0.5,
    epochs: Count = 2,
    seconds: Annotated[float, Field(gt=0)] = 120.0,
) -> Strategy:
    """Train on what is like the tasks before answering them, and throw the weights away after.

    The policy is trained for all tasks at once, served under a number of its own after the same proof as any policy,
    and its weights are deleted when the tasks are answered. If that is cut off, the tasks that are left are answered
    with weights made anew.

    Sources: arXiv 2411.07279, "The Surprising Effectiveness of Test-Time Training for Few-Shot Learning" (neighbours);
    arXiv 2504.16084, "TTRL: Test-Time Reinforcement Learning" (the majority's vote as reward). Deviations: one adapter
    for all tasks; of the votes only the winners are learned from, because what lost teaches by a policy gradient, which
    diverged here.

    Args:
        inner: answers with the weights made; `direct` by default.
        by: `neighbours` trains on the solved examples in memory that are nearest to each task, `vote` on the answer
            that most of the policy's own samples agree on.
        k: neighbours of each task.
        n: samples of each task that vote.
        agreement: least share of the samples that an answer needs to be trained on, in [0, 1].
        epochs: passes over the rows.
        seconds: budget for the votes and the steps of training. Starting the trainer, proof and answers come on top.
    """
    return Adapting(inner or direct(), by, k, n, agreement, epochs, seconds)
