"""A run's ledger as a session would have written it, made through the ledger's public face from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotelic.core.words import Task
from autotelic.evaluation import GateConfig, bootstrap_seed, decide, paired_bootstrap
from autotelic.store import (
    AlarmRow,
    CritiqueRow,
    CurationRow,
    DeliveryRow,
    EpisodeRow,
    EvaluationRow,
    ExampleRow,
    GateRow,
    Ledger,
    NodeRow,
    PolicyRow,
    ProposalRow,
    RunRow,
)

FAMILIES = ("gcd", "letter_counting", "number_sequence", "spell_backward", "string_insertion")
HOSTILE = "<script>alert('owned')</script><img src=x onerror=alert(1)>"
SYSTEM = "Answer with the result only."


def make_task(rng: random.Random, family: str) -> Task:
    word = "".join(rng.choice("abcdelmnorst") for _ in range(rng.randint(4, 9)))
    if family == "gcd":
        factor = rng.choice([1, 1, 1, 2, 3, 6])
        a, b = factor * rng.randint(2, 400), factor * rng.randint(2, 400)
        question, answer = f"Find the greatest common divisor of these numbers: {a}, {b}.", str(math.gcd(a, b))
    elif family == "letter_counting":
        letter = rng.choice(word)
        question, answer = f'How many times does "{letter}" appear in "{word}"?', str(word.count(letter))
    elif family == "number_sequence":
        start, step = rng.randint(1, 900), rng.randint(2, 90)
        shown = ", ".join(str(start + i * step) for i in range(5))
        question, answer = f"What comes next? {shown}, ?", str(start + 5 * step)
    elif family == "spell_backward":
        question, answer = f"Spell this word backward: {word}{rng.randint(0, 99)}", word[::-1]
    else:
        question, answer = f"Insert the letters as told: {word.upper()}-{rng.randint(0, 999)}", word.upper() + "A"
    return Task.make(environment="reasoning_gym", family=family, question=question, key={"a": answer}, answer=answer)


class Maker:
    """Fills a ledger round by round; `skill[policy]` is how likely a zero-shot answer is right."""

    def __init__(self, root: Path, *, rounds: int, seed: int, fresh: int) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.rng, self.fresh = root, random.Random(seed), fresh
        self.ledger = Ledger(root / "ledger.sqlite")
        self.skill = {0: 0.02}
        self.champion = 0
        gate = {"confidence": 0.95}
        config = {"environment": {"name": "reasoning_gym"}, "seed": seed, "gate": gate, "rounds": rounds}
        run = RunRow(
            id="20261121-1", seed=seed, config=config, model_source="smollm2-135m-instruct", model_sha256="ab" * 32
        )
        run.started_at, run.finished_at, run.outcome = 1_795_000_000.0, 1_795_001_104.0, "rounds"
        run.sandbox, run.version = "bubblewrap", "0.1.0"
        self.ledger.add([run, self._policy(0, None, 0, "champion")])
        self.ledger.add_suite("frozen", self.tasks(60))
        self.ledger.add_suite("sealed", self.tasks(200))
        self.evaluate("frozen", 0, 0)
        self.node(0, "prepare", 71.0)
        self.deliver(0, 0, None, "start")

    def tasks(self, n: int) -> list[Task]:
        return list({t.id: t for t in (make_task(self.rng, FAMILIES[i % 5]) for i in range(n))}.values())

    def _policy(self, number: int, parent: int | None, round: int, state: str) -> PolicyRow:
        return PolicyRow(
            number=number, parent=parent, round=round, state=state, path=f"policies/policy-{number}",
            sha256=f"{number:x}" * 64, method="sft" if number else "", card={},
        )  # fmt: skip

    def node(self, round: int, node: str, seconds: float) -> None:
        self.ledger.put(NodeRow(round=round, node=node, attempts=1, seconds=seconds, done=True, detail={}))

    def deliver(self, round: int, policy: int, previous: int | None, kind: str) -> None:
        row = DeliveryRow(
            round=round, policy=policy, previous=previous, kind=kind, to_trainer_mean=0.004,
            seconds=self.rng.uniform(0.6, 1.3) + (48 if kind == "start" else 0),
            to_trainer=self.rng.uniform(0.03, 0.08),
            to_previous=None if previous is None else self.rng.uniform(1, 4), to_previous_mean=0.3,
        )  # fmt: skip
        self.ledger.add([row])

    def evaluate(self, suite: str, round: int, policy: int, *, memory: bool = False, limit: int | None = None) -> None:
        rows = []
        hard = {"gcd": 1.6, "number_sequence": 1.3, "string_insertion": 0.9, "spell_backward": 0.5}
        for task in self.ledger.suite(suite, round=round)[:limit]:
            chance = min(0.97, self.skill[policy] * hard.get(task.family, 0.7) + (0.14 if memory else 0))
            right = random.Random(f"{task.id}{policy}{memory}").random() < chance
            rows.append(
                EvaluationRow(
                    suite=suite, round=round, policy=policy, memory=memory, task_id=task.id, family=task.family,
                    text=str(task.answer) if right else "I am not sure.", answer=task.answer if right else "7",
                    score=float(right), reason="ok" if right else "wrong", completion_tokens=self.rng.randint(3, 20),
                )
            )  # fmt: skip
        self.ledger.add(rows)

    def play(self, round: int, *, train: bool = True) -> None:
        self.ledger.add_suite("fresh", self.tasks(self.fresh), round=round)
        self._propose_and_solve(round)
        for node, seconds in zip(("propose", "solve", "critique", "curate"), (14.0, 92.0, 16.0, 9.0), strict=True):
            self.node(round, node, seconds * self.rng.uniform(0.8, 1.2))
        if train:
            self._train_and_judge(round)
        self.node(round, "gate", 1.4)

    def _propose_and_solve(self, round: int) -> None:
        rows: list[ProposalRow] = []
        solved: list[EpisodeRow] = []
        for index in range(60):
            task = make_task(self.rng, FAMILIES[index % 5])
            reason = self.rng.choices(["ok", "duplicate", "unknown_family", "not_json"], [7, 1, 1, 1])[0]
            origin = "explore" if index < 15 else "proposer"
            reason = "ok" if origin == "explore" else reason
            rows.append(
                ProposalRow(
                    id=f"r{round}/propose/{index}", round=round, index=index, origin=origin, policy=self.champion,
                    messages=[], text="{}", seed=index, reason=reason, family=task.family if reason == "ok" else "",
                    task_id=task.id if reason == "ok" else None,
                )
            )  # fmt: skip
            if reason == "ok":
                self.ledger.add_tasks([task])
                solved += [self._episode(round, task, sample) for sample in range(4)]
        self.ledger.add([*rows, *solved])
        self._curate(round, solved)

    def _episode(self, round: int, task: Task, sample: int) -> EpisodeRow:
        right = self.rng.random() < 0.2 + self.skill[self.champion] * 0.5
        cut = not right and self.rng.random() < 0.2
        text = str(task.answer) if right else f"The answer is {HOSTILE}" if sample == 3 else "Let me think. It is 12."
        shown = [
            {"role": role, "content": text}
            for i in range(3)
            for role, text in (("user", f"Find the greatest common divisor of {6 * (i + 1)}, 9."), ("assistant", "3"))
        ]
        bare = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task.question}]
        return EpisodeRow(
            id=f"r{round}/solve/{task.id}/memory/{sample}", round=round, task_id=task.id, family=task.family,
            policy=self.champion, sample=sample, messages=[bare[0], *shown, bare[1]], bare_messages=bare, text=text,
            finish_reason="length" if cut else "stop", token_ids=[1, 2], prompt_tokens=90, completion_tokens=6,
            answer=str(task.answer) if right else "12", score=1.0 if right else 0.0,
            reason="ok" if right else "truncated" if cut else "wrong", memory_ids=["d1", "d2", "d3"], seed=sample,
        )  # fmt: skip

    def _curate(self, round: int, episodes: list[EpisodeRow]) -> None:
        rows: list[CurationRow | ExampleRow | CritiqueRow] = []
        for i, episode in enumerate(episodes):
            right = episode.score == 1.0
            reason = self.rng.choices(["kept", "near_duplicate", "outside_band", "contaminated"], [6, 2, 2, 0.3])[0]
            reason = reason if right else "not_verified"
            rows.append(
                CurationRow(
                    round=round, item_id=episode.id, role="solver", family=episode.family, kept=reason == "kept",
                    reason="ok" if reason == "kept" else reason,
                )
            )  # fmt: skip
            if reason == "kept":
                origin = self.rng.choices(["new", "replay", "real"], [6, 3, 1])[0]
                rows.append(
                    ExampleRow(
                        round=round, id=f"e{i}", position=i, role="solver", messages=episode.bare_messages,
                        completion=episode.text, family=episode.family, source=episode.id, weight=1.0, origin=origin,
                        task_id=episode.task_id, question="",
                    )
                )  # fmt: skip
            if i % 6 == 0:
                sure = min(1.0, max(0.0, self.rng.gauss(0.55 if right else 0.45, 0.2)))
                rows.append(
                    CritiqueRow(
                        trajectory_id=episode.id, round=round, policy=self.champion, family=episode.family,
                        verdict="right" if sure > 0.5 else "wrong", confidence=sure, fault="may be off by one",
                        advice="check the last step", truth=episode.score,
                    )
                )  # fmt: skip
        self.ledger.add(rows)

    def _train_and_judge(self, round: int) -> None:
        old, new = self.champion, max(self.skill) + 1
        self.skill[new] = self.skill[old] + (0.19, 0.07, -0.06, 0.05, 0.02)[(round - 1) % 5]
        self.ledger.add([self._policy(new, old, round, "candidate")])
        self.deliver(round, new, old, "train")
        past = self.ledger.suite("fresh", round=round - 1)[:25] if round > 1 else []
        self.ledger.add_suite("regression", past, round=round)
        for policy in (old, new):
            self.evaluate("fresh", round, policy)
            self.evaluate("frozen", 0, policy)
            self.evaluate("regression", round, policy)
            self.evaluate("fresh", round, policy, memory=True, limit=60)
        for node, seconds in (("train", 74.0), ("deliver", 1.2), ("evaluate", 58.0)):
            self.node(round, node, seconds * self.rng.uniform(0.8, 1.2))
        self._gate(round, old, new)

    def _gate(self, round: int, old: int, new: int) -> None:
        found: dict[str, Any] = {}
        for suite, of in (("fresh", round), ("frozen", 0), ("regression", round)):
            sides = [
                {
                    r.task_id: r.score
                    for r in self.ledger.rows(EvaluationRow, suite=suite, round=of, policy=p, memory=False)
                }
                for p in (old, new)
            ]
            shared = sorted(set(sides[0]) & set(sides[1]))
            run = self.ledger.rows(RunRow)[0]
            found[suite] = paired_bootstrap(
                [sides[0][t] for t in shared], [sides[1][t] for t in shared], seed=bootstrap_seed(run.seed)
            )
        decision = decide(GateConfig(), **found)
        evidence = {k: v.model_dump() if v else None for k, v in found.items()}
        row = GateRow(
            round=round, champion=old, candidate=new, promoted=decision.promote, reasons=list(decision.reasons),
            evidence=evidence,
        )  # fmt: skip
        self.ledger.add([row])
        if decision.promote:
            self.ledger.crown(new)
            self.champion = new
        else:
            self.ledger.put(self._policy(new, old, round, "rejected"))
            self.deliver(round, old, new, "rollback")

    def finish(self, round: int) -> None:
        for policy in {0, self.champion}:
            self.evaluate("sealed", 0, policy)
        self.node(round, "finish", 26.0)

    def alarm(self, round: int) -> None:
        message = "62% of the episodes ran into the token limit, expected at most 50%. Raise solve.max_tokens."
        self.ledger.add([AlarmRow(round=round, name="truncation", value=0.62, limit=0.5, message=message)])


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., Maker]]:
    made: list[Maker] = []

    def make(*, rounds: int = 2, seed: int = 3, fresh: int = 100, finish: bool = True) -> Maker:
        maker = Maker(tmp_path / f"run-{rounds}-{seed}", rounds=rounds, seed=seed, fresh=fresh)
        for number in range(1, rounds + 1):
            maker.play(number)
        if finish:
            maker.finish(rounds)
        made.append(maker)
        return maker

    yield make
    for maker in made:
        maker.ledger.close()
