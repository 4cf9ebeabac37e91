"""Small real things with the faces of the heavy parts: a model server, a trainer and an embedder that fit a unit test.

A simulated policy is one number, its skill: the probability of a right answer. It stands in a weights file with a real
hash, so that any process that has the policy's directory can serve it. Everything that is answered depends on weights,
prompt, seed and sample alone. Training moves the skill by what the examples are worth: right labels raise it, wrong
ones lower it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import autotelic.graphs.session
import autotelic.graphs.source
from autotelic.core.dialect import answering
from autotelic.core.errors import DeliveryError, TrainingError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.registry import available, lookup, register
from autotelic.core.words import (
    Canary,
    Completion,
    DeliveryRecord,
    Message,
    PolicyFiles,
    Proof,
    Role,
    TrainingExample,
)
from autotelic.graphs import Config
from autotelic.memory.embedder import Vectors
from autotelic.serving import Gateway, Indistinguishable, Sampling, ServingConfig
from autotelic.serving.canary import TokenIds
from autotelic.serving.model import ModelFiles
from autotelic.training import (
    CanaryResult,
    Card,
    TrainingJob,
    TrainingResult,
    TrainingStep,
    read_card,
    read_examples,
    write_card,
)

__all__ = [
    "FAMILIES",
    "HashedWords",
    "ShufflingTrainer",
    "SimulatedServer",
    "SimulatedTrainer",
    "install",
    "right_answer",
    "small",
    "snapshot",
]

FAMILIES = ["gcd", "letter_counting", "chain_sum", "spell_backward"]
BASE_SKILL, HELP = 0.1, 0.4
WEIGHTS = "model.safetensors"


def right_answer(question: str) -> str:
    """Solve a task of the four families from its text, as a model with skill 1 would."""
    if found := re.search(r"these numbers: ([\d, ]+)\.", question):
        return str(int(np.gcd.reduce([int(n) for n in found[1].split(",")])))
    if found := re.search(r'letter "(.)" appear in the text: "(.*)"', question):
        return str(found[2].lower().count(found[1]))
    if found := re.search(r"problem: (.*) =", question):
        return str(sum(int(term.replace(" ", "")) for term in re.findall(r"(?:^|[+-] )-?\d+", found[1])))
    if found := re.search(r"nus\): (\w+)", question):
        return found[1][::-1]
    raise AssertionError(f"not a task of {FAMILIES}: {question}")


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


class SimulatedModel:
    """A back end whose answers are as good as the skill in the weights it has loaded."""

    calls_apart = False

    def __init__(self) -> None:
        self.skill, self.sha256 = 0.0, ""
        self.calls = 0

    def load(self, policy: PolicyFiles) -> None:
        self.skill = read_skill(Path(policy.path))
        self.sha256 = policy.sha256

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        self.calls += 1
        await asyncio.sleep(0)
        texts = [self._say(messages, sampling, sample) for sample in range(sampling.n)]
        return [
            Completion(
                text=text,
                finish_reason="stop",
                token_ids=tuple(text.encode()),
                prompt_tokens=sum(len(m.content.split()) for m in messages),
                completion_tokens=len(text),
                policy=policy,
            )
            for text in texts
        ]

    async def aclose(self) -> None:
        pass

    def _say(self, messages: Sequence[Message], sampling: Sampling, sample: int) -> str:
        asked = [m.content for m in messages]
        drawn = (sampling.seed, sample) if sampling.temperature else ()  # greedy is greedy
        rng = random.Random(repr((self.skill, [m.content for m in messages if m.role != "system"], drawn)))
        if sampling.tools:
            question = [m.content for m in messages if m.role == "user"][-1]
            if messages[-1].role != "tool":
                called = [{"tool": name, "arguments": {"question": question}} for name in ("oracle", "send")]
                return json.dumps({"calls": called}, separators=(",", ":"))
            told = next(m.content for m in messages[::-1] if m.role == "tool" and m.content[:4] != "send")
            heeds = rng.random() < min(0.95, self.skill + HELP * (asked.count(question) < len(asked) - 5))
            return answering(told if heeds else _wrong(told, rng))
        if sampling.schema is not None:
            parts = {k: _drawn(v, rng) for k, v in sampling.schema["properties"].items()}
            return json.dumps(parts, separators=(",", ":"))
        if sampling.stop:  # a thought, not an answer
            return "Look again."
        right = right_answer(asked[-1])
        helped = len(messages) > 2
        return right if rng.random() < min(0.95, self.skill + HELP * helped) else _wrong(right, rng)


def _drawn(schema: dict[str, Any], rng: random.Random) -> Any:
    if "enum" in schema:
        return rng.choice(schema["enum"])
    return rng.random() < 0.5 if schema["type"] == "boolean" else rng.choice(["none", "the last step", "check it"])


def _wrong(right: str, rng: random.Random) -> str:
    if right.lstrip("-").isdigit():
        return str(int(right) + rng.randint(1, 9))
    return right[::-1] if right != right[::-1] else right + "e"


class SimulatedServer:
    """The face of `PolicyServer`. Weights that are not their card's are refused, as there."""

    def __init__(
        self, config: ServingConfig, *, log: Path, on_record: Callable[[DeliveryRecord], None] | None = None
    ) -> None:
        self.on_record = on_record
        self.model = SimulatedModel()
        self.gateway = Gateway(self.model, concurrency=config.max_num_seqs)
        self.gateway.block("no policy is served: the server was not started.")
        self.running = False

    @property
    def policy(self) -> int | None:
        return self.gateway.policy

    async def start(self, policy: PolicyFiles) -> DeliveryRecord:
        return await self.deliver(policy, kind="start")

    async def deliver(
        self, policy: PolicyFiles, *, kind: Any = "switch", finished_at: float | None = None
    ) -> DeliveryRecord:
        begun = finished_at or time.time()
        async with self.gateway.writing():
            previous, self.running = self.policy, True
            if (found := sha256_of_weights(policy.path)) != policy.sha256:
                self.gateway.block(f"policy-{policy.number} was not delivered")
                raise DeliveryError(
                    f"policy-{policy.number} is not delivered: its weights hash to {found[:16]}, its card says "
                    f"{policy.sha256[:16]}. Train again or roll back to the champion."
                )
            if kind == "train" and policy.sha256 == self.model.sha256:
                self.gateway.block(f"policy-{policy.number} was not delivered")
                raise Indistinguishable(f"policy-{policy.number} cannot be told from policy-{previous}.")
            self.model.load(policy)
            self.gateway.unblock(policy.number)
        moved = None if previous is None else 0.5
        record = DeliveryRecord(
            policy=policy.number,
            previous=previous,
            kind=kind,
            seconds=max(0.0, time.time() - begun),
            proof=Proof(to_trainer=0.1, to_trainer_mean=0.01, to_previous=moved, to_previous_mean=moved),
        )
        if self.on_record is not None:
            self.on_record(record)
        return record

    async def foresee(self, token_ids: TokenIds) -> None:
        assert token_ids and token_ids[0]

    async def stop(self) -> None:
        self.gateway.block("no policy is served: the server was stopped.")
        self.running = False


