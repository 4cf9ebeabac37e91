"""The words of the house as frozen data: what is parsed, logged or sent.

Every model here is immutable and JSON-serialisable. Behaviour lives elsewhere. `Score` is `float | None`: `None` means
"no verdict" and is never counted as zero.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "Canary",
    "Completion",
    "Critique",
    "DeliveryRecord",
    "Frozen",
    "Message",
    "Origin",
    "PolicyFiles",
    "PolicyState",
    "Proof",
    "Proposal",
    "Rejection",
    "Role",
    "Score",
    "SuiteName",
    "Task",
    "ToolCall",
    "TrainingExample",
    "content_id",
    "sound",
]

Score = float | None
"""A number in [0, 1], or `None` for "no verdict"."""

SuiteName = Literal["fresh", "frozen", "regression", "sealed", "trial"]


def sound(text: str) -> str:
    """Return `text` as it can be sent and stored: halves of a surrogate pair are joined, single ones replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


Sound = Annotated[str, AfterValidator(sound)]
"""Text from a model or a provider."""


def content_id(*parts: Any) -> str:
    """Return 16 hex digits that depend on nothing but the parts (JSON, keys sorted)."""
    payload = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(payload.encode()).hexdigest()[:16]


class Frozen(BaseModel):
    """Base of all wire data: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Role(StrEnum):
    """Who is speaking to the model."""

    PROPOSER = "proposer"
    SOLVER = "solver"
    CRITIC = "critic"
    CURATOR = "curator"


class Origin(StrEnum):
    """Where a task comes from."""

    PROPOSER = "proposer"
    EXPLORE = "explore"
    REAL = "real"
    SUITE = "suite"


class PolicyState(StrEnum):
    """What a policy is at the moment."""

    CANDIDATE = "candidate"
    CHAMPION = "champion"
    RETIRED = "retired"
    REJECTED = "rejected"
    DISCARDED = "discarded"


class ToolCall(Frozen):
    """One call of a tool as a model wrote it."""

    id: Sound = ""
    """The provider's id of the call, which its result has to name; empty where calls are part of the text."""
    name: Sound
    """Name of the tool."""
    arguments: Sound
    """JSON text, not checked yet."""


class Message(Frozen):
    """One chat message as it is sent to the server."""

    role: Literal["system", "user", "assistant", "tool"]
    """Speaker."""
    content: Sound
    """Text, exactly as the chat template receives it."""
    calls: tuple[ToolCall, ...] = ()
    """Calls that a provider gave apart from the text."""
    call_id: str = ""
    """Of a tool's message: the call that this is the result of."""

    def openai(self) -> dict[str, Any]:
        """Return the message in the form that OpenAI-compatible servers and chat templates take."""
        body: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.calls:
            body["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.calls
            ]
        if self.call_id:
            body["tool_call_id"] = self.call_id
        return body


class Task(Frozen):
    """Something to solve, with a private key. Equal content gives an equal `id`."""

    id: str
    """`content_id` of environment, family, question and key."""
    environment: str
    """Registered name of the environment that checks it."""
    family: str
    """Kind of task inside the environment, e.g. `gcd` or `deduction`."""
    difficulty: int = 0
    """Environment-defined level, 0 is the easiest."""
    question: str
    """What the solver sees."""
    key: str
    """Private: JSON that only the environment's checker reads. Never put into a prompt."""
    answer: str | None = None
    """Private: one right answer as text where there is one; used for real demonstrations and constant baselines."""
    seed: int = 0
    """Seed that generated it."""
    origin: Origin = Origin.SUITE
    """Where it comes from."""

    @classmethod
    def make(cls, *, environment: str, family: str, question: str, key: dict[str, Any], **rest: Any) -> Task:
        """Build a task and derive its id from what makes it this task."""
        text = json.dumps(key, sort_keys=True, ensure_ascii=False, default=str)
        return cls(
            id=content_id(environment, family, question, text),
            environment=environment,
            family=family,
            question=question,
            key=text,
            **rest,
        )


class Proposal(Frozen):
    """A task written by the proposer, before an environment has validated it."""

    id: str
    """Deterministic work-item id inside the run."""
    environment: str
    """Environment whose grammar it was written in."""
    text: str
    """What the proposer wrote, verbatim."""
    seed: int
    """Seed for whatever the environment has to draw while validating."""
    origin: Origin = Origin.PROPOSER
    """`proposer`, or `explore` for the share that keeps every family alive."""


