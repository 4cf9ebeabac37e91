"""The chat in a terminal: an ordinary scrolling one, so that it works over ssh, in tmux, and with a screen reader.

While agents work a few lines at the bottom change; when they are done these are folded into one. In plain mode nothing
ever changes that was printed. What a model says is text: control characters are taken out before it is shown.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from autotelic.agents import CallRecord
from autotelic.core.errors import AutotelicError, MissingPackage
from autotelic.graphs.acts import Said, Turn
from autotelic.graphs.running import Event
from autotelic.ui.commands import COMMANDS
from autotelic.ui.talk import Note, Talk

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

__all__ = ["harmless", "run_piped", "run_terminal"]

_TAIL = 6
"""Lines of a draft that are shown while it grows."""


def harmless(text: str) -> str:
    """Return text without what a terminal would obey: escape sequences, and control characters but tab and newline."""
    return "".join(c for c in text if c in "\t\n" or (ord(c) >= 32 and not 127 <= ord(c) < 160))


async def run_terminal(talk: Talk, *, plain: bool = False, greeting: str = "") -> None:
    """Talk until the person leaves.

    Args:
        talk: see `Talk`.
        plain: whether nothing that was printed may change, for screen readers and logs.
        greeting: printed first.

    Raises:
        MissingPackage: prompt_toolkit is not installed.
    """
    console = Console(highlight=False)
    plain = plain or not console.is_terminal or console.is_dumb_terminal
    session = _session(talk)
    screen = _Plain(console) if plain else _Folding(console)
    console.print(Text(f"{greeting}\nAlt with a letter or /help for all there is; Ctrl-D leaves.".strip()))
    await _carefully(console, screen, talk, talk.resume())
    while not talk.left:
        try:
            line = await session.prompt_async("you: ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
        if line.strip():
            await _carefully(console, screen, talk, talk.line(line.strip()))


async def run_piped(talk: Talk, lines: AsyncIterator[str]) -> int:
    """Do what lines say; answers go to standard output and all else to standard error.

    Returns:
        The exit code: 0, that of the first thing that failed, which ends it, or 3 if a call of a tool waits for a yes.
    """
    async for line in lines:
        if not line.strip():
            continue
        try:
            acted = False
            async for event in talk.line(line.strip()):
                if isinstance(event, Note):
                    sys.stderr.write(f"{harmless(event.text)}\n")
                elif event.kind == "question":
                    sys.stderr.write(f"{harmless(_question(event))}\n")
                acted = isinstance(event, Event) and event.kind != "question"
            turn = await talk.turn() if acted else None
        except AutotelicError as error:
            sys.stderr.write(f"autotelic: {error}\n")
            return error.exit_code
        if turn is not None:
            sys.stdout.write(f"{harmless(_outcome(turn))}\n")
            sys.stdout.flush()
        if talk.left:
            break
    waits = talk.chat is not None and await talk.chats.question(talk.chat.id) is not None
    return 3 if waits else 0


async def _carefully(console: Console, screen: _Plain | _Folding, talk: Talk, events: AsyncIterator[Any]) -> None:
    """Show what happens; what goes wrong is one line, and Ctrl-C takes back what was begun."""
    working = asyncio.ensure_future(_show(screen, talk, events))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, working.cancel)
    try:
        await working
    except asyncio.CancelledError:
        fault = await talk.stop()
        console.print(Text(harmless(f"stopped, and taken back. {fault}".strip())))
    except AutotelicError as error:
        console.print(Text(harmless(str(error)), style="red"))
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _show(screen: _Plain | _Folding, talk: Talk, events: AsyncIterator[Any]) -> None:
    acted, drafted, asked = False, False, ""
    with screen:
        async for event in events:
            if isinstance(event, Note):
                screen.say(harmless(event.text))
            elif event.kind == "question":
                asked = _question(event)
            else:
                acted, drafted = True, drafted or event.node == "draft"
                screen.take(event)
    if asked:
        screen.say(harmless(asked))
    elif acted and (turn := await talk.turn()) is not None:
        screen.end(turn, drafted=drafted)


class _Plain:
    """Prints everything once, with a word before it that says what it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drafts = 0
        self._speaking = False

    def __enter__(self) -> _Plain:
        self._drafts = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._speaking = False

    def say(self, text: str) -> None:
        self._console.print(Text(text))

    def take(self, event: Event) -> None:
        if event.kind == "token":
            if not self._speaking:
                self._drafts += 1
                self._console.print(Text(f"draft {self._drafts}: "), end="")
            self._speaking = True
            self._console.print(Text(harmless(str(event.data))), end="", soft_wrap=True)
        elif event.kind == "node":
            if self._speaking:
                self._console.print()
            self._speaking = False
            for text in _called(event):
                self._console.print(Text(text))
            if event.node == "criticise" and (said := _last(event)) is not None:
                self._console.print(Text(_critic(said)))

    def end(self, turn: Turn, *, drafted: bool) -> None:  # noqa: ARG002 (its drafts stand above)
        self._console.print(Text(harmless(f"answer: {_outcome(turn)}")))


