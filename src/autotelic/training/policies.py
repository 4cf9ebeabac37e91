"""Policies on disk: `policies/policy-N/` with `card.json`, `merged/` and `adapter/`, whole or absent.

The card is the last thing written into a directory that is then renamed: a policy that can be read is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from autotelic.core.errors import StoreError
from autotelic.core.faults import faults
from autotelic.core.files import write_whole
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.words import Canary, Frozen, PolicyFiles
from autotelic.training.job import TrainingResult

__all__ = ["CARD", "Card", "partial_of", "read_card", "read_policy", "write_card"]

CARD = "card.json"


class Card(Frozen):
    """What is known about a policy, beside its weights."""

    number: int = Field(ge=0)
    """Policy number."""
    parent: int | None
    """Number of the policy it was trained from, `None` for the base."""
    weights: str
    """Directory of the merged weights, relative to the card where it lies below it."""
    sha256: str
    """See `PolicyFiles.sha256`."""
    canary: Canary
    """Made from these weights by whoever made them."""
    method: str | None = None
    """Registered name of the method, `None` for the base."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings of the method."""
    seed: int = 0
    """Seed of the training."""
    data_ids: tuple[str, ...] = ()
    """Ids of the examples trained on."""
    result: TrainingResult | None = None
    """What the trainer did, `None` for the base."""


def partial_of(out: Path) -> Path:
    """Where a policy is made before it is renamed to `out`."""
    return out.with_name(f".{out.name}.partial")


def write_card(directory: Path, card: Card) -> None:
    """Write `card.json` into `directory`, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / CARD, card.model_dump_json())


def read_card(directory: Path) -> Card:
    """Read `card.json`.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    try:
        return Card.model_validate_json((directory / CARD).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise StoreError(
            f"{directory} is not a policy: {faults(error, CARD) if isinstance(error, ValidationError) else error}. "
            "Train it again, or restore the directory from a copy of the run."
        ) from error


def read_policy(directory: Path, *, verify: bool = False) -> PolicyFiles:
    """Return what delivery needs of the policy in `directory`.

    Args:
        directory: `.../policies/policy-N`.
        verify: Hash the weights and compare with the card (about 0.15 s for 269 MB).

    Raises:
        StoreError: the card is missing or broken, or the weights are not those it speaks of.
    """
    card = read_card(directory)
    weights = (directory / card.weights).absolute()
    if not weights.is_dir():
        raise StoreError(f"policy {card.number} has no weights at {weights}. Restore them, or train the policy again.")
    if verify and (found := sha256_of_weights(weights)) != card.sha256:
        raise StoreError(
            f"the weights of policy {card.number} hash to {found[:12]}, its card says {card.sha256[:12]}: the files "
            "have changed since they were made. Train the policy again or roll back to another."
        )
    return PolicyFiles(number=card.number, path=str(weights), sha256=card.sha256, canary=card.canary)
