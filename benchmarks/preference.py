"""What a dozen corrections teach: the policy before and after training on them, on questions it was not corrected on.

    .venv/bin/python benchmarks/preference.py RUN [--questions 50] [--rounds 0]

On a copy of a finished run a scripted person talks with the champion in one chat that may be learned from. Twelve times
it edits the answer into what it prefers: one line, with the unit. Then `train --feedback` makes a candidate, the person
agrees, and both policies answer other questions, each in a chat of its own: half are of the kinds that were corrected,
half are not. Counted is what the person prefers, not whether it is right. Prints a table, and as its last line one JSON
object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

from autotelic.cli.bars import Bars
from autotelic.core.run_dir import RunDir
from autotelic.evaluation import paired_bootstrap
from autotelic.graphs.actions import train_candidate
from autotelic.graphs.acts import Say, Who
from autotelic.graphs.chats import Chats, open_chats
from autotelic.graphs.chatting import build_chat
from autotelic.graphs.source import Source
from autotelic.store import Ledger
from autotelic.tools import ToolsConfig
from autotelic.ui.talk import Talk
from autotelic.ui.voices import Voices, open_voices

TAUGHT = (
    ("A rope of {a} metres is cut into {b} equal pieces. How long is each piece?", "a/b", "metres"),
    ("One bag of rice weighs {b} kilograms. How much do {a} bags weigh?", "a*b", "kilograms"),
    ("A bus drives {b} kilometres in an hour. How far does it drive in {a} hours?", "a*b", "kilometres"),
    ("A film lasts {a} minutes, and another {b} minutes. How long do both last?", "a+b", "minutes"),
)
OTHERS = (
    ("A jug holds {a} litres, and {b} litres are poured out. How much is left?", "a-b", "litres"),
    ("A lamp costs {a} euros, and a chair {b} euros. How much do both cost?", "a+b", "euros"),
    ("It was {a} degrees at noon and fell by {b} degrees. How warm is it now?", "a-b", "degrees"),
    ("A file of {a} megabytes is joined with one of {b} megabytes. How large is it now?", "a+b", "megabytes"),
)
_COUNT = {"a/b": lambda a, b: a // b, "a*b": lambda a, b: a * b, "a+b": lambda a, b: a + b, "a-b": lambda a, b: a - b}
_LINE = 80

Question = tuple[str, str, str]
"""What is asked, the answer as the person would write it, the unit."""


def questions(kinds: tuple[Question, ...], count: int, random: Random) -> list[Question]:
    """Draw questions, of each kind as many, no two alike."""
    found: dict[str, Question] = {}
    while len(found) < count:
        text, how, unit = kinds[len(found) % len(kinds)]
        b = random.randrange(2, 10)
        a = b * random.randrange(2, 40)
        asked = text.format(a=a, b=b)
        found[asked] = (asked, f"{_COUNT[how](a, b)} {unit}", unit)
    return list(found.values())


def preferred(answer: str | None, unit: str) -> bool:
    """Whether an answer is as the person wants them: one line of a terminal, a number with its unit."""
    text = (answer or "").strip()
    return len(text) <= _LINE and "\n" not in text and bool(re.search(rf"\d\s*{unit[:-1]}", text, re.IGNORECASE))


@asynccontextmanager
async def talking(run: Path, threads: Path, bars: Bars, *, rounds: int) -> AsyncIterator[tuple[Voices, Chats]]:
    """Open chats with the policies of a run."""
    source = Source(run=run, model="", remote=None, base_url=None)
    async with AsyncExitStack() as stack:
        voices = await stack.enter_async_context(open_voices(source, ToolsConfig(), bars, person=True))
        graph = build_chat(voices.chat(rounds=rounds))
        yield voices, await stack.enter_async_context(open_chats(threads, graph))


async def teach(run: Path, threads: Path, taught: list[Question], bars: Bars) -> None:
    """Talk with the champion, and edit every answer."""
    async with talking(run, threads, bars, rounds=0) as (voices, chats):
        talk = Talk(chats, voices, learn=True)
        for asked, answer, _ in taught:
            for line in (asked, f"/edit {answer}"):
                async for _ in talk.line(line):
                    pass


async def answers(
    run: Path, threads: Path, policies: tuple[int, int], asked: list[Question], rounds: int, bars: Bars
) -> list[list[str]]:
    """Return the answers of each policy, every question in a chat of its own."""
    async with talking(run, threads, bars, rounds=rounds) as (_, chats):

        async def one(question: Question, policy: int) -> str:
            chat = await chats.begin()
            async for _ in chats.act(chat.id, Say(text=question[0], who=Who(policy=policy))):
                pass
            return str((await chats.turns(chat.id))[-1].answer)

        return [list(await asyncio.gather(*(one(question, policy) for question in asked))) for policy in policies]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--questions", type=int, default=50, help="questions that nobody corrected")
    parser.add_argument("--rounds", type=int, default=0, help="most revisions that the critic brings about")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = Random(given.seed)
    half = given.questions // 2
    drawn = questions(TAUGHT, 12 + half, random)
    taught, known = drawn[:12], drawn[12:]
    asked = [*known, *questions(OTHERS, given.questions - half, random)]
    with tempfile.TemporaryDirectory() as scratch, Bars() as bars:
        run, threads = Path(scratch) / "run", Path(scratch) / "threads.sqlite"
        shutil.copytree(given.run, run)
        ledger = Ledger(RunDir(run).require().ledger)
        before = ledger.champion().number
        asyncio.run(teach(run, threads, taught, bars))
        made = asyncio.run(train_candidate(run, None, progress=bars, approve=True, feedback=True))
        ledger.close()
        texts = asyncio.run(answers(run, threads, (before, made["candidate"]), asked, given.rounds, bars))
    liked = [[float(preferred(text, q[2])) for text, q in zip(row, asked, strict=True)] for row in texts]
    gain = paired_bootstrap(liked[0], liked[1])
    assert gain is not None, "every answer has a verdict"
    for index in (0, half):
        print(f"\n{asked[index][0]}\n  before: {texts[0][index]!r}\n  after:  {texts[1][index]!r}")
    print(f"\n{'':<24}{'before':>8}{'after':>8}")
    for name, part in (("kinds that were taught", slice(0, half)), ("other kinds", slice(half, None))):
        shares = [sum(row[part]) / len(row[part]) for row in liked]
        print(f"{name:<24}{shares[0]:>8.0%}{shares[1]:>8.0%}")
    print(f"policy-{made['candidate']} promoted: {made['promoted']}; {made['reasons']}")
    interval = f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    print(f"gain {100 * gain.gain:+.1f} {interval} points on {gain.n} questions")
    ratio = gain.after / gain.before if gain.before else None
    print(json.dumps({"ratio": ratio, **gain.six(), "promoted": made["promoted"]}))


if __name__ == "__main__":
    main()
