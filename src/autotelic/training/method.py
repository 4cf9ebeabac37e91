"""What a training method is: curated rows in, a plain merged model out, inside the trainer process.

A method knows nothing of directories, hashes, canaries or the pipe to the parent: the worker does those for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autotelic.core.words import TrainingExample
from autotelic.training.job import TrainingStep

if TYPE_CHECKING:
    from autotelic.training.weights import Image

__all__ = ["Method", "Report", "Trained"]

Report = Callable[[TrainingStep], None]
"""Called after every optimisation step."""


@dataclass(frozen=True)
class Trained:
    """A model that has just been trained, still in memory."""

    model: Any
    """A plain `PreTrainedModel` that holds the new weights; adapters are merged and gone."""
    image: Image
    """The bytes of its weights file."""
    finished_at: float
    """Unix time at which the last optimisation step ended."""
    losses: list[float]
    """Loss of every step, nats a completion token."""
    tokens: int
    """Tokens trained, padding not counted."""
    rows: int
    """Rows trained on."""
    save_adapter: Callable[[Path], None] | None = None
    """Writes what was trained apart from the base into a directory."""
    skipped: list[str] = field(default_factory=list)
    """Ids of examples left out."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by phase, so far."""


class Method(Protocol):
    """A way to train. The registry (kind `method`) holds factories `Mapping[str, Any] -> Method`."""

    def train(self, base: Path, examples: Sequence[TrainingExample], seed: int, report: Report) -> Trained:
        """Train from the weights in `base`.

        Raises:
            UsageError: the settings or the model cannot work, or there is nothing to train on.
            TrainingError: the loss is not finite.
        """
        ...
