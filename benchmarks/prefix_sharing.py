"""Prompt tokens that the server computes for strategies that ask much alike, against what sharing makes necessary.

    .venv/bin/python benchmarks/prefix_sharing.py [--tasks 24] [--strategies A,B]

What is computed is the server's own count: tokens looked up in its prefix cache less those found there. Necessary is
every token that is the first to follow its prefix, over all prompts of a strategy's run: what a cache that shares token
by token and forgets nothing would compute. The server shares whole blocks only, and every sample has to compute what
its last, unfinished block holds: `blocks` is what is necessary with that. The cache is dropped before each strategy.
Prints a table, and as its last line one JSON object; its `ratio` is the largest of computed over necessary by token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx

from autotelic.agents import Solver
from autotelic.cli.strategies import split_strategies
from autotelic.core.seeds import derive
from autotelic.environments import make_environment
from autotelic.refinement import Answer, Meter, Work, answer_task, build_strategy
from autotelic.serving import Gateway, LocalBackend, ServingConfig, VLLMServer, resolve_model

STRATEGIES = "best_of(n=8),tree_of_thoughts,monte_carlo(iterations=6)"
IN_FLIGHT = 8


async def computed(client: httpx.AsyncClient) -> int:
    """Return how many prompt tokens the server has computed since it started."""
    text = (await client.get("/metrics")).raise_for_status().text

    def total(name: str) -> float:
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}(_total)?[{{ ]", line))

    return round(total("vllm:prefix_cache_queries") - total("vllm:prefix_cache_hits"))


def necessary(prompts: Sequence[tuple[tuple[int, ...], int]], block: int) -> tuple[int, int]:
    """Return the prompt tokens that have to be computed where sharing is by token, and where it is by block.

    Args:
        prompts: token ids, and how many samples were asked for.
        block: tokens of a block.
    """
    known: set[tuple[int, ...]] = set()
    blocks: set[tuple[int, ...]] = set()
    rest = 0
    for ids, samples in prompts:
        known.update(ids[:end] for end in range(1, len(ids) + 1))
        whole = (len(ids) - 1) // block * block  # at least one token is always computed: the next one follows from it
        blocks.update(ids[:end] for end in range(block, whole + 1, block))
        rest += samples * (len(ids) - whole)
    return len(known), block * len(blocks) + rest


async def run(model: Path, log: Path, strategies: Sequence[str], count: int) -> dict[str, tuple[int, list[Answer]]]:
    """Answer the same tasks by each strategy; return what the server computed, and the answers."""
    environment = make_environment({"name": "reasoning_gym"})
    tasks = environment.tasks(count, seed=17)
    server = VLLMServer(ServingConfig(), log)
    found: dict[str, tuple[int, list[Answer]]] = {}
    try:
        await server.start(model)
        gateway = Gateway(LocalBackend(server.url, server.headers, "policy"))
        gateway.unblock(None)
        solver = Solver(gateway, environment)
        turn = asyncio.Semaphore(IN_FLIGHT)
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, trust_env=False) as client:
            for name in strategies:
                strategy = build_strategy(name)
                (await client.post("/reset_prefix_cache")).raise_for_status()
                before = await computed(client)

                async def answer(index: int) -> Answer:
                    work = Work(
                        task=tasks[index],
                        form=environment,
                        meter=Meter(gateway),
                        opening=solver.messages(tasks[index]),
                        max_tokens=24,
                        seed=derive(0, "sharing", index),
                    )
                    async with turn:
                        return await answer_task(strategy, work)  # noqa: B023 (awaited before the next one)

                answers = await asyncio.gather(*(answer(index) for index in range(count)))
                found[name] = (await computed(client) - before, answers)
        await gateway.aclose()
        return found
    finally:
        await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=24)
    parser.add_argument("--strategies", default=STRATEGIES)
    options = parser.parse_args()
    model = Path(resolve_model().path)
    with tempfile.TemporaryDirectory() as place:
        names = split_strategies(options.strategies)
        found = asyncio.run(run(model, Path(place) / "vllm.log", names, options.tasks))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    print(f"{'strategy':<32}{'prompts':>9}{'computed':>10}{'by token':>10}{'ratio':>7}{'by block':>10}{'ratio':>7}")
    ratios: dict[str, dict[str, float]] = {}
    for name, (count, answers) in found.items():
        prompts = []
        for step in (step for answer in answers for step in answer.steps):
            said = [message.openai() for message in step.messages]
            ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
            prompts.append((tuple(ids), len(step.completions)))
        tokens, blocks = necessary(prompts, block=32)
        ratios[name] = {"token": round(count / tokens, 3), "block": round(count / blocks, 3)}
        print(
            f"{name:<32}{sum(n for _, n in prompts):>9,}{count:>10,}{tokens:>10,}{ratios[name]['token']:>7.2f}"
            f"{blocks:>10,}{ratios[name]['block']:>7.2f}"
        )
    worst = max(one["token"] for one in ratios.values())
    print(
        json.dumps(
            {
                "benchmark": "prefix_sharing",
                "ratio": worst,
                "compared": "prompt tokens computed by the server against those necessary with sharing token by token",
                "ratios": ratios,
                "tasks": options.tasks,
            }
        )
    )


if __name__ == "__main__":
    main()
