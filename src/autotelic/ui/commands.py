"""The commands of a chat. One table for all doors: the terminal's keys, its help, plain mode and what is piped in."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True)
class Command:
    """One thing a person can do."""

    name: str
    """Without the slash."""
    takes: str
    """Its argument, for the help."""
    does: str
    """What it does."""
    key: str
    """Letter that does it together with Alt, where it needs no argument or asks for it."""


COMMANDS = (
    Command("accept", "", "take the answer as it is", "a"),
    Command("wrong", "TEXT", "say what is wrong; the answer is revised", "w"),
    Command("edit", "[TEXT]", "write the answer as it should be", "e"),
    Command("reject", "", "do not take the answer", "x"),
    Command("rate", "1-5", "say how good the answer is", "s"),
    Command("retry", "[WHO]", "answer again, e.g. by policy-2 or self_consistency(n=8)", "r"),
    Command("compare", "WHO WHO", "two answers without names, to choose from", "c"),
    Command("choose", "1|2", "take one of two compared answers", "o"),
    Command("who", "[WHO]", "who answers from now on", "p"),
    Command("drafts", "", "show drafts and critiques of the last answer", "d"),
    Command("attach", "FILE", "give a text file with the next question", "t"),
    Command("allow", "", "let the tools be called that wait for it", "i"),
    Command("deny", "", "do not let them be called", "j"),
    Command("undo", "", "take the last act back", "u"),
    Command("fork", "[NAME]", "go on in a copy of this chat", "f"),
    Command("new", "[NAME]", "begin another chat", "n"),
    Command("open", "CHAT", "go on with a chat", "g"),
    Command("list", "[WORDS]", "list chats that hold these words", "l"),
    Command("name", "NAME", "call this chat something", "m"),
    Command("recall", "[WORDS]", "show what the memory has on this", "y"),
    Command("correct", "ID TEXT", "write what the memory should hold instead", "b"),
    Command("forget", "ID", "delete something from the memory, for good", "k"),
    Command("learn", "on|off", "allow or forbid training on this chat", "z"),
    Command("export", "FILE", "write this chat to FILE.md or FILE.json", "v"),
    Command("help", "", "show all this", "h"),
    Command("quit", "", "leave; the chat is kept", "q"),
)
