"""Episodes per second: the whole solve graph with the ledger's write, against the same prompts sent with plain httpx.

    .venv/bin/python benchmarks/rollouts.py [--tasks 96] [--pairs 4] [--concurrency 32] [--samples 8]

Both talk to one vLLM server on the default model. A block sends every task once; blocks of the two alternate, who is
first changes with every pair, and the prefix cache is dropped before each. Tasks, seeds and sampling are the same in
all blocks. Plain means: the body, the answer's JSON, its texts, no more. The graph parses and judges every answer as
well, and has every episode in the ledger before it takes the next task.
Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from autotelic.agents import Solver
from autotelic.core.seeds import derive
from autotelic.core.words import PolicyFiles, Task
from autotelic.environments import Environment, make_environment
from autotelic.graphs.acquire import episodes
from autotelic.graphs.solve import SolveState, build_solve
from autotelic.memory import Demonstration
from autotelic.serving import ModelFiles, PolicyServer, Sampling, ServingConfig, resolve_model
from autotelic.store import EpisodeRow, Ledger
from autotelic.training import Card, Trainer, read_policy, write_card

MAX_TOKENS = 24
DEMONSTRATIONS = 3
POOL = 8
"""Solved examples of each family that demonstrations are drawn from, as many as a run's memory starts with."""


@dataclass
class Work:
    """What both sides do."""

    server: PolicyServer
    ledger: Ledger
    solver: Solver
    states: list[SolveState]
    concurrency: int
    texts: dict[str, list[list[str]]] = field(default_factory=lambda: {"graph": [], "httpx": []})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"graph": [], "httpx": []})
    """Seconds that this process (not the server) computed in each block."""

    async def each(self, work: Callable[[SolveState], Awaitable[Any]]) -> None:
        """Run `work` over all states, `concurrency` at once."""
        queue = iter(self.states)

        async def pull() -> None:
            for state in queue:
                await work(state)

        await asyncio.gather(*[pull() for _ in range(self.concurrency)])


def make_states(environment: Environment, tasks: int, samples: int) -> list[SolveState]:
    """Draw tasks, and for each of them solved examples of its family."""
    pool: dict[str, list[Task]] = {}
    for task in environment.tasks(POOL * len(environment.families), seed=1):
        pool.setdefault(task.family, []).append(task)
    draw = random.Random(0)
    return [
        SolveState(
            task=task,
            sampling=Sampling(n=samples, seed=derive(0, "rollouts", task.id), max_tokens=MAX_TOKENS),
            recalled=[Demonstration.of(d) for d in draw.sample(pool[task.family], DEMONSTRATIONS)],
        )
        for task in environment.tasks(tasks, seed=2)
    ]


async def run_graph(work: Work, block: int) -> None:
    """Solve by the graph, each finished task written into the ledger at once, as the node `solve` does."""
    graph = build_solve(work.solver)

    async def roll_out(state: SolveState) -> None:
        work.ledger.add(episodes(block, 0, True, await graph.ainvoke(state)))

    await work.each(roll_out)
    rows = work.ledger.rows(EpisodeRow, round=block, order="id")
    work.texts["graph"].append([row.text for row in rows])


async def run_httpx(work: Work, block: int) -> None:  # noqa: ARG001 (the same for all blocks)
    """Send the same prompts with one httpx client."""
    process = work.server.server
    found: dict[str, str] = {}
    limits = httpx.Limits(max_connections=work.concurrency)
    async with httpx.AsyncClient(
        base_url=process.url, headers=process.headers, timeout=600, limits=limits, trust_env=False
    ) as client:

        async def send(state: SolveState) -> None:
            shown = [message for one in state["recalled"] if isinstance(one, Demonstration) for message in one.messages]
            sampling = state["sampling"]
            body = {
                "model": "policy",
                "messages": [m.openai() for m in work.solver.messages(state["task"], shown)],
                "n": sampling.n,
                "seed": sampling.seed,
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
            }
            answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()
            for choice in answer["choices"]:
                found[f"{state['task'].id}/{choice['index']}"] = choice["message"]["content"]

        await work.each(send)
    work.texts["httpx"].append([found[key] for key in sorted(found)])


