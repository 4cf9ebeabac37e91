"""A run's library as people reach it, at the command line and in the browser: opened alone, or looked at beside a
session.

Whoever changes the library owns it: the run's lease and the memory's. Looking does not wait for that: what is
remembered is in a file that others may read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from autotelic.core.config import load_config
from autotelic.core.errors import UsageError
from autotelic.core.run_dir import RunDir
from autotelic.graphs.config import Config, run_config
from autotelic.graphs.oversight import decided, wait
from autotelic.graphs.remembering import attempted
from autotelic.graphs.session import open_memory
from autotelic.memory import Memory, Usefulness, usefulness
from autotelic.store import EpisodeRow, Ledger

__all__ = ["forget_items", "known_items", "last_round", "open_library", "worth_of"]


@asynccontextmanager
async def open_library(run: Path) -> AsyncIterator[tuple[Memory, Ledger]]:
    """Open a run's memory and ledger, as their only user.

    Raises:
        StoreError: a session or another command has the run.
    """
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(RunDir(run).require().held())
        ledger = Ledger(directory.ledger)
        stack.callback(ledger.close)
        yield await open_memory(stack, run_config(directory), directory), ledger


async def known_items(memory: Memory, ids: Sequence[str]) -> list[Any]:
    """Return items by their ids.

    Raises:
        UsageError: nothing is remembered under one of them.
    """
    found = await memory.get(ids)
    if missing := [id_ for id_ in ids if id_ not in found]:
        raise UsageError(f"nothing is remembered under {missing[0]!r}. See: autotelic memory list RUN")
    return [found[id_] for id_ in ids]


async def forget_items(run: RunDir, memory: Memory, ledger: Ledger, ids: Sequence[str]) -> list[str]:
    """Delete items for good; where the run has a person decide about that, once it is approved.

    Args:
        run: whose they are.
        memory: its memory.
        ledger: its ledger.
        ids: of the items.

    Returns:
        The ids of what was there.

    Raises:
        UsageError: nothing is remembered under one of them, or a person refused.
        Waiting: nobody has decided yet.
    """
    items = await known_items(memory, ids)
    if "forgetting" in load_config(Config, run.config).oversight:
        reasons = [f"{one.id}: {' '.join(one.text.split())[:200]}" for one in items]
        question = {"ask": f"delete {len(ids)} from the memory for good?", "reasons": reasons}
        if not decided(ledger, "forgetting", ", ".join(ids), question, wait):
            raise UsageError("a person refused to have this deleted. It stays.")
    return await memory.forget(ids)


def worth_of(ledger: Ledger) -> dict[str, Usefulness]:
    """Return what attempts with each item were worth against bare ones."""
    return usefulness(attempted(ledger), now=last_round(ledger))


def last_round(ledger: Ledger) -> int:
    """Return the last round that has trajectories, 0 without any."""
    return max(ledger.column(EpisodeRow, "round"), default=0)
