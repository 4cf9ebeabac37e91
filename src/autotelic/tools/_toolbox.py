"""The tools of a run behind one door: what is not on the allow list is refused, whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from autotelic.core.errors import UsageError
from autotelic.tools._tool import Permission, Tool, ToolResult

__all__ = ["DEFAULT_ALLOW", "Toolbox"]

DEFAULT_ALLOW = ("pure", "reads")
"""What may be called where nothing else is said: tools that change nothing and reach no other machine."""


class Toolbox:
    """Tools by name.

    Args:
        tools: the tools; each name once.
        allow: permission classes and names of single tools that may be called.

    Raises:
        UsageError: two tools have one name, or `allow` names something that is not there.
    """

    def __init__(self, tools: Iterable[Tool] = (), allow: Iterable[str] = DEFAULT_ALLOW) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise UsageError(f"two tools are called {tool.name!r}. Rename one, or leave one out.")
            self._tools[tool.name] = tool
        self._allow = tuple(allow)
        allowed = set(self._allow)
        if strange := sorted(allowed - {*self._tools, *get_args(Permission)}):
            raise UsageError(
                f"the allow list names {strange[0]!r}, which is neither a tool ({', '.join(self._tools) or 'none'}) "
                f"nor a permission class ({', '.join(get_args(Permission))})."
            )
        self._allowed = {t.name for t in self._tools.values() if t.name in allowed or t.permission in allowed}

    @property
    def allowed(self) -> tuple[Tool, ...]:
        """The tools that may be called: these are the ones a model is told of."""
        return tuple(tool for tool in self._tools.values() if tool.name in self._allowed)

    @property
    def refused(self) -> tuple[Tool, ...]:
        """The tools that are there and may not be called."""
        return tuple(tool for tool in self._tools.values() if tool.name not in self._allowed)

    def opened(self) -> Toolbox:
        """Return a toolbox with the same tools, all of which may be called: for who asks a person before each call."""
        return Toolbox(self._tools.values(), get_args(Permission))

    def joined(self, tools: Iterable[Tool]) -> Toolbox:
        """Return a toolbox with these tools besides; the allow list stays as it is.

        Raises:
            UsageError: two tools have one name.
        """
        return Toolbox([*self._tools.values(), *tools], self._allow)

    def without(self, names: Iterable[str]) -> Toolbox:
        """Return a toolbox that lacks these tools."""
        gone = set(names)
        kept = [tool for name, tool in self._tools.items() if name not in gone]
        return Toolbox(kept, [entry for entry in self._allow if entry not in gone])

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> ToolResult:
        """Call a tool; that it is unknown or not allowed is a result too, for the model and for the ledger."""
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(tool.name for tool in self.allowed) or "none"
            return ToolResult(ok=False, content=f"there is no tool {name[:80]!r}; there are: {known}", reason="unknown")
        if name not in self._allowed:
            text = f"{name} was not called: its permission class, {tool.permission}, is not allowed here"
            return ToolResult(ok=False, content=text, reason="refused")
        return await tool(arguments)