class SimulatedTrainer:
    """The face of `Trainer`: a policy directory appears whole or not at all, and the same job is not done twice."""

    fail: ClassVar[str | None] = None
    """A message to fail with."""
    spoil: ClassVar[bool] = False
    """Whether to change the weights after they were hashed."""
    idle: ClassVar[bool] = False
    """Whether to learn nothing."""

    def __init__(self, log: Path, threads: int | None = None, timeout: float = 600.0) -> None:
        self.log = log

    async def __aenter__(self) -> SimulatedTrainer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def warm(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def check(self, method: str, settings: Mapping[str, Any], plugins: Sequence[str] = ()) -> None:
        if method not in available("method"):
            lookup("method", method)

    async def prepare_base(self, path: Path) -> CanaryResult:
        return CanaryResult(sha256=sha256_of_weights(path), canary=_canary(read_skill(path)))

    def read(self, path: Path) -> list[TrainingExample]:
        return read_examples(path)

    async def train(
        self,
        job: TrainingJob,
        on_progress: Callable[[TrainingStep], None] | None = None,
        on_canary: Callable[[tuple[int, ...]], None] | None = None,
    ) -> TrainingResult:
        examples = self.read(Path(job.examples))
        out, identity = Path(job.out), job.identity(examples)
        if (out / "card.json").exists() and (done := read_card(out).result) is not None and done.job == identity:
            return done
        if on_canary is not None:
            on_canary(_canary(0.0).token_ids[0])
        if on_progress is not None:
            on_progress(TrainingStep(step=1, steps=1, loss=1.0, tokens=1, seconds=0.1))
        if self.fail is not None:
            raise TrainingError(f"{self.fail}. The champion is untouched; run the same command again to go on.")
        rows = [e for e in examples if e.role == Role.SOLVER and e.family != "chat"]
        said = [json.loads(e.completion)["answer"] if e.turns else e.completion for e in rows]
        share = sum(a == right_answer(e.messages[-1].content) for a, e in zip(said, rows, strict=True)) / max(
            1, len(rows)
        )
        skill = min(0.9, max(0.02, read_skill(Path(job.base)) + 0.4 * share - 0.2 * (1 - share)))
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "merged").mkdir(parents=True)
        write_skill(partial / "merged", skill, identity)
        if self.idle:
            shutil.copy(Path(job.base) / WEIGHTS, partial / "merged")
        result = TrainingResult(
            job=identity,
            sha256=sha256_of_weights(partial / "merged"),
            canary=_canary(skill),
            steps=1,
            tokens=len(rows),
            rows=len(examples),
            losses=(1.0,),
            seconds={"train": 0.1},
            finished_at=time.time(),
        )
        if self.spoil:
            write_skill(partial / "merged", skill, "spoiled")
        write_card(partial, _card(job, result, examples))
        partial.rename(out)
        return result


