"""Reading OpenAI-compatible chat answers, whole and in pieces."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from autotelic.core.words import Completion, ToolCall

__all__ = ["Pieces", "completions"]


def completions(answer: dict[str, Any], policy: int | None, controls: Collection[str] = ()) -> list[Completion]:
    """Read an OpenAI chat answer. Providers count tokens for the whole request: without ids they are shared out.

    Args:
        answer: the server's JSON.
        policy: who answered.
        controls: texts of the model's control tokens.
    """
    usage = answer.get("usage") or {}
    choices = answer["choices"]
    prompt = usage.get("prompt_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    share, rest = divmod(usage.get("completion_tokens") or 0, len(choices))
    found = []
    for index, choice in enumerate(choices):
        ids = choice.get("token_ids") or ()
        content = (choice.get("logprobs") or {}).get("content") or ()
        found.append(
            Completion(
                text=choice["message"].get("content") or "",
                finish_reason=choice.get("finish_reason") or "stop",
                token_ids=tuple(ids),
                logprobs=tuple(token["logprob"] for token in content),
                alternatives=tuple(_likeliest(token, controls) for token in content if token.get("top_logprobs")),
                prompt_tokens=prompt,
                cached_tokens=cached,
                completion_tokens=len(ids) or share + (index < rest),
                policy=policy,
                calls=tuple(_calls(choice["message"])),
            )
        )
    return found


class Pieces:
    """An answer that comes in pieces, as OpenAI-compatible servers stream it."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._text = ""
        self._ids: list[int] = []
        self._logprobs: list[Any] = []
        self._reason: str | None = None
        self._usage: dict[str, Any] = {}

    def take(self, chunk: dict[str, Any]) -> None:
        """Take one chunk in."""
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self._ids += choice.get("token_ids") or ()
            self._logprobs += (choice.get("logprobs") or {}).get("content") or ()
            self._reason = choice.get("finish_reason") or self._reason
            if text := choice["delta"].get("content"):
                self._text += text
                self._on_text(text)

    def completion(self, policy: int | None) -> Completion | None:
        """Return the whole answer, `None` if it broke off."""
        if self._reason is None:
            return None
        choice = {
            "message": {"content": self._text},
            "finish_reason": self._reason,
            "token_ids": self._ids,
            "logprobs": {"content": self._logprobs},
        }
        return completions({"choices": [choice], "usage": self._usage}, policy)[0]


def _likeliest(token: dict[str, Any], controls: Collection[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in token["top_logprobs"]:  # the likeliest first
        if one["token"]:  # a part of a character has no text
            found.setdefault("" if one["token"] in controls else one["token"], one["logprob"])
    return found


def _calls(message: dict[str, Any]) -> Iterator[ToolCall]:
    for call in message.get("tool_calls") or ():
        function = call["function"]
        yield ToolCall(id=call.get("id") or "", name=function.get("name") or "", arguments=function["arguments"] or "")