class _Folding:
    """Shows drafts and critiques as they come in a few changing lines, and the answer when they are done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, refresh_per_second=12)
        self._lines: list[Text] = []
        self._draft = ""

    def __enter__(self) -> _Folding:
        self._lines, self._draft = [], ""
        self._live = Live(console=self._console, transient=True, refresh_per_second=12)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(Text(text))

    def take(self, event: Event) -> None:
        if event.kind == "token":
            self._draft += harmless(str(event.data))
        elif event.node in ("draft", "criticise") and (said := _last(event)) is not None:
            text = _critic(said) if event.node == "criticise" else f"draft: {' '.join(harmless(said.text).split())}"
            self._lines.append(Text(text, style="dim", overflow="ellipsis", no_wrap=True))
            self._draft = ""
        for text in _called(event):
            self._lines.append(Text(text, style="dim", overflow="ellipsis", no_wrap=True))
        growing = "\n".join(self._draft.splitlines()[-_TAIL:])
        self._live.update(Group(*self._lines[-_TAIL:], Text(growing, style="cyan")))

    def end(self, turn: Turn, *, drafted: bool) -> None:
        folded = _folded(turn) if drafted else ""
        if folded:
            self._console.print(Text(folded, style="dim"))
        self._console.print(Text(harmless(_outcome(turn)), style="bold"))


def _question(event: Event) -> str:
    """What is asked of the person, and how to answer."""
    found = event.data[0]
    return "\n".join([str(found.get("ask")), *map(str, found.get("reasons", ())), "/allow or /deny"])


def _last(event: Event) -> Said | None:
    """The draft that a node has just written or judged."""
    turns = (event.data or {}).get("turns") or [{}]
    drafts = turns[-1].get("drafts") or []
    return Said.model_validate(drafts[-1]) if drafts else None


def _called(event: Event) -> list[str]:
    """What calls came to that a node has just made."""
    if event.kind != "node" or event.node != "call":
        return []
    messages = event.data["work"]["messages"]
    count = len(list(takewhile(lambda message: message["role"] == "tool", reversed(messages))))
    made = [CallRecord.model_validate(one) for one in event.data["work"]["calls"]][-count:] if count else []
    return [harmless(f"{one.call.name}: {' '.join(one.result.content.split())}") for one in made]


def _critic(said: Said) -> str:
    found = said.critique
    if found is None:
        return ""
    if found.verdict is None:
        return "critic: no verdict"
    sure = "" if found.confidence is None else f", {found.confidence:.0%} for right"
    fault = f" {found.fault} {found.advice}" if found.verdict == "wrong" else ""
    return harmless(f"critic: {found.verdict}{sure}.{fault}".rstrip())


def _folded(turn: Turn) -> str:
    """One line for all that led to an answer."""
    last = turn.drafts[-1] if turn.drafts else None
    by = [harmless(last.told)] if last is not None and turn.who.strategy is not None and last.told else []
    if len(turn.drafts) + len(turn.complaints) < 2 and not any(draft.critique for draft in turn.drafts) and not by:
        return ""
    count = f"{len(turn.drafts)} draft{'s' * (len(turn.drafts) != 1)}"
    critic = [_critic(draft) for draft in turn.drafts if draft.critique][-1:]
    return f"{'; '.join([count, *by, *critic])} (/drafts)"


def _outcome(turn: Turn) -> str:
    """What came of an act."""
    if turn.pair is not None and turn.chosen is None:
        first, second = turn.pair
        return f"1: {first.text}\n2: {second.text}\n/choose 1 or /choose 2"
    if turn.pair is not None and turn.chosen is not None:
        names = ["a remote model" if one.policy is None else f"policy-{one.policy}" for one in turn.pair]
        return f"{turn.answer}\n1 was {names[0]}, 2 was {names[1]}"
    verdict = "" if turn.verdict is None else f" ({turn.verdict})"
    stars = "" if turn.stars is None else f" {'*' * turn.stars}"
    return f"{turn.answer if turn.answer is not None else 'there is no answer.'}{verdict}{stars}"


def _session(talk: Talk) -> PromptSession[str]:
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.key_binding import KeyBindings
    except ModuleNotFoundError:
        raise MissingPackage("prompt_toolkit", "chat") from None
    keys = KeyBindings()

    def bind(name: str, takes: str, key: str) -> None:
        @keys.add("escape", key)
        async def _(event: Any) -> None:
            buffer = event.current_buffer
            given = buffer.text.strip()
            if name == "edit" and not given:
                turn = await talk.turn()
                given = turn.answer or "" if turn else ""
                buffer.text, buffer.cursor_position = f"/edit {given}", len(given) + 6
            elif takes and not takes.startswith("[") and not given:
                buffer.text, buffer.cursor_position = f"/{name} ", len(name) + 2
            else:
                buffer.text = f"/{name} {given}".strip()
                buffer.validate_and_handle()

    for command in COMMANDS:
        bind(command.name, command.takes, command.key)
    completer = WordCompleter([f"/{command.name}" for command in COMMANDS], sentence=True)
    return PromptSession(key_bindings=keys, completer=completer, complete_while_typing=False)
