"""What a person can do in a chat, as lines: text is said, `/command ...` does the rest."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from autotelic.core.errors import UsageError
from autotelic.graphs.acts import (
    Accept,
    Attached,
    Choose,
    Compare,
    Edit,
    Rate,
    Reject,
    Retry,
    Said,
    Say,
    Turn,
    Who,
    Wrong,
)
from autotelic.graphs.chats import Chat, Chats
from autotelic.graphs.holdings import forget_items
from autotelic.graphs.oversight import withdraw
from autotelic.graphs.running import Event
from autotelic.memory import Demonstration, Item, Lesson, Memory, Query
from autotelic.refinement import Draft
from autotelic.ui.commands import COMMANDS
from autotelic.ui.names import read_name
from autotelic.ui.teaching import allow_learning, follow, run_of
from autotelic.ui.voices import Voices

__all__ = ["Note", "Talk"]

T = TypeVar("T")
_MOST_BYTES = 200_000
_LISTED = 20


@dataclass(frozen=True)
class Note:
    """Something to tell the person."""

    text: str


class Talk:
    """One person's place among the chats.

    Args:
        chats: where they are kept.
        voices: who can be asked, and what is remembered.
        learn: whether new chats may be trained on.

    Raises:
        UsageError: there is no run that could learn.
    """

    def __init__(self, chats: Chats, voices: Voices, *, learn: bool = False) -> None:
        self.chats = chats
        self.chat: Chat | None = None
        self.who = Who()
        self.left = False
        self._voices = voices
        self._memory = voices.context.memory
        self._learn = self._consented(learn)
        self._files: list[Attached] = []
        self._methods: dict[str, Callable[[str], Awaitable[Any]]] = {
            "accept": self._accept, "wrong": self._wrong, "edit": self._edit, "reject": self._reject,
            "rate": self._rate, "retry": self._retry, "compare": self._compare, "choose": self._choose,
            "who": self._who, "drafts": self._drafts, "attach": self._attach, "undo": self._undo, "fork": self._fork,
            "allow": self._allow, "deny": self._deny, "correct": self._correct, "new": self._new,
            "open": self._open, "list": self._list, "name": self._name, "recall": self._recall,
            "forget": self._forget, "learn": self._consent, "export": self._export, "help": self._help,
            "quit": self._quit,
        }  # fmt: skip

    def give(self, file: Attached) -> None:
        """Have a text file go with the next question."""
        self._files.append(file)

    async def turn(self) -> Turn | None:
        """Return the last turn of the chat."""
        turns = await self.chats.turns(self.chat.id) if self.chat else []
        return turns[-1] if turns else None

    async def line(self, line: str) -> AsyncIterator[Event | Note]:
        """Do what a line says; yields what happens.

        Raises:
            UsageError: it cannot be done.
            ServingError: the model gave no answer.
        """
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line[1:].partition(" ")
            done = await self._command(name)(rest.strip())
        else:
            text = line.removeprefix("/") if line.startswith("//") else line
            done = _made(Say, text=text, files=tuple(self._files), who=self.who)
        if isinstance(done, str):
            yield Note(done)
        elif done is not None:
            if self.chat is None and not isinstance(done, bool):
                self.chat = await self._begun()
            here = self._here().id
            events = self.chats.answer(here, done) if isinstance(done, bool) else self.chats.act(here, done)
            async for event in self._followed(events):
                yield event

    async def resume(self) -> AsyncIterator[Event | Note]:
        """Go on with an answer of this chat that was cut off."""
        if self.chat is not None:
            async for event in self._followed(self.chats.resume(self.chat.id)):
                yield event

    async def consent(self) -> None:
        """Allow or forbid training on this chat, as for new ones.

        Raises:
            UsageError: a run that was to learn from it is out of reach.
        """
        self.chat = await allow_learning(self.chats, self._voices, self._here().id, self._learn)

    async def stop(self) -> str:
        """Take back an answer that was cut off, if there is one; return what the person should know of it."""
        if self.chat is None or not await self.chats.pending(self.chat.id):
            return ""
        await self.chats.undo(self.chat.id)
        return await self._learned()

    async def _followed(self, events: AsyncIterator[Event]) -> AsyncIterator[Event | Note]:
        """Do an act; whatever becomes of it, what may be learned follows, and files that were taken are given away."""
        before = await self.turn()
        try:
            async for event in events:
                yield event
        finally:  # to its end, also where somebody who has heard enough cancels this
            fault = await asyncio.shield(self._ended(before))
        if fault:
            yield Note(fault)

    async def _ended(self, before: Turn | None) -> str:
        after = await self.turn()
        if after is not None and (before is None or after.id != before.id):
            self._files = [file for file in self._files if file not in after.files]
        return await self._learned()

    async def _learned(self) -> str:
        """Have runs learn from this chat as it stands now; return what the person should know of that."""
        return "" if self.chat is None else await follow(self.chats, self._voices, self.chat.id)

    async def _begun(self, name: str = "") -> Chat:
        return await self.chats.begin(name, learn=self._learn, run=run_of(self._voices) if self._learn else "")

    def _command(self, name: str) -> Callable[[str], Awaitable[Any]]:
        found = [one for one in COMMANDS if one.name == name] or [one for one in COMMANDS if one.name.startswith(name)]
        if len(found) != 1 or not name:
            which = f"; did you mean {' or '.join('/' + one.name for one in found)}?" if found and name else "."
            raise UsageError(f"there is no command /{name}{which} See /help; // begins a text with a slash.")
        return self._methods[found[0].name]

    def _here(self) -> Chat:
        if self.chat is None:
            raise UsageError("nothing was said yet.")
        return self.chat

    async def _allow(self, _: str) -> bool:
        return True

    async def _deny(self, _: str) -> bool:
        return False

    async def _accept(self, _: str) -> Accept:
        return Accept()

    async def _reject(self, _: str) -> Reject:
        return Reject()

    async def _wrong(self, rest: str) -> Wrong:
        return _made(Wrong, text=_needed(rest, "what is wrong"))

    async def _edit(self, rest: str) -> Edit:
        return _made(Edit, text=_needed(rest, "the answer"))

    async def _rate(self, rest: str) -> Rate:
        if rest not in ("1", "2", "3", "4", "5"):
            raise UsageError(f"{rest!r} is no rating. Give 1, bad, to 5, good.")
        return Rate(stars=int(rest))

    async def _retry(self, rest: str) -> Retry:
        return Retry(who=self._read(rest) if rest else self.who)

    async def _compare(self, rest: str) -> Compare:
        names = rest.split()
        if len(names) != 2:
            raise UsageError("compare two, without spaces in their names: /compare champion policy-0.")
        return Compare(who=(self._read(names[0]), self._read(names[1])))

    async def _choose(self, rest: str) -> Choose:
        if rest not in ("1", "2"):
            raise UsageError(f"{rest!r} is neither 1 nor 2.")
        return Choose(index=0 if rest == "1" else 1)

    async def _who(self, rest: str) -> str:
        if rest:
            self.who = self._read(rest)
        champion, known = self._voices.policies()
        have = (
            f" There are: {', '.join(f'policy-{one}' for one in known)}; policy-{champion} is champion."
            if known
            else ""
        )
        return f"{shown(self.who)} answers.{have}"

    async def _drafts(self, _: str) -> str:
        turn = await self.turn()
        if turn is None or not turn.drafts:
            return "there are no drafts."
        return "\n".join(_draft(number, draft) for number, draft in enumerate(turn.drafts, 1))

    async def _attach(self, rest: str) -> str:
        try:
            (name,) = shlex.split(_needed(rest, "a file"))[:1]
        except ValueError as error:
            raise UsageError(
                f"{rest} cannot be read as the name of a file: {error}. Put it in double quotes."
            ) from None
        path = _path(name)
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise UsageError(f"{path} is larger than {_MOST_BYTES} bytes. Give a part of it.")
            self.give(Attached(name=path.name, text=path.read_text()))
        except (OSError, ValueError) as error:  # no text, or no name of a file
            raise UsageError(f"{path} cannot be read as text: {error}.") from None
        return f"{path.name} goes with the next question."

    async def _undo(self, _: str) -> str:
        here = self._here().id
        asked = await self.chats.question(here)
        turns = await self.chats.undo(here)
        if self._voices.ledger is not None:
            withdraw(self._voices.ledger, asked)
        fault = await self._learned()
        stands = [f"The answer is: {turns[-1].answer}"] if turns and turns[-1].answer else []
        return " ".join(["taken back.", *([fault] if fault else []), *stands])

    async def _fork(self, rest: str) -> str:
        self.chat = await self.chats.fork(self._here().id, rest)
        return f"this is {self.chat.name!r} now ({self.chat.id})."

    async def _new(self, rest: str) -> str:
        self.chat = await self._begun(rest)
        return "a new chat."

    async def _open(self, rest: str) -> str:
        self.chat = await self.chats.find(_needed(rest, "a chat"))
        return f"{self.chat.name or self.chat.id}, {self.chat.turns} questions."

    async def _list(self, rest: str) -> str:
        found = await self.chats.all(rest)
        lines = [f"{one.id}  {one.updated_at[:16].replace('T', ' ')}  {one.turns:3}  {one.name}" for one in found]
        more = [f"and {len(lines) - _LISTED} more; give words to look for."] if len(lines) > _LISTED else []
        return "\n".join([*lines[:_LISTED], *more]) or "there are no chats."

    async def _name(self, rest: str) -> str:
        self.chat = await self.chats.change(self._here().id, name=_needed(rest, "a name"))
        return f"this is {self.chat.name!r} now."

    async def _recall(self, rest: str) -> str:
        memory = self._remembering()
        turn = await self.turn()
        words = rest or (turn.question if turn else "")
        (found,) = await memory.retrieve([Query(_needed(words, "words"))], 5)
        return "\n".join(f"{item.id}  {_short(item)}" for item in found) or "the memory has nothing on this."

    async def _correct(self, rest: str) -> str:
        id_, _, text = rest.partition(" ")
        memory, text = self._remembering(), _needed(text.strip(), "an id of /recall and the text")
        found = (await memory.get([id_])).get(id_)
        if isinstance(found, Demonstration):
            fresh: Item = found.model_copy(update={"answer": text, "turns": (), "said": ""})
        elif isinstance(found, Lesson):
            fresh = found.model_copy(update={"advice": text})
        else:
            raise UsageError(f"the memory has no example and no lesson {id_}. See /recall.")
        await memory.replace(fresh)
        return f"{id_} says now: {_short(fresh)}"

    async def _forget(self, rest: str) -> str:
        memory, run, ledger = self._remembering(), self._voices.run, self._voices.ledger
        assert run is not None and ledger is not None, "only a run has a memory"
        (gone,) = await forget_items(run, memory, ledger, [_needed(rest, "an id of /recall")])
        return f"{gone} is deleted."

    async def _consent(self, rest: str) -> str:
        if rest not in ("on", "off"):
            raise UsageError("say /learn on or /learn off.")
        self._learn = self._consented(rest == "on")
        if self.chat is not None:
            await self.consent()
        return "what is said here may be trained on." if self._learn else "nothing said here will be trained on."

    def _consented(self, learn: bool) -> bool:
        if learn and self._voices.ledger is None:
            raise UsageError("there is no run that could learn. Begin the chat with --run.")
        return learn

    async def _export(self, rest: str) -> str:
        path = _path(_needed(rest, "a file, NAME.md or NAME.json"))
        text = await self.chats.export(self._here().id, "json" if path.suffix == ".json" else "markdown")
        try:
            with path.open("x") as stream:
                stream.write(text)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
        except ValueError as error:
            raise UsageError(f"that is no name of a file: {error}.") from None
        return f"written to {path}."

    async def _help(self, _: str) -> str:
        rows = [(f"/{one.name} {one.takes}".strip(), f"Alt-{one.key}", one.does) for one in COMMANDS]
        return "\n".join(f"{left:18} {key:6} {does}" for left, key, does in rows)

    async def _quit(self, _: str) -> None:
        self.left = True

    def _remembering(self) -> Memory:
        if self._memory is None:
            raise UsageError("there is no memory here. Begin the chat with --run.")
        return self._memory

    def _read(self, text: str) -> Who:
        """Read who is to answer: `champion`, `policy-3`, a strategy, or both with a colon."""
        named = read_name(text if text.startswith(("champion", "policy-")) else f"champion:{text}")
        known = self._voices.policies()[1]
        if named.policy is not None and named.policy not in known:
            raise UsageError(
                f"there is no policy-{named.policy}. There are: {', '.join(f'policy-{n}' for n in known) or 'none'}."
            )
        return Who(policy=named.policy, strategy=named.strategy)


def shown(who: Who) -> str:
    """Return who answers, in words."""
    name = "the champion" if who.policy is None else f"policy-{who.policy}"
    return name if who.strategy is None else f"{name} by {who.strategy}"


def _draft(number: int, draft: Said) -> str:
    whose = "" if draft.policy is None else f" (policy-{draft.policy})"
    called = [f"called {record.call.name} {record.call.arguments}: {record.result.content}" for record in draft.calls]
    lines = [*called, *map(_sketch, draft.of), f"draft {number}{whose}: {draft.text}"]
    if draft.told:
        lines.append(f"price: {draft.told}")
    if (found := draft.critique) is not None:
        sure = "" if found.confidence is None else f", {found.confidence:.0%} for right"
        fault = " ".join(part for part in (found.fault, found.advice) if part)
        lines.append(f"critic: {found.verdict or 'no verdict'}{sure}. {fault}".rstrip())
    return "\n".join(lines)


def _sketch(draft: Draft) -> str:
    liked = "" if draft.score is None else f", {draft.score:.2f}"
    return f"made of ({draft.by}{liked}): {draft.text}"


def _short(item: Any) -> str:
    text = " ".join(str(getattr(item, "advice", None) or f"{item.question} -> {item.answer}").split())
    return text if len(text) <= 100 else text[:99] + "…"


def _made(act: Callable[..., T], **given: Any) -> T:
    """Make an act of what a person wrote.

    Raises:
        UsageError: it is too long.
    """
    try:
        return act(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["type"] != "string_too_long":
            raise UsageError(f"that cannot be taken: {fault['msg']}.") from None
        count, most = len(fault["input"]), fault["ctx"]["max_length"]
        raise UsageError(f"that has {count:,} characters, at most {most:,} are taken. Say it in less.") from None


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # of Python's: ~ and a name that nobody here has
        raise UsageError(f"there is no home directory for {name.partition('/')[0]}. Write the whole path.") from None


def _needed(rest: str, what: str) -> str:
    if not rest:
        raise UsageError(f"{what} is missing.")
    return rest
