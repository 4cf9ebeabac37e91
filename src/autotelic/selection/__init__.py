"""What is kept for training, and the reason of everything that is not."""

from __future__ import annotations

from autotelic.selection.candidate import Candidate, Drop, Gate, Past
from autotelic.selection.curate import Curated, curate
from autotelic.selection.curriculum import Cell, Tried, focused, worth_of_cells
from autotelic.selection.gates import (
    answer_share,
    contamination,
    exact_duplicates,
    family_quota,
    learnable_band,
    max_examples,
    more_than_luck,
    near_duplicates,
    per_task_cap,
    verified_only,
)
from autotelic.selection.luck import Answered, luck
from autotelic.selection.replay import Pool, Replayed, replay
from autotelic.selection.selectors import Balanced, Selection, Selector

__all__ = [
    "Answered",
    "Balanced",
    "Candidate",
    "Cell",
    "Curated",
    "Drop",
    "Gate",
    "Past",
    "Pool",
    "Replayed",
    "Selection",
    "Selector",
    "Tried",
    "answer_share",
    "contamination",
    "curate",
    "exact_duplicates",
    "family_quota",
    "focused",
    "learnable_band",
    "luck",
    "max_examples",
    "more_than_luck",
    "near_duplicates",
    "per_task_cap",
    "replay",
    "verified_only",
    "worth_of_cells",
]