async def measure(work: Work, pairs: int) -> dict[str, list[float]]:
    """Return episodes per second of every block."""
    rates: dict[str, list[float]] = {"graph": [], "httpx": []}
    sides = {"graph": run_graph, "httpx": run_httpx}
    process = work.server.server
    episodes_a_block = sum(state["sampling"].n for state in work.states)
    await run_httpx(work, -1)  # the first block pays for warming the server up
    work.texts["httpx"].clear()
    for pair in range(pairs):
        for name in sorted(sides, reverse=bool(pair % 2)):
            async with httpx.AsyncClient(base_url=process.url, headers=process.headers, trust_env=False) as client:
                (await client.post("/reset_prefix_cache")).raise_for_status()
            begun, computed = time.perf_counter(), time.process_time()
            await sides[name](work, pair)
            work.cpu[name].append(time.process_time() - computed)
            rates[name].append(episodes_a_block / (time.perf_counter() - begun))
    return rates


async def base_policy(model: ModelFiles, root: Path) -> PolicyFiles:
    """Fingerprint the model as policy-0."""
    async with Trainer(root / "trainer.log") as trainer:
        base = await trainer.prepare_base(Path(model.path))
    card = Card(number=0, parent=None, weights=str(Path(model.path).absolute()), sha256=base.sha256, canary=base.canary)
    write_card(root / "policy-0", card)
    return read_policy(root / "policy-0")


async def run(model: ModelFiles, root: Path, options: argparse.Namespace) -> tuple[Work, dict[str, list[float]]]:
    """Start the server, measure, stop it."""
    environment = make_environment({"name": "reasoning_gym"})
    states = make_states(environment, options.tasks, options.samples)
    policy = await base_policy(model, root)
    server = PolicyServer(ServingConfig(), log=root / "vllm.log")
    ledger = Ledger(root / "ledger.sqlite")
    try:
        await server.start(policy)
        ledger.add_tasks(state["task"] for state in states)
        work = Work(server, ledger, Solver(server.gateway, environment), states, options.concurrency)
        return work, await measure(work, options.pairs)
    finally:
        await server.stop()
        ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=96)
    parser.add_argument("--samples", type=int, default=8, help="answers to each task")
    parser.add_argument("--concurrency", type=int, default=32, help="tasks in flight at once")
    parser.add_argument("--pairs", type=int, default=4, help="blocks of each side")
    options = parser.parse_args()
    model = resolve_model()
    with tempfile.TemporaryDirectory() as place:
        work, rates = asyncio.run(run(model, Path(place), options))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    cpu = {name: statistics.median(v) * 1000 / (options.tasks * options.samples) for name, v in work.cpu.items()}
    print(f"{'way':<8}{'blocks':>8}{'median/s':>10}{'least/s':>10}{'most/s':>10}{'client ms each':>16}")
    for name, values in rates.items():
        line = f"{name:<8}{len(values):>8}{medians[name]:>10.1f}{min(values):>10.1f}{max(values):>10.1f}"
        print(f"{line}{cpu[name]:>16.2f}")
    same = [
        a == b for ours, theirs in zip(*work.texts.values(), strict=True) for a, b in zip(ours, theirs, strict=True)
    ]
    summary = {
        "benchmark": "rollouts",
        "ratio": round(medians["graph"] / medians["httpx"], 3),
        "graph_episodes_per_second": round(medians["graph"], 1),
        "httpx_episodes_per_second": round(medians["httpx"], 1),
        "compared": "episodes/s through the solve graph, judged and in the ledger, against the same prompts by httpx",
        "client_ms_per_episode": {name: round(value, 2) for name, value in cpu.items()},
        "equal_answers": round(sum(same) / len(same), 3),
        "episodes_per_block": options.tasks * options.samples,
        "concurrency": options.concurrency,
        "model": model.source,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
