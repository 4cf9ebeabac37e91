"""Models that take part beside the one that is refined."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack

from autotelic.serving import Gateway, LiteLLMBackend, require_provider

__all__ = ["open_others", "open_remote", "shown_others"]


def open_remote(stack: AsyncExitStack, name: str, url: str | None) -> Gateway:
    """Open a model by LiteLLM's name; `stack` closes it.

    Args:
        stack: closes it.
        name: e.g. `openai/NAME`.
        url: address of an OpenAI-compatible server; `None` or empty for the provider's own.
    """
    gateway = Gateway(LiteLLMBackend(name, base_url=url or None))
    stack.push_async_callback(gateway.aclose)
    return gateway


def open_others(stack: AsyncExitStack, names: Iterable[str]) -> tuple[Gateway, ...]:
    """Open models by LiteLLM's names; `NAME=URL` is one on an OpenAI-compatible server. `stack` closes them.

    Raises:
        UsageError: a name is of no provider's.
    """
    opened = []
    for text in names:
        name, _, url = text.partition("=")
        require_provider(name)
        opened.append(open_remote(stack, name, url))
    return tuple(opened)


def shown_others(names: Iterable[str]) -> str:
    """Say who takes part, without addresses; empty for nobody."""
    said = ", ".join(name.partition("=")[0] for name in names)
    return f" with {said}" if said else ""
