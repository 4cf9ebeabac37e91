"""What memory holds: demonstrations, lessons and skills, and the records that other LangGraph agents keep in it.

Each is a frozen model with a `kind`. All share where they belong (scope, environment, family), when they were made and
what they rest on; each says by which text it is found, and what would make it unfit to be kept.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, TypeAdapter

from autotelic.core.words import Frozen, Message, Task, content_id

__all__ = [
    "HARMFUL",
    "NOTES",
    "STORE",
    "Demonstration",
    "Item",
    "Kind",
    "Lesson",
    "MemoryItem",
    "Record",
    "Skill",
    "read_item",
    "record_id",
    "record_scope",
]

Kind = Literal["demonstration", "lesson", "skill", "record"]

RUN = "run"
"""Scope of what belongs to one run alone."""
STORE = "store"
"""Above the scopes of all records."""
NOTES = "notes"
"""First name of the namespaces of the notes that agents keep; the rest is the scope they were kept in."""
HARMFUL = "harmful"
"""Why an item was retired that made attempts worse: what has its content is refused from then on."""


class Item(Frozen):
    """What all kinds share."""

    id: str
    """Unique; the same id is the same item and is stored once."""
    scope: str = RUN
    """Whose it is: `run`, or a path such as `project/NAME` or `user/NAME`. A search names the scopes it may see."""
    environment: str = ""
    """Environment it is about, empty for any."""
    family: str = ""
    """Family of tasks it is about, empty for any."""
    round: int = 0
    """Round it was made in; it can be seen from the next round on."""
    policy: int = 0
    """Policy that made it; 0 is the base."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What it is found by."""

    @property
    @abstractmethod
    def prompt(self) -> str:
        """What it adds to a prompt, for the budget of tokens."""

    @property
    @abstractmethod
    def content(self) -> str:
        """Equal for exact duplicates."""

    @property
    @abstractmethod
    def fault(self) -> str:
        """Why it may not be remembered; empty if it may: only verified experience is kept."""


class Demonstration(Item):
    """A solved example."""

    kind: Literal["demonstration"] = "demonstration"
    task_id: str
    """Task it solves."""
    question: str
    """What the solver was asked; what demonstrations are found by."""
    answer: str
    """What it answered, as it should stand in a prompt."""
    score: float
    """Checker's score, in [0, 1]."""
    trajectory_id: str
    """Trajectory it comes from, empty for a real example."""
    turns: tuple[Message, ...] = ()
    """Calls of tools and their results, between question and answer."""
    said: str = ""
    """The last turn as it was said, where that is more than the answer."""

    @property
    def text(self) -> str:
        """The question."""
        return self.question

    @property
    def prompt(self) -> str:
        """All turns."""
        return "\n".join(message.content for message in self.messages)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The example as it should stand in a prompt."""
        said = Message(role="assistant", content=self.said or self.answer)
        return (Message(role="user", content=self.question), *self.turns, said)

    @property
    def content(self) -> str:
        """Environment, family, question and answer."""
        return content_id(self.environment, self.family, self.question, self.answer)

    @property
    def fault(self) -> str:
        """A demonstration has to be right."""
        return "" if self.score >= 1.0 else f"its score is {self.score:g}; only right answers are demonstrations"

    @classmethod
    def of(cls, task: Task) -> Demonstration:
        """Make the example of a real task, whose answer is known."""
        return cls(
            id=f"real/{task.id}",
            task_id=task.id,
            environment=task.environment,
            family=task.family,
            question=task.question,
            answer=str(task.answer),
            score=1.0,
            trajectory_id="",
        )


class Lesson(Item):
    """Advice drawn from what went right and wrong.

    Source: arXiv 2303.11366, "Reflexion"; arXiv 2308.10144, "ExpeL: LLM Agents Are Experiential Learners".
    """

    kind: Literal["lesson"] = "lesson"
    situation: str
    """When it holds: a question, or a description of such questions. What lessons are found by."""
    advice: str
    """What to do then, one or two sentences."""
    right: tuple[str, ...] = ()
    """Trajectories that succeeded, which it rests on."""
    wrong: tuple[str, ...] = ()
    """Trajectories that failed, which it rests on."""

    @property
    def text(self) -> str:
        """Situation and advice."""
        return f"{self.situation}\n{self.advice}"

    @property
    def prompt(self) -> str:
        """The advice."""
        return self.advice

    @property
    def content(self) -> str:
        """Environment, family and advice: the same advice drawn twice is one lesson."""
        return content_id("lesson", self.environment, self.family, " ".join(self.advice.lower().split()))

    @property
    def fault(self) -> str:
        """A lesson has to rest on trajectories that a checker has judged."""
        if not self.advice.strip():
            return "it has no advice"
        return "" if self.right or self.wrong else "it rests on no judged trajectory"


class Skill(Item):
    """A tool that the model made: a Python function that runs in the sandbox only.

    Source: arXiv 2305.17126, "Large Language Models as Tool Makers"; arXiv 2305.16291, "Voyager".
    """

    kind: Literal["skill"] = "skill"
    name: str
    """Name of the function and of the tool."""
    description: str
    """What it does and when it helps: the docstring. What skills are found by."""
    code: str
    """Python source that defines the function; standard library only."""
    parameters: dict[str, Any]
    """JSON schema of the arguments, an object."""
    tests: tuple[tuple[dict[str, Any], Any], ...] = ()
    """Pairs of arguments and the expected result (JSON), which the code passed in the sandbox."""
    version: int = 1
    """Counts up with each new code under the same name."""
    parent: str = ""
    """Id of the version before."""
    gain: tuple[float, float, float] | None = None
    """What matched rollouts showed: accuracy with it minus without it, and the interval's ends; `None`: unknown."""
    pinned: bool = False
    """Kept by a person, whatever is measured."""

    @property
    def text(self) -> str:
        """Name and description."""
        return f"{self.name}\n{self.description}"

    @property
    def prompt(self) -> str:
        """Name, description and schema."""
        return f"{self.text}\n{self.parameters}"

    @property
    def content(self) -> str:
        """Name and code."""
        return content_id("skill", self.name, self.code)

    @property
    def fault(self) -> str:
        """A skill has to have shown a gain, or a person has to want it."""
        if not self.tests:
            return "it has no tests that it passed"
        if self.pinned or (self.gain is not None and self.gain[1] > 0):
            return ""
        return "matched rollouts have shown no gain"


