"""Procedural tasks of the `reasoning_gym` package, judged by the package's own scorers.

A proposer chooses family and difficulty; the instance is drawn from the proposal's seed. A task is family, level, seed:
its entry is made again when an answer is judged, compared with the question and answer on record, and handed to the
dataset's own scorer. Some of those scorers run an answer through `eval` or sympy's parser, which would let a model run
code or compute without end here; `_gym_scorers` and `_gym_apart` take that away and nothing else.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Literal, cast

from pydantic import Field

from autotelic.core.errors import EnvironmentFailure, MissingPackage, UsageError
from autotelic.core.words import Frozen, Message, Origin, Proposal, Rejection, Task
from autotelic.environments._gym_apart import Apart
from autotelic.environments._gym_levels import DEFAULT_FAMILIES, FORMS, LEVELS, REGEXES, UNUSABLE
from autotelic.environments._gym_scorers import Scorer
from autotelic.environments.base import Checked, fewer_than_asked, parse_config, plain_answer, shares, solved

__all__ = ["FamilyConfig", "ReasoningGym", "ReasoningGymConfig"]

_INDICES = 2**31
"""Datasets seed each item with `dataset seed + index`: with the former fixed at 0, the index is the task's seed."""
_TRIES = 40
"""Draws per task that is still missing before a family counts as exhausted."""
_CURRICULUM_LEVELS = 4
_PROPOSE = "You write exercises for a student. Reply with one JSON object that names a family and a difficulty."


class FamilyConfig(Frozen):
    """How hard one family's levels are."""

    levels: tuple[dict[str, Any], ...] | None = Field(default=None, min_length=1)
    """Dataset parameters by difficulty; `None` is the built-in table, or else the package's curriculum."""


class ReasoningGymConfig(Frozen):
    """The `environment` section of a config."""

    name: Literal["reasoning_gym"] = "reasoning_gym"
    """Always `reasoning_gym`."""
    families: dict[str, FamilyConfig] | tuple[str, ...] = Field(default=DEFAULT_FAMILIES, min_length=1)
    """Families in use: a list of names, or names with levels of your own."""


@dataclass(frozen=True)
class _Level:
    """One dataset object: a family at a difficulty."""

    dataset: Any
    indices: int
    scorer: Scorer