class Rejection(Frozen):
    """Why a proposal is not a task."""

    reason: str
    """Short machine-readable reason, e.g. `not_json`, `unknown_family`, `does_not_run`, `not_deterministic`."""
    detail: str = ""
    """One line for a person."""


class Completion(Frozen):
    """One sampled answer of a model. Token ids and log-probabilities come from the server, never from re-tokenising."""

    text: Sound
    """Generated text."""
    finish_reason: str
    """`stop` or `length` (or what the provider says)."""
    token_ids: tuple[int, ...] = ()
    """Generated token ids (empty where the provider gives none)."""
    logprobs: tuple[float, ...] = ()
    """Log-probability of each generated token, natural log (empty where not asked for)."""
    alternatives: tuple[dict[str, float], ...] = ()
    """For each generated token the text of the likeliest tokens in its place, with their log-probabilities (empty where
    not asked for). Any control token, such as the one that ends an answer, is the empty text."""
    prompt_tokens: int = 0
    """Tokens of the prompt (shared by all samples of one request)."""
    cached_tokens: int = 0
    """Of these, what the server had computed before and did not compute again."""
    completion_tokens: int = 0
    """Generated tokens."""
    policy: int | None = None
    """Number of the policy that answered, `None` for a model outside the run."""
    calls: tuple[ToolCall, ...] = ()
    """Calls that a provider gave apart from the text."""


class Critique(Frozen):
    """The critic's structured judgement of a trajectory."""

    trajectory_id: str
    """Trajectory judged."""
    verdict: Literal["right", "wrong"] | None
    """The critic's word, `None` if it gave none."""
    confidence: float | None
    """Probability of "right" according to the critic, in [0, 1]."""
    fault: str = ""
    """What is wrong, in the critic's words."""
    advice: str = ""
    """What to do about it."""
    reason: str = "ok"
    """`ok`, or why there is no verdict."""


class TrainingExample(Frozen):
    """One row of curated data: a conversation whose assistant turns after the prompt are learned."""

    id: str
    """`content_id` of role, prompt and completion."""
    role: Role
    """Role it trains."""
    messages: tuple[Message, ...]
    """Prompt, without memory."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that the prompt offers, in OpenAI's form, for the chat template."""
    turns: tuple[Message, ...] = ()
    """What was said between prompt and completion: the assistant's calls, which are learned too, and their results."""
    completion: str
    """Text to learn (loss on it and on the end-of-turn token only)."""
    rejected: str = ""
    """A text that a person chose it over, empty for none; for methods that learn from preferences."""
    family: str = ""
    """Family of the task behind it."""
    source: str = ""
    """Trajectory or proposal it comes from."""
    weight: float = Field(default=1.0, gt=0)
    """Loss weight, relative to 1."""


class Canary(Frozen):
    """Log-probabilities that prove which weights a server holds.

    Computed by the trainer from the very weights it has just made, compared by delivery with what the server says for
    the same tokens.
    """

    token_ids: tuple[tuple[int, ...], ...]
    """Sequences of token ids: the fixed texts, then what the policy was trained on."""
    logprobs: tuple[tuple[float, ...], ...]
    """Log-probability (natural) of every token but the first, given those before it; shape [sequences][tokens - 1]."""


class PolicyFiles(Frozen):
    """A policy on disk: what delivery loads and what it is proved by."""

    number: int
    """Policy number; 0 is the base."""
    path: str
    """Directory with merged weights, config and tokenizer in Hugging Face format."""
    sha256: str
    """Hash of the weights files (names and bytes, in name order)."""
    canary: Canary
    """Made from these weights by whoever made them."""


class Proof(Frozen):
    """Evidence that the server answers with a policy."""

    to_trainer: float
    """Largest absolute log-probability difference between server and trainer over the compared canary tokens, nats."""
    to_trainer_mean: float
    """Mean of the same, nats."""
    to_previous: float | None
    """Largest absolute difference between the server after and before the load, nats; `None` if nothing was served."""
    to_previous_mean: float | None
    """Mean of the same, nats."""


class DeliveryRecord(Frozen):
    """One proved delivery."""

    policy: int
    """Policy now served."""
    previous: int | None
    """Policy served before."""
    kind: Literal["start", "train", "switch", "rollback", "recover"]
    """Why: server start, fresh from the trainer, a change for evaluation, the gate's rollback, after a crash."""
    seconds: float
    """From `training finished` (kind `train`) or from the request to the end of the proof, seconds."""
    proof: Proof
    """Evidence."""
