"""The ledger's tables: one row class per word of the house, JSON where the shape belongs to another room.

Primary keys are deterministic work-item ids. Doing something twice therefore writes the same key twice, and the second
write is ignored: that is what makes at-least-once execution exact in the ledger. Deliveries alone are counted as often
as they happen.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import JSON, Column, Index
from sqlmodel import Field, SQLModel

__all__ = [
    "AlarmRow",
    "ApprovalRow",
    "CritiqueRow",
    "CurationRow",
    "DecisionRow",
    "DeliveryRow",
    "EpisodeRow",
    "EvaluationRow",
    "ExampleRow",
    "FeedbackRow",
    "GateRow",
    "NodeRow",
    "PolicyRow",
    "PromptCallRow",
    "PromptRow",
    "ProposalRow",
    "RefinementRow",
    "RunRow",
    "SkillRow",
    "SuiteRow",
    "TaskRow",
    "ToolCallRow",
    "TrialRow",
]


def _json(**settings: Any) -> Any:
    return Field(sa_column=Column(JSON, nullable=False), **settings)


class RunRow(SQLModel, table=True):
    """What the whole run stands on. One row."""

    __tablename__ = "run"
    id: str = Field(primary_key=True)
    seed: int
    config: dict[str, Any] = _json()
    model_source: str
    model_sha256: str
    sandbox: str = ""
    version: str = ""
    started_at: float = Field(default_factory=time.time)
    finished_at: float | None = None
    outcome: str | None = None


class PolicyRow(SQLModel, table=True):
    """A numbered set of weights."""

    __tablename__ = "policy"
    number: int = Field(primary_key=True)
    parent: int | None = None
    round: int
    state: str
    path: str
    sha256: str
    method: str = ""
    card: dict[str, Any] = _json()
    created_at: float = Field(default_factory=time.time)


class DeliveryRow(SQLModel, table=True):
    """One proved delivery."""

    __tablename__ = "delivery"
    id: int | None = Field(default=None, primary_key=True)
    round: int = Field(index=True)
    policy: int
    previous: int | None = None
    kind: str
    seconds: float
    to_trainer: float
    to_trainer_mean: float
    to_previous: float | None = None
    to_previous_mean: float | None = None
    at: float = Field(default_factory=time.time)


class TaskRow(SQLModel, table=True):
    """A task, once, whatever it is used for."""

    __tablename__ = "task"
    id: str = Field(primary_key=True)
    environment: str
    family: str = Field(index=True)
    difficulty: int
    question: str
    key: str
    answer: str | None = None
    seed: int
    origin: str


class SuiteRow(SQLModel, table=True):
    """Membership of a task in a suite. `round` is 0 for suites that do not change."""

    __tablename__ = "suite"
    suite: str = Field(primary_key=True)
    round: int = Field(primary_key=True)
    index: int = Field(primary_key=True)
    task_id: str = Field(index=True)


class ProposalRow(SQLModel, table=True):
    """What the proposer wrote and what became of it."""

    __tablename__ = "proposal"
    id: str = Field(primary_key=True)
    round: int = Field(index=True)
    index: int
    origin: str
    policy: int
    messages: list[dict[str, Any]] = _json()
    text: str
    seed: int
    reason: str
    detail: str = ""
    task_id: str | None = Field(default=None, index=True)
    family: str = ""


class EpisodeRow(SQLModel, table=True):
    """A trajectory of the solver: prompt, then turns (calls of tools and their results), then the last turn's text."""

    __tablename__ = "episode"
    # What trajectories are looked up by, without reading their texts: a run has hundreds of thousands.
    __table_args__ = (Index("episode_browse", "round", "family", "policy", "reason", "score", "id"),)
    id: str = Field(primary_key=True)
    round: int = Field(index=True)
    task_id: str = Field(index=True)
    family: str
    policy: int
    sample: int
    messages: list[dict[str, Any]] = _json()
    bare_messages: list[dict[str, Any]] = _json()
    tools: list[dict[str, Any]] = _json(default_factory=list)
    turns: list[dict[str, Any]] = _json(default_factory=list)
    text: str
    finish_reason: str
    token_ids: list[int] = _json()
    prompt_tokens: int
    completion_tokens: int
    answer: str | None = None
    score: float | None = None
    reason: str
    memory_ids: list[str] = _json()
    seed: int
    sandbox: str = ""