class Record(Item):
    """What another agent keeps through LangGraph's store: any JSON object under a namespace and a key.

    It is the agent's own and no experience of ours: never shown to the solver.
    """

    kind: Literal["record"] = "record"
    key: str
    """Key within the namespace."""
    namespace: tuple[str, ...]
    """Path of names."""
    value: dict[str, Any]
    """The object."""
    indexed: str = ""
    """Text it is found by; empty: only by its key."""
    created_at: str
    """Time in ISO 8601."""
    updated_at: str
    """Time in ISO 8601."""

    @classmethod
    def of(
        cls, namespace: tuple[str, ...], key: str, value: Mapping[str, Any], indexed: str = "", created_at: str = ""
    ) -> Record:
        """Make the record of a namespace and a key, written now; `created_at` is when it was first, by default now."""
        now = datetime.now(UTC).isoformat()
        return cls(
            id=record_id(namespace, key),
            scope=record_scope(namespace),
            key=key,
            namespace=namespace,
            value=dict(value),
            indexed=indexed,
            created_at=created_at or now,
            updated_at=now,
        )

    def placed(self, namespace: tuple[str, ...], key: str) -> Record:
        """Return it under another namespace and key."""
        place = {"namespace": namespace, "key": key}
        ids = {"id": record_id(namespace, key), "scope": record_scope(namespace)}
        return self.model_copy(update=place | ids)

    @property
    def text(self) -> str:
        """What the writer wanted indexed."""
        return self.indexed

    @property
    def prompt(self) -> str:
        """Nothing: it does not go into prompts."""
        return ""

    @property
    def content(self) -> str:
        """Its id: records are never duplicates of each other."""
        return content_id("record", self.id)

    @property
    def fault(self) -> str:
        """Nothing is asked of it."""
        return ""


def record_scope(namespace: tuple[str, ...]) -> str:
    """Return the scope of the records of a namespace."""
    return "/".join([STORE, *(quote(label, safe="") for label in namespace)])


def record_id(namespace: tuple[str, ...], key: str) -> str:
    """Return the id of the record of a namespace and a key."""
    return f"{STORE}/{content_id(namespace, key)}"


MemoryItem = Annotated[Demonstration | Lesson | Skill | Record, Field(discriminator="kind")]

_adapter: TypeAdapter[Demonstration | Lesson | Skill | Record] = TypeAdapter(MemoryItem)


def read_item(text: str | bytes) -> Demonstration | Lesson | Skill | Record:
    """Read an item from JSON.

    Raises:
        ValidationError: it is none.
    """
    return _adapter.validate_json(text)
