"""One search over chains of thoughts, walked in two ways: a beam (tree of thoughts) and Monte Carlo tree search.

A node is the thoughts so far. What may follow is sampled in one request, so that the server computes what siblings
share once; what a chain is worth the model or the checker says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from autotelic.core.waiting import side_by_side
from autotelic.core.words import Message
from autotelic.refinement.work import Count, Draft, Strategy, Width, Work, strategy_of

__all__ = ["monte_carlo", "tree_of_thoughts"]

NEXT = "Work on the task step by step. Write only the next step, in one line."
RATE = "Will these steps lead to the right answer?"
CONCLUDE = "Now give the answer."
WORTH = {"sure": 1.0, "maybe": 0.5, "impossible": 0.0}
"""The model's word on a chain, and its value."""


@dataclass
class Node:
    """A chain of thoughts."""

    thoughts: tuple[str, ...] = ()
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    draft: Draft | None = None
    visits: int = 0
    total: float = 0.0

    @property
    def value(self) -> float:
        """Mean value of what was found below, 0 if nothing was."""
        return self.total / self.visits if self.visits else 0.0

    def uct(self, exploration: float) -> float:
        """Upper confidence bound for trees; what was never visited comes first."""
        if not self.visits or self.parent is None:
            return math.inf
        return self.value + exploration * math.sqrt(math.log(self.parent.visits) / self.visits)


def tree_of_thoughts(*, width: Width = 3, beam: Width = 2, depth: Count = 2) -> Strategy:
    """Grow chains of thoughts level by level and keep the best; the best chain is answered from.

    Source: arXiv 2305.10601, "Tree of Thoughts: Deliberate Problem Solving with Large Language Models" (breadth first,
    thoughts sampled, each chain rated by itself). Deviation: under a budget a direct answer is asked for first.

    Args:
        width: thoughts sampled after each chain.
        beam: chains kept of each level.
        depth: levels.
    """

    async def one(work: Work) -> Draft:
        await work.ensure_answer()
        chains = [Node()]
        for _ in range(depth):
            families = await side_by_side(_expand(work, node, width) for node in chains)
            grown = [child for children in families for child in children]
            if not grown:
                break
            values = await side_by_side(_rated(work, node) for node in grown)
            for node, value in zip(grown, values, strict=True):
                node.total, node.visits = value, 1
            chains = sorted(grown, key=lambda node: -node.value)[:beam]  # stable: of equals the first
        drafts = await side_by_side(_concluded(work.aside(), node, "tree_of_thoughts") for node in chains)
        best = next((draft for draft in drafts if draft.answer is not None), drafts[0])
        return work.note(best.model_copy(update={"of": tuple(drafts)}))

    return strategy_of(one)


def monte_carlo(
    *,
    iterations: Count = 8,
    width: Width = 3,
    depth: Count = 2,
    exploration: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0,
    by: Literal["critic", "checker"] = "critic",
) -> Strategy:
    """Monte Carlo tree search over thoughts: walk down by UCT, grow, answer from there, and carry its value up.

    Source: arXiv 2305.14992, "Reasoning with Language Model is Planning with World Model". Deviations: an answer from
    the node stands for a rollout; there is no world model.

    Args:
        iterations: walks down the tree, each with an answer at its end.
        width: thoughts sampled where the tree grows.
        depth: longest chain.
        exploration: weight of what was seldom visited.
        by: who values an answer: the critic, or the environment's checker where that may be used.
    """

    async def valued(work: Work, draft: Draft) -> float:
        if by == "checker":
            return float(bool(await work.check(draft)))
        return (await work.judge(draft)).confidence or 0.0

    async def one(work: Work) -> Draft:
        if by == "checker":
            work.require_checker()
        root, drafts = Node(), list[Draft]()
        for _ in range(iterations):
            node = root
            while node.children:
                node = max(node.children, key=lambda child: child.uct(exploration))
            if node.visits and len(node.thoughts) < depth and await _expand(work, node, width):
                node = node.children[0]
            if node.draft is None:
                found = await _concluded(work.aside(), node, "monte_carlo")
                node.draft = found.model_copy(update={"score": await valued(work, found)})
                drafts.append(node.draft)
                work.note(max(drafts, key=_worth))
            _carry_up(node, node.draft.score or 0.0)
            if (node.draft.score or 0.0) >= 1.0:
                break
        return work.note(max(drafts, key=_worth).model_copy(update={"of": tuple(drafts)}))

    return strategy_of(one)


def _carry_up(node: Node | None, value: float) -> None:
    while node is not None:
        node.visits += 1
        node.total += value
        node = node.parent


async def _expand(work: Work, node: Node, width: int) -> list[Node]:
    """Sample what may follow; equal thoughts are one."""
    said = await work.ask(_asked(work, node, NEXT), width, temperature=work.heat, stop=("\n",), max_tokens=48)
    thoughts = dict.fromkeys(" ".join(completion.text.split()) for completion in said)
    node.children = [Node((*node.thoughts, thought), node) for thought in thoughts if thought]
    return node.children


async def _rated(work: Work, node: Node) -> float:
    said = await work.choose(_asked(work, node, RATE), tuple(WORTH))
    return WORTH[said] if said else 0.0


async def _concluded(work: Work, node: Node, by: str) -> Draft:
    """Answer from a chain; without a thought that is what the model answers by itself."""
    ask = _asked(work, node, f"{CONCLUDE} {work.form.system_prompt(work.task)}") if node.thoughts else work.prompt()
    (said,) = await work.ask(ask)
    return work.note(work.draft(said, by, score=node.value if node.visits else None))


def _asked(work: Work, node: Node, ask: str) -> tuple[Message, ...]:
    steps = [Message(role="assistant", content="\n".join(node.thoughts))] if node.thoughts else []
    return work.prompt(*steps, Message(role="user", content=ask))


def _worth(draft: Draft) -> tuple[bool, float]:
    return draft.answer is not None, draft.score or 0.0