class ReasoningGym:
    """Environment over any set of `reasoning_gym` families.

    Args:
        config: the `environment` section of the user's config.

    Raises:
        UsageError: a family is unknown or unusable, or its parameters are refused by the package.
        MissingPackage: `reasoning_gym` is not installed.
    """

    name = "reasoning_gym"
    sandbox: str | None = None

    def __init__(self, config: Mapping[str, Any], *, sandbox: str = "auto") -> None:  # noqa: ARG002 (runs no code)
        self.config = parse_config(ReasoningGymConfig, config)
        chosen = self.config.families
        configs = dict(chosen) if isinstance(chosen, dict) else {family: FamilyConfig() for family in chosen}
        self.families = list(configs)
        self._levels = {family: _family_levels(family, configs[family].model_dump_json()) for family in configs}
        self._entry = lru_cache(maxsize=8192)(self._make_entry)
        self._apart = Apart()

    async def open(self) -> None:
        """Nothing to take."""

    async def aclose(self) -> None:
        """End the process that scores integrals, if one runs."""
        await asyncio.to_thread(self._apart.close)

    def levels(self, family: str) -> int:
        """Number of difficulties of a family."""
        return len(self._levels[family])

    def tasks(self, n: int, seed: int, difficulty: int | None = None) -> list[Task]:
        """See `Environment.tasks`; within a family, `None` spreads evenly over its levels."""
        rng = Random(f"tasks {seed}")
        found: list[Task] = []
        for family, share in shares(n, self.families, rng).items():
            found += self._family_tasks(family, share, Random(f"{family} {seed} {difficulty}"), difficulty)
        rng.shuffle(found)
        return found

    def _family_tasks(self, family: str, n: int, rng: Random, difficulty: int | None) -> list[Task]:
        top = len(self._levels[family]) - 1
        start = rng.randrange(top + 1)
        tasks: dict[str, Task] = {}
        for draw in range(n * _TRIES):
            if len(tasks) == n:
                break
            level = (start + draw) % (top + 1) if difficulty is None else min(max(difficulty, 0), top)
            task = self._task(family, level, rng.randrange(self._levels[family][level].indices), Origin.SUITE)
            if self._believes_itself(task):
                tasks.setdefault(task.question, task)
        if len(tasks) < n:
            raise EnvironmentFailure(fewer_than_asked(self.name, family, len(tasks), n))
        return list(tasks.values())

    def tools(self, task: Task) -> list[Any]:  # noqa: ARG002
        """No tools."""
        return []

    def system_prompt(self, task: Task) -> str:
        """See `Environment.system_prompt`."""
        return f"Reply with the answer only: {FORMS.get(task.family, 'nothing before it, nothing after it')}."

    def answer_regex(self, task: Task) -> str | None:
        """See `KnowsForm`."""
        return REGEXES.get(task.family)

    def parse(self, task: Task, text: str) -> str | None:  # noqa: ARG002
        """See `Environment.parse`."""
        return plain_answer(text)

    async def check(self, task: Task, answer: str | None) -> Checked:
        """Judge with the dataset's own scorer, on the very entry that the task was made from.

        Besides the usual reasons: `timeout` for an answer that takes too long to judge.
        """
        if answer is None or not answer.strip():
            return Checked(score=0.0, reason="empty")
        try:
            entry = self._entry(task.family, task.difficulty, task.seed)
            if entry["question"] != task.question or _key(entry) != json.loads(task.key):
                return _broken("the package now makes another task from this seed: levels or package have changed")
        except Exception as error:
            return _broken(f"{type(error).__name__}: {error}")
        return await self._judged(self._levels[task.family][task.difficulty].scorer, answer, entry)

    async def _judged(self, scorer: Scorer, answer: str, entry: dict[str, Any]) -> Checked:
        """Judge an answer; where the scorer breaks on it but not on the right one, the fault is the answer's."""
        try:
            checked = Checked.of(await self._scored(scorer, answer, entry))
        except TimeoutError as error:
            return Checked(score=0.0, reason="timeout", detail=str(error))
        except EnvironmentFailure as error:
            return _broken(str(error))
        except Exception as error:
            checked = _broken(f"{type(error).__name__}: {error}"[:200])
        if checked.score is None and _sound(scorer, entry):
            return Checked(score=0.0, reason="malformed", detail=checked.detail)
        return checked

    async def _scored(self, scorer: Scorer, answer: str, entry: dict[str, Any]) -> float:
        if scorer.unbounded:
            return await self._apart.score(scorer, answer, entry)
        return scorer(answer, entry)

    def proposal_prompt(self, rng: Random, demonstrations: int = 3) -> list[Message]:
        """See `Environment.proposal_prompt`; families stand in random order, so that the first is not favoured."""
        names = rng.sample(self.families, len(self.families))
        menu = ", ".join(f"{name} (0 to {self.levels(name) - 1})" for name in names)
        ask = Message(role="user", content="Write an exercise.")
        messages = [Message(role="system", content=f"{_PROPOSE} Families and difficulties: {menu}.")]
        for _ in range(demonstrations):
            family = rng.choice(self.families)
            text = _proposal(family, rng.randrange(self.levels(family)))
            messages += [ask, Message(role="assistant", content=text)]
        return [*messages, ask]

    def proposal_schema(self) -> dict[str, Any]:
        """See `Environment.proposal_schema`."""
        top = max(self.levels(family) for family in self.families)
        return {
            "type": "object",
            "properties": {
                "family": {"type": "string", "enum": self.families},
                "difficulty": {"type": "integer", "enum": list(range(top))},
            },
            "required": ["family", "difficulty"],
            "additionalProperties": False,
        }

    def proposal_text(self, task: Task) -> str:
        """See `Environment.proposal_text`."""
        return _proposal(task.family, task.difficulty)

    async def validate(self, proposal: Proposal) -> Task | Rejection:
        """Read family and difficulty, draw the instance from the proposal's seed, and have its own answer scored.

        Reasons: `not_json`, `malformed`, `unknown_family`, `unknown_difficulty`, `does_not_run`, `gold_fails`.
        """
        try:
            wish = json.loads(proposal.text)
        except (ValueError, RecursionError) as error:
            return Rejection(reason="not_json", detail=str(error))
        if not isinstance(wish, dict) or set(wish) != {"family", "difficulty"}:
            return Rejection(reason="malformed", detail="expected an object with family and difficulty, nothing else")
        family, difficulty = wish["family"], wish["difficulty"]
        if not isinstance(family, str) or family not in self._levels:
            return Rejection(reason="unknown_family", detail=f"{family!r} is none of {', '.join(self.families)}")
        if type(difficulty) is not int or not 0 <= difficulty < self.levels(family):
            return Rejection(
                reason="unknown_difficulty", detail=f"{difficulty!r} is not in 0 to {self.levels(family) - 1}"
            )
        return self._drawn(family, difficulty, proposal)

    def _drawn(self, family: str, difficulty: int, proposal: Proposal) -> Task | Rejection:
        index = Random(f"proposal {proposal.seed}").randrange(self._levels[family][difficulty].indices)
        try:
            task = self._task(family, difficulty, index, proposal.origin)
        except EnvironmentFailure as error:
            return Rejection(reason="does_not_run", detail=str(error))
        if not self._believes_itself(task):
            return Rejection(reason="gold_fails", detail="the scorer does not give the package's own answer full marks")
        return task

    def _believes_itself(self, task: Task) -> bool:
        """Whether the scorer accepts the package's own answer; some families make a task where it does not."""
        if task.answer is None:
            return True
        level = self._levels[task.family][task.difficulty]
        return solved(level.scorer(task.answer, self._entry(task.family, task.difficulty, task.seed)))

    def _task(self, family: str, difficulty: int, index: int, origin: Origin) -> Task:
        try:
            entry = self._entry(family, difficulty, index)
        except Exception as error:
            raise EnvironmentFailure(
                f"reasoning_gym could not make {family!r} at difficulty {difficulty} from seed {index}: "
                f"{type(error).__name__}: {error}. Change the family's levels or leave it out."
            ) from error
        return Task.make(
            environment=self.name,
            family=family,
            question=entry["question"],
            key=_key(entry),
            difficulty=difficulty,
            answer=_key(entry)["answer"],
            seed=index,
            origin=origin,
        )

    def _make_entry(self, family: str, difficulty: int, index: int) -> dict[str, Any]:
        return cast(dict[str, Any], self._levels[family][difficulty].dataset[index])


