"""What n-gram speculative decoding gains: generated tokens per second with `serving.guess_ahead` against without it.

    .venv/bin/python benchmarks/speculation.py [--ahead 4] [--turns 2]

Three kinds of answers, greedy: short ones to tasks (24 tokens), a text copied with small changes, and free text; each
with one request in flight and with 32. Servers of the two sides are started in turn, never side by side.
Prints a table, and as its last line one JSON object; its `ratio` is that of the copied text with one in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from autotelic.agents import Solver
from autotelic.core.words import Message
from autotelic.environments import make_environment
from autotelic.serving import Gateway, LocalBackend, Sampling, ServingConfig, VLLMServer, resolve_model

SPEECH = (
    "The harbour lies quiet in the morning. Fishermen mend their nets, gulls walk the wall, and the ferry waits for "
    "its first passengers. At nine the market opens: bread, cheese, fish and flowers. Children run between the stalls."
)
TOPICS = ("the sea", "a mountain", "bread", "a railway", "winter", "gardens", "a market", "music")


def workloads() -> dict[str, list[tuple[list[Message], int]]]:
    """Return prompts and their bounds, tokens, by kind."""
    environment = make_environment({"name": "reasoning_gym"})
    gateway = Gateway(LocalBackend("http://127.0.0.1", {}, ""))
    solver = Solver(gateway, environment)
    copies = [f"Repeat this text, word by word, with {name} in the place of Children:\n\n{SPEECH}" for name in TOPICS]
    return {
        "tasks": [(list(solver.messages(task)), 24) for task in environment.tasks(32, seed=5)],
        "copied": [([Message(role="user", content=text)], 96) for text in copies],
        "free": [([Message(role="user", content=f"Write a short story about {topic}.")], 96) for topic in TOPICS],
    }


async def speed(gateway: Gateway, asked: list[tuple[list[Message], int]], in_flight: int) -> tuple[float, list[str]]:
    """Return generated tokens per second, and the texts."""
    turn = asyncio.Semaphore(in_flight)

    async def one(messages: list[Message], most: int) -> tuple[int, str]:
        async with turn:
            (said,) = await gateway.complete(messages, Sampling(temperature=0.0, max_tokens=most))
        return said.completion_tokens, said.text

    begun = time.perf_counter()
    found = await asyncio.gather(*(one(*ask) for ask in asked))
    return sum(tokens for tokens, _ in found) / (time.perf_counter() - begun), [text for _, text in found]


async def side(ahead: int, model: Path, log: Path) -> dict[str, tuple[float, list[str]]]:
    """Start a server, measure every kind once warm, stop it."""
    server = VLLMServer(ServingConfig(guess_ahead=ahead), log)
    try:
        await server.start(model)
        gateway = Gateway(LocalBackend(server.url, server.headers, "policy"))
        gateway.unblock(None)
        found = {}
        for kind, asked in workloads().items():
            await speed(gateway, asked, 32)
            for in_flight in (1, 32):
                few = asked[:8] if in_flight == 1 else asked * (1 if len(asked) >= 32 else 4)
                found[f"{kind}, {in_flight} in flight"] = await speed(gateway, few, in_flight)
        await gateway.aclose()
        return found
    finally:
        await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ahead", type=int, default=4, help="tokens guessed ahead")
    parser.add_argument("--turns", type=int, default=2, help="servers started of each side")
    options = parser.parse_args()
    model = Path(resolve_model().path)
    plain: list[dict[str, tuple[float, list[str]]]] = []
    ahead: list[dict[str, tuple[float, list[str]]]] = []
    with tempfile.TemporaryDirectory() as place:
        for turn in range(options.turns):
            sides = [(0, plain), (options.ahead, ahead)]
            for guessed, found in reversed(sides) if turn % 2 else sides:
                found.append(asyncio.run(side(guessed, model, Path(place) / "vllm.log")))
    print(f"{'answers':<24}{'without/s':>11}{'with/s':>9}{'ratio':>8}{'equal texts':>13}")
    ratios: dict[str, float] = {}
    for kind in plain[0]:
        before, after = (statistics.median(one[kind][0] for one in runs) for runs in (plain, ahead))
        same = statistics.fmean(a == b for a, b in zip(plain[0][kind][1], ahead[0][kind][1], strict=True))
        ratios[kind] = round(after / before, 3)
        print(f"{kind:<24}{before:>11.1f}{after:>9.1f}{ratios[kind]:>8.2f}{same:>13.0%}")
    print(
        json.dumps(
            {
                "benchmark": "speculation",
                "ratio": ratios["copied, 1 in flight"],
                "compared": f"generated tokens/s with {options.ahead} tokens guessed ahead against none",
                "ratios": ratios,
            }
        )
    )


if __name__ == "__main__":
    main()
