"""What goes into the trainer process and what comes out: frozen data that crosses a pipe as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from autotelic.core.words import Canary, Frozen, TrainingExample, content_id

__all__ = [
    "CANARY_TEXTS",
    "MAX_LENGTH",
    "CanaryJob",
    "CanaryResult",
    "TrainingJob",
    "TrainingResult",
    "TrainingStep",
    "read_examples",
    "write_examples",
]

CANARY_TEXTS = (
    "The capital of France is Paris, and the capital of Japan is",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) +",
)
"""Fixed texts of every canary. The trainer adds rows that it trains on, so that two policies never look alike."""


MAX_LENGTH = 1024
"""Longest row by default, tokens of prompt and completion."""


class TrainingJob(Frozen):
    """One order to the trainer: from a parent's merged weights and curated data to a policy on disk."""

    number: int = Field(ge=1)
    """Number of the policy to make."""
    parent: int = Field(ge=0)
    """Number of the policy it starts from."""
    base: str
    """Directory of the parent's merged weights, Hugging Face format."""
    examples: str
    """File of `TrainingExample` as JSON lines."""
    out: str
    """Directory to make, `.../policies/policy-N`: appears whole or not at all."""
    method: str = "sft"
    """Registered name of the method."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings of the method; it checks them."""
    plugins: tuple[str, ...] = ()
    """Python files or modules that are loaded first: the method may be registered in one of them."""
    seed: int = 0
    """Seeds adapter initialisation and the order of rows."""
    canary_texts: tuple[str, ...] = CANARY_TEXTS
    """Texts whose log-probabilities prove the weights."""

    def identity(self, examples: list[TrainingExample]) -> str:
        """Return a hash of everything that decides the weights: equal identities are the same work."""
        data = [(example.id, example.weight, *filter(None, [example.rejected])) for example in examples]
        return content_id(self.number, self.parent, self.method, self.config, self.seed, self.canary_texts, data)


class CanaryJob(Frozen):
    """An order to hash and fingerprint weights that exist already (the base model)."""

    base: str
    """Directory of the weights."""
    canary_texts: tuple[str, ...] = CANARY_TEXTS
    """Texts whose log-probabilities prove the weights."""


class CanaryResult(Frozen):
    """Fingerprint of weights on disk."""

    sha256: str
    """See `PolicyFiles.sha256`."""
    canary: Canary
    """Log-probabilities computed from those weights."""


class TrainingStep(Frozen):
    """One optimisation step."""

    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    loss: float
    """Loss of this step's batch before the step, nats a completion token."""
    tokens: int
    """Tokens trained so far, prompt and completion, padding not counted."""
    seconds: float
    """Since the first step began."""


class TrainingResult(Frozen):
    """What a finished job did."""

    job: str
    """`TrainingJob.identity`."""
    sha256: str
    """See `PolicyFiles.sha256`."""
    canary: Canary
    """Made from the merged bf16 weights in `out/merged`."""
    steps: int
    """Optimisation steps."""
    tokens: int
    """Tokens trained, prompt and completion, all epochs, padding not counted."""
    rows: int
    """Rows trained on."""
    skipped: tuple[str, ...] = ()
    """Ids of examples left out because they are longer than `max_length`."""
    losses: tuple[float, ...]
    """Loss of every step, nats a completion token."""
    seconds: dict[str, float]
    """Seconds by phase: `load`, `train`, `merge`, `write` (with the hash), `canary`, `finish` (last step to all)."""
    finished_at: float
    """Unix time at which the last optimisation step ended: delivery is timed from here."""

    @property
    def first_loss(self) -> float:
        """Loss of the first step."""
        return self.losses[0]

    @property
    def last_loss(self) -> float:
        """Loss of the last step."""
        return self.losses[-1]


def write_examples(path: Path, examples: Iterable[TrainingExample]) -> Path:
    """Write examples for the trainer, one JSON object a line; return the path."""
    path.write_text("\n".join(example.model_dump_json() for example in examples) + "\n", encoding="utf-8")
    return path


def read_examples(path: Path) -> list[TrainingExample]:
    """Read what `write_examples` wrote."""
    # Not `splitlines`: it also ends lines at characters that JSON leaves as they are inside a text, U+2028 for one.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [TrainingExample.model_validate_json(line) for line in lines if line.strip()]
