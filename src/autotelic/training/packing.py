"""Rows to tensors without padding and without computing a shared prefix twice.

Chat rows of one batch begin alike: the same system turn, often the same instruction, sometimes the same whole prompt
with another answer. Under causal attention equal prefixes have equal hidden states, so a batch is stored as a *trie*:
each distinct prefix is one token to compute. Linear layers, norms and the embedding then see each distinct token once;
only attention looks at whole rows (`rows_B_T`). Loss and gradients are those of the plain padded batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Packed", "Row", "pack"]


class Row(NamedTuple):
    """One tokenised training row."""

    prompt: Sequence[int]
    """Token ids the model is given."""
    completion: Sequence[int]
    """Token ids to learn, the end-of-turn token included."""
    weight: float = 1.0
    """Loss weight, relative to 1."""
    rejected: Sequence[int] = ()
    """Token ids of an answer that the completion was chosen over, empty for none."""

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Packed:
    """A batch as a trie: N distinct tokens, B rows of at most T tokens, M distinct predictions."""

    ids_N: Tensor
    """Token of each trie node."""
    positions_N: Tensor
    """Position of each node in its rows."""
    rows_B_T: Tensor
    """Node at each place of each row; places after a row's end hold node 0, which causal attention never looks at."""
    read_N: Tensor
    """Place (flat index into B x T) where each node's attention output is read."""
    at_M: Tensor
    """Node whose hidden state makes the prediction."""
    target_M: Tensor
    """Token to predict."""
    weight_M: Tensor
    """Weight of the prediction: the sum over the rows that make it (float32)."""
    made_P: Tensor
    """Prediction, of the M, that each completion token is; rows after one another, duplicates counted."""
    row_P: Tensor
    """Row of each of them."""
    learned: int
    """Completion tokens in the batch, duplicates counted: what the loss is averaged over."""
    tokens: int
    """Prompt and completion tokens of all rows, duplicates counted."""


def pack(rows: Iterable[Row]) -> Packed:
    """Lay rows out as a trie.

    Raises:
        ValueError: a row has an empty prompt or completion.
    """
    rows = list(rows)
    nodes: dict[tuple[int, int], int] = {}
    ids: list[int] = []
    positions: list[int] = []
    read: list[int] = []
    paths: list[list[int]] = []
    predictions: dict[tuple[int, int], float] = {}
    places: dict[tuple[int, int], int] = {}
    made: list[int] = []
    width = max(row.length for row in rows)
    for number, row in enumerate(rows):
        if not row.prompt or not row.completion:
            raise ValueError("a training row needs at least one prompt token and one completion token")
        path: list[int] = []
        parent = -1
        for place, token in enumerate((*row.prompt, *row.completion)):
            node = nodes.setdefault((parent, token), len(ids))
            if node == len(ids):
                ids.append(token)
                positions.append(place)
                read.append(number * width + place)
            if place >= len(row.prompt):
                predictions[parent, token] = predictions.get((parent, token), 0.0) + row.weight
                made.append(places.setdefault((parent, token), len(places)))
            path.append(node)
            parent = node
        paths.append(path + [0] * (width - len(path)))
    return Packed(
        ids_N=torch.tensor(ids),
        positions_N=torch.tensor(positions),
        rows_B_T=torch.tensor(paths),
        read_N=torch.tensor(read),
        at_M=torch.tensor([node for node, _ in predictions]),
        target_M=torch.tensor([token for _, token in predictions]),
        weight_M=torch.tensor(list(predictions.values())),
        made_P=torch.tensor(made),
        row_P=torch.tensor([number for number, row in enumerate(rows) for _ in row.completion]),
        learned=sum(len(row.completion) for row in rows),
        tokens=sum(row.length for row in rows),
    )
