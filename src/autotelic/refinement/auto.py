"""`auto`: each family of tasks by the strategy that was shown to be worth its tokens there, all others directly."""

from __future__ import annotations

from autotelic.refinement.build import build_strategy
from autotelic.refinement.work import Draft, Strategy, Work

__all__ = ["auto"]


def auto() -> Strategy:
    """The strategy that the run's routes name for the task's family; directly where they name none.

    Routes are learned by `autotelic strategies learn` and count once they are promoted.
    """
    built: dict[str, Strategy] = {}

    async def strategy(work: Work, n: int = 1) -> list[Draft]:
        name = work.routes.get(work.task.family, "direct")
        if name not in built:
            built[name] = build_strategy(name)
        return await built[name](work, n)

    return strategy
