"""What memory is worth, and what it costs to look something up.

    .venv/bin/python benchmarks/memory.py [--tasks 300] [--items 1000,10000,100000] [--skip answers|speed]

*answers*: the default model answers new tasks greedily: bare, with three solved examples of the task's family drawn at
random from the memory, with the three nearest, and with those found by meaning and words together. The same tasks,
policy and server; paired bootstrap.

*speed*: a memory is filled to each size with tasks of six families, then searched: openly, in one family,
in a scope that holds one item in a hundred, and by meaning and words with variety. Milliseconds for one query, its
embedding cached. Vectors are made of hashed character trigrams, 384 numbers each, because embedding 100,000 texts would
take most of the time. `found` is the share of the ten truly nearest that Chroma alone finds.

Prints tables, and as its last line one JSON object; its `ratio` is the slowest search's p95 at the largest size over
that at the smallest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np

from autotelic.cli.bars import Bars
from autotelic.core.config import load_config
from autotelic.core.run_dir import RunDir
from autotelic.core.words import Task
from autotelic.environments import make_environment, solved
from autotelic.evaluation import paired_bootstrap
from autotelic.graphs import Config
from autotelic.graphs.acquire import unmet
from autotelic.graphs.evaluating import prepare
from autotelic.graphs.session import Session, open_session
from autotelic.graphs.solve import build_solve
from autotelic.memory import CachedEmbedder, Demonstration, Memory, Query
from autotelic.memory.embedder import Vectors
from autotelic.serving import Sampling

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
SEED = 80_001
"""Of the new tasks; no run uses it."""
SHOWN, REAL, QUERIES, K = 3, 40, 200, 10
FAMILIES = ["string_insertion", "word_sorting", "time_intervals", "letter_jumble", "base_conversion", "gcd"]
"""Families that do not run out of tasks."""


class Trigrams:
    """A text's character trigrams, each a random direction of its own."""

    name, dimension = "hashed trigrams", 384

    def __init__(self) -> None:
        self._directions = np.random.default_rng(0).normal(size=(4096, self.dimension)).astype(np.float32)

    async def embed(self, texts: list[str]) -> Vectors:
        """Return unit vectors."""
        rows = np.stack([self._directions[self._hashed(text)].sum(axis=0) for text in texts])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _hashed(self, text: str) -> list[int]:
        return [sum(ord(c) * 31**i for i, c in enumerate(gram)) % 4096 for gram in re.findall(r"(?=(...))", text)]


async def answers(count: int, bars: Bars) -> dict[str, Any]:
    """Measure accuracy with and without memory."""
    whole = load_config(Config, CONFIG, [f"memory.real={REAL}", "evaluate.sealed=24", "evaluate.frozen=24"])
    with tempfile.TemporaryDirectory() as scratch, RunDir(Path(scratch) / "run").create().held() as run:
        async with open_session(whole, run, bars) as s:
            await prepare(s)
            tasks = unmet(s, s.environment.tasks(2 * count, SEED))[:count]
            scores = {name: await _answered(s, tasks, shown) for name, shown in (await _arms(s, tasks)).items()}
            held = await s.memory.count()
    for name, own in scores.items():
        print(f"{name:>10} {np.mean(own):7.1%}")
    gains = {}
    for after, before in (("nearest", "bare"), ("nearest", "random"), ("both", "nearest")):
        found = paired_bootstrap(scores[before], scores[after])
        assert found is not None  # there are tasks
        gains[f"{after} - {before}"] = [round(100 * x, 1) for x in (found.gain, found.low, found.high)]
        gain, low, high = gains[f"{after} - {before}"]
        print(f"{after} - {before}: {gain:+.1f} [{low:+.1f}, {high:+.1f}] points")
    shares = {name: float(np.mean(own)) for name, own in scores.items()}
    return {"tasks": len(tasks), "items": held, "accuracy": shares, "gains": gains}


async def _arms(s: Session, tasks: list[Task]) -> dict[str, dict[str, list[Any]]]:
    queries = [Query(t.question, t.id, t.environment, t.family) for t in tasks]
    everything = await s.memory.all("demonstration")
    draw = random.Random(0)
    by_family = {t.family: [d for d in everything if d.family == t.family] for t in tasks}
    nearest = await s.memory.retrieve(queries, SHOWN)
    both = await s.memory.retrieve(queries, SHOWN, keywords=True)
    return {
        "bare": {t.id: [] for t in tasks},
        "random": {t.id: draw.sample(by_family[t.family], SHOWN) for t in tasks},
        "nearest": {t.id: found for t, found in zip(tasks, nearest, strict=True)},
        "both": {t.id: found for t, found in zip(tasks, both, strict=True)},
    }


