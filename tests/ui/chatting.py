"""A chat with a scripted model in a process of its own, for tests that type.

`python chatting.py THREADS [--plain] [--tool]`; the tool writes a text into a file beside the threads. Asked something
that ends with `slow`, the model makes the file `asked` there, and takes a minute.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotelic.core.words import Message
from autotelic.graphs.ask import GraphContext
from autotelic.graphs.chats import open_chats
from autotelic.graphs.chatting import build_chat
from autotelic.serving import Gateway, Sampling, ScriptedBackend
from autotelic.tools import Toolbox, tool
from autotelic.ui.talk import Talk
from autotelic.ui.terminal import run_terminal
from autotelic.ui.voices import Voices


def model() -> ScriptedBackend:
    """Answers with the last word it heard; its critic dislikes every first draft."""
    drafts = 0

    async def say(messages: Sequence[Message], sampling: Sampling) -> list[str]:
        nonlocal drafts
        last = messages[-1].content
        if sampling.tools:
            calls = [{"tool": "write", "arguments": {"text": last}}]
            return [json.dumps({"answer": f"it {last}"} if messages[-1].role == "tool" else {"calls": calls})]
        if sampling.schema is not None:
            right = "mended" in last
            said = {"verdict": "right" if right else "wrong", "fault": "" if right else "too short", "advice": ""}
            return [json.dumps(said)] * sampling.n
        if last.endswith("slow"):
            Path(sys.argv[1]).with_name("asked").touch()
            await asyncio.sleep(60)
        drafts += 1
        if last.startswith("That is not right"):
            return [f"mended {drafts}"]
        return [f"draft about {last.split()[-1]} \x1b]0;owned\x07\x1b[31mred"]

    return ScriptedBackend(say)


def voices(file: Path | None = None) -> Voices:
    gateway = Gateway(model(), attempts=1)
    gateway.unblock(0)

    def write(text: str) -> str:
        """Write it down."""
        assert file is not None
        with file.open("a") as stream:
            stream.write(f"{text}\n")
        return f"wrote {text}"

    if file is None:
        return Voices(GraphContext(gateway))
    box = Toolbox([tool(permission="writes")(write)])
    return Voices(GraphContext(gateway, toolbox=box.opened()), asks=frozenset({"write"}))


async def main(threads: Path, *, plain: bool, tooled: bool) -> None:
    spoken = voices(threads.with_name("written.txt") if tooled else None)
    graph = build_chat(spoken.chat(rounds=0 if tooled else 1))
    async with open_chats(threads, graph) as chats:
        talk: Any = Talk(chats, spoken)
        found = await chats.all()
        if found:
            talk.chat = found[0]
        await run_terminal(talk, plain=plain, greeting="hello")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), plain="--plain" in sys.argv, tooled="--tool" in sys.argv))
