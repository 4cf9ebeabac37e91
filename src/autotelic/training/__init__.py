"""Training: curated data in, a policy out, in a process of its own.

The face of the room imports neither PyTorch nor TRL; those live in the trainer process.
"""

from __future__ import annotations

from autotelic.training.job import (
    MAX_LENGTH,
    CanaryResult,
    TrainingJob,
    TrainingResult,
    TrainingStep,
    read_examples,
    write_examples,
)
from autotelic.training.method import Method, Trained
from autotelic.training.policies import Card, read_card, read_policy, write_card
from autotelic.training.process import Trainer

__all__ = [
    "MAX_LENGTH",
    "CanaryResult",
    "Card",
    "Method",
    "Trained",
    "Trainer",
    "TrainingJob",
    "TrainingResult",
    "TrainingStep",
    "read_card",
    "read_examples",
    "read_policy",
    "write_card",
    "write_examples",
]
