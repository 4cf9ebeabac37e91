"""Fifty chats at once at the endpoint, a promotion in the middle: errors, mixing, first token, fairness.

    .venv/bin/python benchmarks/serve.py RUN [--chats 50] [--turns 4]

Starts `autotelic serve` on a copy of a finished run with two policies or more. Every chat streams its answers through
OpenAI's client, one after another. Its last one is held by guided decoding to a word that no other chat has, so that
an answer that went astray shows. When half of all answers are there, another policy is made the champion in the ledger,
as a promotion does. The same answers are then asked for by one chat alone. Prints a table, and as its last line one
JSON object; its `ratio` is answers a second of all chats against those of one alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAIError

from autotelic.core.run_dir import RunDir
from autotelic.core.words import PolicyState
from autotelic.store import Ledger, PolicyRow

_TOKENS = 48


@dataclass
class Seen:
    """What the chats saw."""

    first: dict[int, list[float]] = field(default_factory=dict)
    """Seconds to the first token of each answer, by chat."""
    policies: Counter[str] = field(default_factory=Counter)
    """Answers by policy."""
    errors: list[str] = field(default_factory=list)
    """What failed."""
    mixed: int = 0
    """Answers that were another chat's."""

    @property
    def answers(self) -> int:
        """Answers so far."""
        return sum(self.policies.values())


@contextmanager
def serving(run: Path) -> Iterator[dict[str, Any]]:
    """Serve a run in a process of its own; gives what it says when it listens."""
    command = [
        sys.executable,
        "-m",
        "autotelic",
        "serve",
        "--run",
        str(run),
        "--port",
        "0",
        "--json",
        "--rate",
        "60000",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


async def ask(client: AsyncOpenAI, seen: Seen, chat: int, messages: list[Any], **more: Any) -> str:
    """Have one answer streamed, and note what it took."""
    began, said, policy = time.perf_counter(), "", None
    stream = await client.chat.completions.create(
        model="champion", messages=messages, max_tokens=_TOKENS, temperature=0.7, stream=True, **more
    )
    async for piece in stream:
        policy = piece.system_fingerprint or policy
        if piece.choices and piece.choices[0].delta.content:
            if not said:
                seen.first.setdefault(chat, []).append(time.perf_counter() - began)
            said += piece.choices[0].delta.content
    seen.policies[str(policy)] += 1
    return said


async def talk(client: AsyncOpenAI, seen: Seen, chat: int, turns: int) -> None:
    """Hold one chat."""
    messages: list[Any] = []
    word = f"chat-{chat:03}"
    held = {"type": "json_schema", "json_schema": {"name": "word", "schema": {"const": word}}}
    try:
        for turn in range(turns):
            messages.append({"role": "user", "content": f"I am in chat {chat}. What is {chat} plus {turn}? Explain."})
            messages.append({"role": "assistant", "content": await ask(client, seen, chat, messages)})
        own = [*messages, {"role": "user", "content": "Which chat is this?"}]
        seen.mixed += word not in await ask(client, seen, chat, own, response_format=held)
    except OpenAIError as error:
        seen.errors.append(str(error))


async def promote(run: Path, seen: Seen, after: int) -> tuple[int, int]:
    """Make the other policy the champion when so many answers are there; return old and new."""
    while seen.answers < after:  # noqa: ASYNC110 (it has all the time there is)
        await asyncio.sleep(0.05)
    ledger = Ledger(RunDir(run).require().ledger)
    old = ledger.champion().number
    usable = [row.number for row in ledger.rows(PolicyRow) if row.state != PolicyState.DISCARDED.value]
    new = max(number for number in usable if number != old)
    ledger.crown(new)
    ledger.close()
    return old, new


async def measure(run: Path, chats: int, turns: int) -> tuple[Seen, float, Seen, float, tuple[int, int]]:
    """Hold all chats at once, then one alone."""
    with serving(run) as said:
        client = AsyncOpenAI(base_url=said["url"], api_key=said["key"], max_retries=0, timeout=600)
        many, one = Seen(), Seen()
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            promoted = group.create_task(promote(run, many, chats * (turns + 1) // 2))
            for chat in range(chats):
                group.create_task(talk(client, many, chat, turns))
        together = time.perf_counter() - began
        began = time.perf_counter()
        for chat in range(2):
            await talk(client, one, chat, turns)
        alone = time.perf_counter() - began
        await client.close()
    return many, together, one, alone, promoted.result()


def fairness(seen: Seen) -> float:
    """Jain's index of the chats' mean time to the first token: 1 where all wait alike, 1 / n where one waits alone."""
    means = [statistics.fmean(found) for found in seen.first.values()]
    return sum(means) ** 2 / (len(means) * sum(mean**2 for mean in means))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--chats", type=int, default=50)
    parser.add_argument("--turns", type=int, default=4, help="questions before the last one, in each chat")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        shutil.copytree(given.run, run)
        many, together, one, alone, (old, new) = asyncio.run(measure(run, given.chats, given.turns))
    print(f"\n{'':<24}{given.chats:>6} chats{'one':>10}")
    rows: dict[str, tuple[float, float]] = {"answers": (many.answers, one.answers)}
    rows |= {"answers a second": (many.answers / together, one.answers / alone)}
    waits = [sorted(wait for found in seen.first.values() for wait in found) for seen in (many, one)]
    for share in (50, 95):
        rows[f"first token p{share}, s"] = tuple(found[int(len(found) * share / 100)] for found in waits)  # type: ignore[assignment]
    for name, (left, right) in rows.items():
        print(f"{name:<24}{left:>12.2f}{right:>10.2f}")
    print(f"errors {len(many.errors)}, answers that went astray {many.mixed}, fairness {fairness(many):.3f}")
    print(f"policy-{old} was champion, then policy-{new}: {dict(many.policies)}")
    for error in many.errors[:3]:
        print(error)
    figures = {name.replace(" ", "_").replace(",", ""): round(left, 3) for name, (left, _) in rows.items()}
    checks = {"errors": len(many.errors), "astray": many.mixed, "fairness": fairness(many), "by": dict(many.policies)}
    ratio = rows["answers a second"][0] / rows["answers a second"][1]
    print(json.dumps({"ratio": ratio, "compared": "answers a second, all chats against one", **figures, **checks}))


if __name__ == "__main__":
    main()