async def _answered(s: Session, tasks: list[Task], shown: dict[str, list[Any]]) -> list[float]:
    graph, found = build_solve(s.solver), dict[str, float]()
    sampling = Sampling(temperature=0.0, max_tokens=s.config.solve.max_tokens)

    async def ask(task: Task) -> None:
        result = await graph.ainvoke({"task": task, "recalled": shown[task.id], "sampling": sampling})
        found[task.id] = float(solved(result["attempts"][0].score))

    await s.each("answers", tasks, ask)
    return [found[task.id] for task in tasks]


async def speed(sizes: list[int]) -> list[dict[str, Any]]:
    """Measure searches at each size."""
    environment = make_environment({"name": "reasoning_gym", "families": FAMILIES})
    source = enumerate(task for seed in range(10_000) for task in environment.tasks(1200, seed))
    questions = [task.question for task in environment.tasks(QUERIES, SEED)]
    families = [task.family for task in environment.tasks(QUERIES, SEED)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        embedder = CachedEmbedder(Trigrams(), Path(scratch) / "vectors.sqlite")
        memory = await Memory.open(Path(scratch) / "memory", embedder, limit=10**9)
        held = 0
        for size in sizes:
            begun = time.perf_counter()
            while held < size:
                part = list(islice(source, min(1000, size - held)))
                await memory.add([_item(task, number) for number, task in part])
                held = await memory.count()
            row = {
                "items": held,
                "seconds to fill": time.perf_counter() - begun,
                "found": await _found(memory, questions),
            }
            rows.append({**row, **await _timed(memory, questions, families)})
            print(
                "  ".join(f"{k} {v:,.3g}" if isinstance(v, float) else f"{k} {v:,}" for k, v in rows[-1].items()),
                flush=True,
            )
        await memory.aclose()
        await embedder.aclose()
    return rows


def _item(task: Task, number: int) -> Demonstration:
    scope = "run" if number % 100 else "user/ada"
    return Demonstration.of(task).model_copy(update={"id": f"{number}", "scope": scope})


async def _timed(memory: Memory, questions: list[str], families: list[str]) -> dict[str, float]:
    """Return p50 and p95 in milliseconds of each way of searching."""
    ways: dict[str, tuple[list[Query], dict[str, Any]]] = {
        "open": ([Query(q) for q in questions], {}),
        "family": ([Query(q, family=f) for q, f in zip(questions, families, strict=True)], {}),
        "scope": ([Query(q, scopes=("user/ada",)) for q in questions], {}),
        "words": ([Query(q) for q in questions], {"keywords": True, "variety": 0.3, "tokens": 500}),
    }
    found: dict[str, float] = {}
    for name, (queries, how) in ways.items():
        times = []
        await memory.retrieve(queries[:20], K, **how)  # warm
        for query in queries:
            begun = time.perf_counter()
            await memory.retrieve([query], K, **how)
            times.append(1000 * (time.perf_counter() - begun))
        cuts = quantiles(times, n=20)
        found |= {f"{name} p50": cuts[9], f"{name} p95": cuts[18]}
    return found


async def _found(memory: Memory, questions: list[str]) -> float:
    """Return the share of the truly nearest that Chroma finds."""
    truth, index = memory._truth, memory._index
    ids, held = truth.matrix(Query("").where())
    vectors = await Trigrams().embed(questions)
    hits = 0
    near = index.nearest(vectors, 4 * K)
    own = set(ids)
    for vector, row in zip(vectors, near, strict=True):
        best = {ids[i] for i in np.argsort(-(held @ vector))[:K]}
        hits += len(best & {id_ for _, id_ in row if id_ in own})
    return hits / (K * len(questions))


async def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description="What memory is worth and what it costs.")
    parser.add_argument("--tasks", type=int, default=300, help="new tasks")
    parser.add_argument("--items", default="1000,10000,100000", help="sizes of the memory")
    parser.add_argument("--skip", choices=["answers", "speed"], help="leave out one half")
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "memory"}
    if args.skip != "answers":
        with Bars() as bars:
            result |= await answers(args.tasks, bars)
    if args.skip != "speed":
        rows = await speed([int(n) for n in args.items.split(",")])
        p95 = [max(v for k, v in row.items() if k.endswith("p95")) for row in rows]
        result |= {"speed": rows, "p95_ms": p95[-1], "ratio": p95[-1] / p95[0]}
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
