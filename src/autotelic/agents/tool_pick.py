"""A few of many tools, chosen by the task: a prompt that names fifty tools helps a small model less than one with four.

A tool is ranked by the meaning of its name and description beside the question's (cosine), plus the share of the
question's words that it mentions, each word counting by how few of the tools mention it. Equal questions and tools give
equal picks, whatever the tools' order.

Source: arXiv 2305.16291, "Voyager", which finds skills by the meaning of their descriptions. Deviation: it asks by a
plan that the model writes; here the question itself asks, and its words count too.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from autotelic.memory.embedder import Embedder
from autotelic.tools import Tool

__all__ = ["ToolPicker", "pick_tools"]

_WORD = re.compile(r"[^\W_]+")


async def pick_tools(
    question: str, tools: Sequence[Tool], k: int, embedder: Embedder, *, pinned: Collection[str] = ()
) -> list[Tool]:
    """Return the `k` tools that fit a question best, in the order in which they came.

    Args:
        question: the task as the solver sees it.
        tools: what there is to choose from.
        k: how many; 0 means all.
        embedder: gives the meaning of texts.
        pinned: names of tools that are always among them, even if that makes more than `k`.
    """
    if k == 0 or len(tools) <= k:
        return list(tools)
    texts = [f"{tool.name.replace('_', ' ')}\n{tool.description}" for tool in tools]
    vectors = await embedder.embed([question, *texts])
    meaning = np.asarray(vectors[1:], dtype=np.float64) @ np.asarray(vectors[0], dtype=np.float64)
    shared = _overlap(question, texts)
    # Rounded: the last bits of a sum can depend on how many vectors were multiplied at once.
    score = {tool.name: round(float(m) + s, 6) for tool, m, s in zip(tools, meaning, shared, strict=True)}
    chosen = {tool.name for tool in tools if tool.name in pinned}
    for tool in sorted(tools, key=lambda tool: (-score[tool.name], tool.name)):
        if len(chosen) < k:
            chosen.add(tool.name)
    return [tool for tool in tools if tool.name in chosen]


class ToolPicker:
    """`pick_tools` with its settings, as a tool loop takes it.

    Args:
        embedder: gives the meaning of texts.
        k: how many tools a task is offered; 0 means all.
        pinned: names of tools that are always offered.
    """

    def __init__(self, embedder: Embedder, k: int, pinned: Collection[str] = ()) -> None:
        self._embedder = embedder
        self._k = k
        self._pinned = frozenset(pinned)

    async def __call__(self, question: str, tools: Sequence[Tool]) -> Sequence[Tool]:
        """Return the tools that a task is offered."""
        return await pick_tools(question, tools, self._k, self._embedder, pinned=self._pinned)


def _overlap(question: str, texts: Sequence[str]) -> list[float]:
    """Share of the question's words that each text has; a word of all texts counts nothing. In [0, 1]."""
    mentioned = [_words(text) for text in texts]
    count = Counter(word for words in mentioned for word in words)
    weight = {word: math.log(len(texts) / count[word]) for word in sorted(_words(question)) if word in count}
    total = math.fsum(weight.values())
    if not total:
        return [0.0] * len(texts)
    return [math.fsum(w for word, w in weight.items() if word in words) / total for words in mentioned]


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