def _key(entry: dict[str, Any]) -> dict[str, Any]:
    """Private half of a task. It holds nothing of the seed, so that equal tasks have equal ids."""
    return {"answer": None if entry["answer"] is None else str(entry["answer"])}


def _proposal(family: str, difficulty: int) -> str:
    # As the server's guided decoding writes it: without white space.
    return json.dumps({"family": family, "difficulty": difficulty}, separators=(",", ":"))


def _broken(detail: str) -> Checked:
    return Checked(score=None, reason="checker_failed", detail=detail)


def _sound(scorer: Scorer, entry: dict[str, Any]) -> bool:
    """Whether a scorer works on this entry: it accepts the right answer or, where none is known, reads an empty one."""
    gold = _key(entry)["answer"]
    try:
        score = Checked.of(scorer(gold or "", entry)).score
    except Exception:
        return False
    return solved(score) if gold is not None else score is not None


@lru_cache(maxsize=256)
def _family_levels(family: str, config_json: str) -> list[_Level]:
    """Build a family's dataset objects, one a level, once in a process: they hold no state, and some read a dictionary.

    Args:
        family: its name.
        config_json: its `FamilyConfig`, as JSON because it is the key of the cache.
    """
    config = FamilyConfig.model_validate_json(config_json)
    try:
        from reasoning_gym.factory import CURRICULA, DATASETS
    except ImportError as error:
        raise MissingPackage("reasoning_gym", "gym") from error
    if family not in DATASETS:
        near = difflib.get_close_matches(family, DATASETS, n=5, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}?" if near else f"There are: {', '.join(sorted(DATASETS))}."
        raise UsageError(f"environment.families names {family!r}, which reasoning_gym does not have. {hint}")
    if family in UNUSABLE:
        raise UsageError(
            f"environment.families names {family!r}, which cannot be used: {UNUSABLE[family]}. Leave it out."
        )
    dataset_class, config_class = DATASETS[family]
    if config.levels is None and family not in LEVELS and family in CURRICULA:
        return [_level(dataset_class, c) for c in _curriculum(CURRICULA[family]())] or [
            _level(dataset_class, config_class(seed=0))
        ]
    levels = []
    for number, parameters in enumerate(config.levels or LEVELS.get(family) or [{}]):
        try:
            levels.append(_level(dataset_class, config_class(**{"seed": 0, **parameters})))
        except (TypeError, ValueError, AssertionError) as error:
            known = ", ".join(k for k in config_class.__dataclass_fields__ if k not in ("seed", "size"))
            raise UsageError(
                f"environment.families.{family}.levels.{number} is {parameters}, which reasoning_gym refuses: {error}. "
                f"Parameters: {known}."
            ) from error
    return levels


def _curriculum(curriculum: Any) -> list[Any]:
    """Config objects of the package's own curriculum, level by level; levels that it refuses itself are left out."""
    depth = max((len(a.levels) for a in curriculum.attributes.values()), default=1)
    configs = []
    for level in range(min(depth, _CURRICULUM_LEVELS)):
        curriculum.set_global_level(level)
        config = curriculum.generate_configuration({"seed": 0})
        with suppress(AssertionError, ValueError):
            if hasattr(config, "validate"):  # most have one
                config.validate()
            configs.append(config)
    return configs


def _level(dataset_class: Any, config: Any) -> _Level:
    dataset = dataset_class(config)
    return _Level(dataset=dataset, indices=_index_range(dataset), scorer=Scorer(dataset))


def _index_range(dataset: Any) -> int:
    """How many indices a dataset takes: nearly all take any, a few hold a list of fixed length."""
    try:
        dataset[_INDICES - 1]
    except IndexError:
        return len(dataset)
    except Exception:  # an unlucky draw, which `_task` reports when it matters
        return _INDICES
    return _INDICES