class ToolCallRow(SQLModel, table=True):
    """A call of a tool, refused ones too. `owner` is the episode, or `eval/SUITE/ROUND/POLICY/MEMORY/TASK`."""

    __tablename__ = "tool_call"
    owner: str = Field(primary_key=True)
    index: int = Field(primary_key=True)
    round: int = Field(index=True)
    tool: str
    arguments: str
    ok: bool
    reason: str
    content: str
    seconds: float


class CritiqueRow(SQLModel, table=True):
    """The critic's word on a trajectory, beside the checker's."""

    __tablename__ = "critique"
    trajectory_id: str = Field(primary_key=True)
    round: int = Field(index=True)
    policy: int
    family: str
    verdict: str | None = None
    confidence: float | None = None
    fault: str = ""
    advice: str = ""
    reason: str = "ok"
    truth: float | None = None


class CurationRow(SQLModel, table=True):
    """One item's fate in curation: kept, or dropped with a reason."""

    __tablename__ = "curation"
    round: int = Field(primary_key=True)
    item_id: str = Field(primary_key=True)
    role: str
    family: str
    kept: bool
    reason: str
    detail: str = ""
    example_id: str | None = None


class ExampleRow(SQLModel, table=True):
    """A row of curated training data. `origin` is `new`, `carried`, `replay`, `real`, or `said` by a person."""

    __tablename__ = "example"
    round: int = Field(primary_key=True)
    id: str = Field(primary_key=True)
    position: int
    role: str
    messages: list[dict[str, Any]] = _json()
    tools: list[dict[str, Any]] = _json(default_factory=list)
    turns: list[dict[str, Any]] = _json(default_factory=list)
    completion: str
    family: str
    source: str
    weight: float
    origin: str
    task_id: str
    question: str


class EvaluationRow(SQLModel, table=True):
    """One answer in one evaluation: policy x memory x task."""

    __tablename__ = "evaluation"
    suite: str = Field(primary_key=True)
    round: int = Field(primary_key=True)
    policy: int = Field(primary_key=True)
    memory: bool = Field(primary_key=True)
    task_id: str = Field(primary_key=True)
    family: str
    text: str
    answer: str | None = None
    score: float | None = None
    reason: str
    completion_tokens: int


class GateRow(SQLModel, table=True):
    """The gate's decision of a round with its evidence."""

    __tablename__ = "gate"
    round: int = Field(primary_key=True)
    champion: int
    candidate: int
    promoted: bool
    reasons: list[str] = _json()
    evidence: dict[str, Any] = _json()


class NodeRow(SQLModel, table=True):
    """A node of a round: when it was done, how long it took over all attempts, and what it reports."""

    __tablename__ = "node"
    round: int = Field(primary_key=True)
    node: str = Field(primary_key=True)
    attempts: int = 0
    seconds: float = 0.0
    done: bool = False
    detail: dict[str, Any] = _json()


class AlarmRow(SQLModel, table=True):
    """A collapse alarm that went off."""

    __tablename__ = "alarm"
    round: int = Field(primary_key=True)
    name: str = Field(primary_key=True)
    value: float
    limit: float
    message: str


class SkillRow(SQLModel, table=True):
    """What was decided about a skill: `kind` is `draft` (written and tested), `made` (measured) or `again`."""

    __tablename__ = "skill"
    id: str = Field(primary_key=True)
    round: int = Field(index=True)
    index: int = 0
    family: str
    policy: int
    kind: str
    skill_id: str = Field(default="", index=True)
    kept: bool
    reason: str = ""
    detail: str = ""
    messages: list[dict[str, Any]] = _json(default_factory=list)
    text: str
    trial: str = ""
    evidence: dict[str, Any] = _json(default_factory=dict)


class _Refined(SQLModel):
    """How a strategy came to an answer, and its price."""

    first_score: float | None = None
    """Of the first draft, where the answer is a revision; else `None`."""
    revised: bool = False
    stopped: str = ""
    calls: int
    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int
    seconds: float
    drafts: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON, nullable=False)
    """Drafts that the answer was made from: `by`, `answer`, `score`, `certainty`."""


class RefinementRow(_Refined, table=True):
    """How an episode's answer was found, where a strategy found it."""

    __tablename__ = "refinement"
    episode: str = Field(primary_key=True)
    round: int = Field(index=True)
    strategy: str


