"""Near copies: the same task in other words, found among tens of thousands in seconds.

Tasks out of one template differ in a number or in one word, and are different tasks. So numbers and the answer decide:
only rows with the same numbers (in any order) and the same answer are compared at all. Those are then compared by their
words and pairs of neighbouring words (Jaccard), which lets case, punctuation, white space and a changed phrase pass as
the same, and two numbers that change places in a sentence of fifteen words or more. The search is exact: an inverted
index over rare features (prefix filtering), no sketches.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import pairwise

from autotelic.core.texts import NUMBER, comparable, normalised, plain_number

__all__ = ["CONTAMINATION_THRESHOLD", "DEFAULT_THRESHOLD", "NearIndex", "in_any_order", "one_of_many", "similarity"]

DEFAULT_THRESHOLD = 0.8
"""Of 1,000 reasoning_gym tasks each, 1 counts as a copy in gcd, 7 in letter_counting, 8 in calendar_arithmetic."""

CONTAMINATION_THRESHOLD = 0.7
"""Lower, because a lost row costs less than a leaked one: 29 in letter_counting, 38 in calendar_arithmetic."""

_MARKS = frozenset(".,;:!?\"'`")
_WORD = re.compile(r"\w+|[^\w\s]")


def similarity(question: str, answer: str, other_question: str, other_answer: str) -> float:
    """Return how alike two tasks are, in [0, 1]; 0 where a number or the answer differs."""
    if _decisive(question, answer) != _decisive(other_question, other_answer):
        return 0.0
    return _jaccard(_features(question), _features(other_question))


def in_any_order(question: str) -> str:
    """Return the words and numbers of a question sorted: equal where one is the other in another order."""
    return " ".join(sorted(_words(question)))


def one_of_many(answer: str) -> bool:
    """Return whether an answer may be one of many right ones: not a single word or number, but made of several.

    A sum that makes 24 can be written in many ways; what comes next in a sequence cannot.
    """
    text = comparable(answer)
    return not NUMBER.fullmatch(text) and len(_WORD.findall(text)) > 1


@dataclass(slots=True)
class _Row:
    id: str
    question: str
    features: frozenset[str] | None = None

    def read(self) -> frozenset[str]:
        if self.features is None:
            self.features = _features(self.question)
        return self.features


@dataclass(slots=True)
class _Block:
    """Rows with the same numbers and answer. Most have one row; their text is looked at only when it matters."""

    rows: list[_Row] = field(default_factory=list)
    indexed: int = 0
    counted: int = 0
    frequency: Counter[str] = field(default_factory=Counter)
    postings: defaultdict[str, list[_Row]] = field(default_factory=lambda: defaultdict(list))


class NearIndex:
    """Rows known so far, to be asked for near copies.

    Args:
        threshold: Jaccard similarity, in (0, 1], from which two rows with the same numbers and answer are near copies.
        use_answer: whether the answer is decisive; without it, rows are compared whatever they answer.
    """

    def __init__(self, threshold: float = DEFAULT_THRESHOLD, *, use_answer: bool = True) -> None:
        self._threshold = threshold
        self._use_answer = use_answer
        self._blocks: defaultdict[Hashable, _Block] = defaultdict(_Block)

    def add(self, id_: str, question: str, answer: str, group: Hashable = None) -> None:
        """Make a row known; only rows of the same `group` are compared."""
        self._blocks[self._key(question, answer, group)].rows.append(_Row(id_, question))

    def find(self, question: str, answer: str, group: Hashable = None) -> tuple[float, str] | None:
        """Return (similarity, id) of the nearest known row if it is a near copy; of equals the smallest id."""
        block = self._blocks.get(self._key(question, answer, group))
        if block is None:
            return None
        features = _features(question)
        if not features:
            empty = sorted(row.id for row in block.rows if not row.read())
            return (1.0, empty[0]) if empty else None
        self._index(block)
        near = {row.id: row for feature in self._prefix(block, features) for row in block.postings.get(feature, ())}
        scored = [(_jaccard(features, row.read()), id_) for id_, row in near.items()]
        return min(
            (pair for pair in scored if pair[0] >= self._threshold), key=lambda pair: (-pair[0], pair[1]), default=None
        )

    def _key(self, question: str, answer: str, group: Hashable) -> Hashable:
        return group, _decisive(question, answer if self._use_answer else "")

    def _index(self, block: _Block) -> None:
        if len(block.rows) > 2 * block.counted:
            # Any fixed order of features is right, rare ones first is fast: so it is counted anew at each doubling.
            block.frequency = Counter(feature for row in block.rows for feature in row.read())
            block.counted, block.indexed = len(block.rows), 0
            block.postings.clear()
        for row in block.rows[block.indexed :]:
            for feature in self._prefix(block, row.read()):
                block.postings[feature].append(row)
        block.indexed = len(block.rows)

    def _prefix(self, block: _Block, features: frozenset[str]) -> list[str]:
        """Two sets as alike as the threshold must share one of these, the rarest features of each."""
        # The small term keeps 0.8 * 5 from becoming 5 by rounding.
        needed = max(1, math.ceil(self._threshold * len(features) - 1e-9))
        return sorted(features, key=lambda feature: (block.frequency[feature], feature))[: len(features) - needed + 1]


def _decisive(question: str, answer: str) -> Hashable:
    numbers = tuple(sorted(plain_number(n) for n in NUMBER.findall(unicodedata.normalize("NFKC", question))))
    return numbers, comparable(answer)


def _words(question: str) -> list[str]:
    # Marks of a sentence say nothing; brackets and operators may be code or mathematics, and are words.
    text = NUMBER.sub(lambda number: plain_number(number[0]), normalised(question))
    return [word for word in _WORD.findall(text) if word not in _MARKS]


def _features(question: str) -> frozenset[str]:
    words = _words(question)
    return frozenset(words) | frozenset(map(" ".join, pairwise(words)))


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    if not a and not b:
        return 1.0
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
