"""Gates in a row: every candidate is kept, or dropped by the first gate that objects, with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen
from autotelic.selection.candidate import Candidate, Drop, Gate

__all__ = ["Curated", "curate"]


class Curated(Frozen):
    """The fate of every candidate: each id is either in `kept` or in one drop."""

    kept: tuple[str, ...]
    """Ids to train on, in the order they came in."""
    dropped: tuple[Drop, ...]
    """The others, in the order of the gates."""
    funnel: dict[str, int]
    """Counts: `candidates`, one for each reason in the order of the gates, `kept`."""


def curate(candidates: Sequence[Candidate], gates: Sequence[Gate]) -> Curated:
    """Pass candidates through the gates, each of which sees only what those before it have kept.

    Raises:
        UsageError: two candidates have the same id, or a gate drops what it was not given, or drops it twice.
    """
    doubled = [id_ for id_, n in Counter(one.id for one in candidates).items() if n > 1]
    if doubled:
        raise UsageError(
            f"{len(doubled)} candidate ids occur more than once, {doubled[0]!r} first; each needs an id of its own. "
            "Use the id of the trajectory or of the proposal."
        )
    left, dropped = list(candidates), list[Drop]()
    for gate in gates:
        drops = gate(left)
        gone = {drop.item_id for drop in drops}
        if len(gone) != len(drops) or not gone <= {one.id for one in left}:
            raise UsageError(
                f"the gate {gate!r} dropped an item twice or one that it was not given; one drop for an item was "
                "expected. Mend the gate."
            )
        dropped += drops
        left = [one for one in left if one.id not in gone]
    reasons = Counter(drop.reason for drop in dropped)
    funnel = {"candidates": len(candidates), **reasons, "kept": len(left)}
    return Curated(kept=tuple(one.id for one in left), dropped=tuple(dropped), funnel=funnel)
