"""The proof that a server answers with the policy it is said to have.

Whoever makes weights computes the log-probabilities of fixed token sequences from them (the canary). After loading,
the server is asked for the same numbers. They must agree with the maker's within the noise of two implementations of
the same arithmetic, they must have changed by the load, and they must have come *closer* to the maker's: a server
that still holds the old weights, or holds others, fails one of the three. So does a policy that learned next to
nothing: any change of bfloat16 weights, however small, moves the numbers by about what the two implementations differ
by (measured on the 135M model: 0.045 nats on average, both), and whether that is closer is then a matter of chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from autotelic.core.errors import DeliveryError, ServingError
from autotelic.core.words import PolicyFiles, Proof
from autotelic.serving.backends import LocalBackend

__all__ = ["Indistinguishable", "Rows", "TokenIds", "Tolerance", "agreement", "difference", "prove", "server_logprobs"]

_COMPARED = 0.75

TokenIds = tuple[tuple[int, ...], ...]
"""Token ids; shape [sequences][tokens]."""
Rows = tuple[tuple[float, ...], ...]
"""Log-probabilities, nats; shape [sequences][tokens - 1]."""


class Indistinguishable(DeliveryError):
    """The policy cannot be told from the one before: nothing was learned, and nothing is wrong with the server.

    It is not served. The policy before can be delivered again.
    """


@dataclass(frozen=True)
class Tolerance:
    """What counts as agreement and as change, in nats."""

    max: float
    """Largest difference to the trainer on any one token that is compared (see `agreement`)."""
    mean: float
    """Largest mean difference to the trainer over those tokens."""
    change: float = 1e-4
    """Smallest mean difference to the previous policy. A server repeats itself exactly on a CPU, nearly so on a GPU."""


async def server_logprobs(backend: LocalBackend, model: str, token_ids: TokenIds) -> Rows:
    """Ask the server for the log-probability of every token but the first of each sequence.

    Raises:
        Unavailable: the server did not answer.
        ServingError: it refused, or answered in another shape.
    """
    body = {
        "model": model,
        "prompt": [list(ids) for ids in token_ids],
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
    }
    answer = await backend.post("/v1/completions", body)
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    rows: list[tuple[float, ...]] = []
    for ids, choice in zip(token_ids, choices, strict=True):
        entries = choice["prompt_logprobs"][1:]
        rows.append(tuple(float(entry[str(token)]["logprob"]) for token, entry in zip(ids[1:], entries, strict=True)))
    return tuple(rows)


def difference(left: Rows, right: Rows) -> tuple[float, float]:
    """Return the largest and the mean absolute difference; not-a-number counts as infinite.

    Raises:
        ServingError: the shapes differ, or there is nothing to compare.
    """
    shapes = [[len(row) for row in rows] for rows in (left, right)]
    if shapes[0] != shapes[1] or not sum(shapes[0]):
        raise ServingError(
            f"canaries of the shapes {shapes[0]} and {shapes[1]} cannot be compared. Make the policy again."
        )
    gaps = [abs(a - b) for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True)]
    gaps = [gap if math.isfinite(gap) else math.inf for gap in gaps]
    return max(gaps), sum(gaps) / len(gaps)


def agreement(said: Rows, made: Rows) -> tuple[float, float]:
    """Return the largest and the mean difference on the three quarters of the tokens that the maker held likeliest.

    The logit of an improbable token is a difference of large numbers, and what bfloat16 leaves of it is noise. Measured
    between the trainer and vLLM on eleven trained policies: on all tokens up to 2.48 nats, on average 0.040 to 0.070;
    on these 0.19 to 0.52, on average 0.034 to 0.056.

    Raises:
        ServingError: the shapes differ, or there is nothing to compare.
    """
    if difference(said, made)[0] == math.inf:  # what is no number cannot be ranked
        return math.inf, math.inf
    pairs = [(a, b) for x, y in zip(said, made, strict=True) for a, b in zip(x, y, strict=True)]
    cut = sorted((b for _, b in pairs), reverse=True)[math.ceil(_COMPARED * len(pairs)) - 1]
    likeliest = [(a, b) for a, b in pairs if b >= cut]
    return difference((tuple(a for a, _ in likeliest),), (tuple(b for _, b in likeliest),))


def prove(policy: PolicyFiles, served: Rows, before: Rows | None, tolerance: Tolerance) -> Proof:
    """Judge what the server said after the load, given what it said before (`None` if it held nothing else).

    Raises:
        Indistinguishable: it agrees with the canary, but no better than before: has not changed, or not come closer.
        DeliveryError: it does not agree with the canary.
    """
    largest, mean = agreement(served, policy.canary.logprobs)
    name = f"policy-{policy.number}"
    if largest > tolerance.max or mean > tolerance.mean:
        raise DeliveryError(
            f"{name} is not proved: the server differs from the trainer by {largest:.4f} nats at most and {mean:.4f} "
            f"on average, allowed are {tolerance.max:g} and {tolerance.mean:g}. The weights in {policy.path} are not "
            "what the trainer made; train it again, or roll back to the champion."
        )
    if before is None:
        return Proof(to_trainer=largest, to_trainer_mean=mean, to_previous=None, to_previous_mean=None)
    moved, moved_mean = difference(served, before)
    old_mean = agreement(before, policy.canary.logprobs)[1]
    if moved_mean < tolerance.change or old_mean <= mean:
        raise Indistinguishable(
            f"{name} is not proved: the server's answers changed by {moved_mean:.6f} nats on average, and their "
            f"distance to the trainer went from {old_mean:.6f} to {mean:.6f}; it should have fallen. {name} cannot be "
            "told from the policy before because too little was learned. Go on with that one, or train for longer."
        )
    return Proof(to_trainer=largest, to_trainer_mean=mean, to_previous=moved, to_previous_mean=moved_mean)
