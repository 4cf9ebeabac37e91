"""Data selection: the node `curate` turns a round's trajectories and proposals into training examples.

Every item meets one fate, kept or dropped with a reason, and the ledger has a row for it. What is kept is what the bare
prompt leads to: the demonstrations that helped are not in it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from autotelic.agents import Review
from autotelic.core.words import Role, Task, TrainingExample, content_id
from autotelic.environments import solved
from autotelic.evaluation import auc
from autotelic.graphs.acquire import balanced_sample, messages_of
from autotelic.graphs.session import Session, as_dicts
from autotelic.memory import Demonstration
from autotelic.selection import Candidate, curate_items, replay
from autotelic.store import CurationRow, EpisodeRow, ExampleRow, ProposalRow, SuiteRow, TaskRow

__all__ = ["curate"]