class ShufflingTrainer(SimulatedTrainer):
    """Sabotage: every example gets the completion of another one, of its own family where there is one."""

    def read(self, path: Path) -> list[TrainingExample]:
        examples = sorted(super().read(path), key=lambda one: (one.role, one.family, one.id))
        moved = [*examples[1:], *examples[:1]]
        return [a.model_copy(update={"completion": b.completion}) for a, b in zip(examples, moved, strict=True)]


def _card(job: TrainingJob, result: TrainingResult, examples: Sequence[TrainingExample]) -> Card:
    return Card(
        number=job.number,
        parent=job.parent,
        weights="merged",
        sha256=result.sha256,
        canary=result.canary,
        method=job.method,
        seed=job.seed,
        data_ids=tuple(e.id for e in examples),
        result=result,
    )


def _canary(skill: float) -> Canary:
    return Canary(token_ids=((1, 2, 3),), logprobs=((-2.0, skill - 3.0),))


def write_skill(directory: Path, skill: float, made_by: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS).write_text(json.dumps({"skill": round(skill, 6), "made_by": made_by}))


def read_skill(directory: Path) -> float:
    return float(json.loads((directory / WEIGHTS).read_text())["skill"])


@register("embedder", "hashed-words")
class HashedWords:
    """An embedder that counts words in 64 hashed boxes: alike are texts with the same words."""

    name = "hashed-words-64"
    dimension = 64

    async def embed(self, texts: list[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        rows[:, 0] = 0.1
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[int(chance(word) * self.dimension)] += 1
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    async def aclose(self) -> None:
        pass


def install(
    assign: Callable[[object, str, object], None], model: Path, trainer: type[SimulatedTrainer] = SimulatedTrainer
) -> None:
    """Put the simulated parts in the places where sessions and commands look for the heavy ones.

    Args:
        assign: `setattr`, or a test's `monkeypatch.setattr`.
        model: directory for the base policy; written if it is not there.
        trainer: which trainer.
    """
    write_skill(model, BASE_SKILL, "the base")

    def resolve(spec: str) -> ModelFiles:
        return ModelFiles(path=str(model), sha256=sha256_of_weights(model), source=f"simulated {spec}", revision="1")

    for module in (autotelic.graphs.session, autotelic.graphs.source):
        assign(module, "PolicyServer", SimulatedServer)
        assign(module, "Trainer", trainer)
        assign(module, "resolve_model", resolve)


def small(**changes: Any) -> Config:
    """A session of a second or two. `changes` are top-level keys; groups are merged."""
    tree: dict[str, Any] = {
        "environment": {"name": "reasoning_gym", "families": FAMILIES},
        "seed": 1,
        "rounds": 2,
        "patience": 20,
        "propose": {"tasks": 20, "group": 3},
        "solve": {"samples": 4, "bare": 0.25, "concurrency": 4},
        "memory": {"embedder": "hashed-words", "real": 3, "demonstrations": 2},
        "critique": {"episodes": 6, "samples": 2},
        "curate": {"min_examples": 4, "reviews": 6},
        "evaluate": {"fresh": 40, "frozen": 24, "sealed": 24, "regression": 8, "two_by_two": 8},
    }
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if isinstance(tree.get(key), dict) and isinstance(value, dict) else value
    return Config.model_validate(tree)


def snapshot(ledger: Path) -> dict[str, list[str]]:
    """Every row of a ledger as text, table by table, but for what time and attempts alone decide."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(ledger)) as db:
        db.row_factory = sqlite3.Row
        tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {t: sorted(_lasting(t, db.execute(f"SELECT * FROM {t}"))) for t in tables if t != "delivery"}


_PASSING = {
    "run": {"id", "started_at", "finished_at"},
    "policy": {"created_at"},
    "node": {"attempts", "seconds"},
    "refinement": {"seconds"},
}


def _lasting(table: str, rows: Any) -> Iterator[str]:
    for row in rows:
        kept = {k: row[k] for k in row.keys() if k not in _PASSING.get(table, ())}  # noqa: SIM118
        if table == "policy":
            card = json.loads(kept["card"])
            kept["card"] = {k: v for k, v in card.items() if k not in ("finished_at", "seconds")}
        if table == "node":
            kept["detail"] = json.loads(kept["detail"])
        yield json.dumps(kept, sort_keys=True)