class StrategyRow(_Refined, table=True):
    """One task of a suite, answered by a strategy, and what that cost."""

    __tablename__ = "strategy"
    suite: str = Field(primary_key=True)
    round: int = Field(primary_key=True)
    policy: int = Field(primary_key=True)
    strategy: str = Field(primary_key=True)
    memory: bool = Field(primary_key=True)
    task_id: str = Field(primary_key=True)
    family: str
    answer: str | None = None
    score: float | None = None


class RouteRow(SQLModel, table=True):
    """A version of the routes: which strategy answers which family."""

    __tablename__ = "route"
    version: int = Field(primary_key=True)
    policy: int
    promoted: bool
    """The highest promoted version counts."""
    routes: dict[str, str] = _json()
    learned_on: str
    proved_on: str
    choices: list[dict[str, Any]] = _json()
    """What was weighed: `Choice`, one for each family and strategy."""
    evidence: dict[str, Any] = _json(default_factory=dict)
    """Direct against `auto` on tasks that the routes were not learned on: `Comparison`."""
    reasons: list[str] = _json(default_factory=list)


class PromptRow(SQLModel, table=True):
    """A version of a role's prompts: one was evolved, the others are the parent's."""

    __tablename__ = "prompt"
    version: int = Field(primary_key=True)
    role: str
    policy: int
    promoted: bool
    """The highest promoted version of a role and policy counts."""
    prompts: dict[str, str] = _json()
    """The evolved ones: a family's, or `all` for what stands before every family's; the other roles' by their name."""
    parent: int | None = None
    """Version that it was evolved from; `None` for the prompts that the role came with."""
    learned_on: str
    proved_on: str
    reflector: str
    budget: int
    """Calls that the evolution might make."""
    calls: int
    """Calls that it made, answers and reflections, each once."""
    tried: list[dict[str, Any]] = _json(default_factory=list)
    """Every prompt that was asked under: `text`, `by` (where it is from: `start`, `reflection` or `examples`), `tasks`,
    `score` (mean over them, partial credit counted), `chosen`."""
    evidence: dict[str, Any] = _json(default_factory=dict)
    """Parent against this version on tasks that it was not evolved on: a `Comparison` for `fresh` and for `frozen`."""
    reasons: list[str] = _json(default_factory=list)


class PromptCallRow(SQLModel, table=True):
    """A call made for an evolution or its proof: an item answered under a prompt, or a reflection on such answers."""

    __tablename__ = "prompt_call"
    id: str = Field(primary_key=True)
    policy: int = Field(index=True)
    role: str
    prompts: str
    """`content_id` of what it was made under."""
    item: str
    """A task, an answer to be judged, a place for a proposal, or `reflection/MODEL/NUMBER`."""
    text: str
    answer: str | None = None
    score: float | None = None
    feedback: str = ""


class FeedbackRow(SQLModel, table=True):
    """What a person made of one answer, in a chat that may be learned from. What is taken back is deleted."""

    __tablename__ = "feedback"
    id: str = Field(primary_key=True)
    chat: str = Field(index=True)
    kind: str
    messages: list[dict[str, Any]] = _json()
    chosen: str
    rejected: str | None = None
    comments: list[str] = _json(default_factory=list)
    stars: int | None = None
    policy: int | None = None
    at: float = Field(default_factory=time.time)


class ApprovalRow(SQLModel, table=True):
    """Something that a person has to decide, and the decision. It waits for as long as it takes."""

    __tablename__ = "approval"
    id: str = Field(primary_key=True)
    kind: str
    subject: str
    question: dict[str, Any] = _json()
    asked_at: float = Field(default_factory=time.time)
    answer: bool | None = None
    answered_at: float | None = None


class DecisionRow(SQLModel, table=True):
    """A decision of a person's. Each names the hash of the one before, so that none can be changed unnoticed."""

    __tablename__ = "decision"
    number: int = Field(primary_key=True)
    approval: str
    kind: str
    subject: str
    question: dict[str, Any] = _json()
    answer: bool
    by: str
    why: str
    at: float
    before: str
    hash: str


class TrialRow(SQLModel, table=True):
    """One answer of a matched rollout: with or without the skill, by the same policy with the same seed."""

    __tablename__ = "trial"
    trial: str = Field(primary_key=True)
    helped: bool = Field(primary_key=True)
    task_id: str = Field(primary_key=True)
    round: int = Field(index=True)
    policy: int
    seed: int
    text: str
    answer: str | None = None
    score: float | None = None
    reason: str
    calls: int
