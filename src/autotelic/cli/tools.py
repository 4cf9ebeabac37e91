"""`autotelic tools`: look at tools, call one, and try how it takes bad calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotelic.cli.shown import JsonOption, listing, plain, show
from autotelic.core.errors import UsageError

if TYPE_CHECKING:
    from autotelic.graphs import Config
    from autotelic.tools import Tool, Toolbox, ToolsConfig

__all__ = ["AllowOption", "ToolOption", "tools", "tools_config"]

tools = typer.Typer(help="Tools for agents: list, show, call, test.", no_args_is_help=True)

ToolOption = Annotated[
    list[str] | None,
    typer.Option("--tool", help="NAME, NAME=WHAT, file.py, module:name, mcp=URL or mcp=COMMAND. May be repeated."),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="What may be called besides pure and reads: writes, network, or a tool's name. May be repeated.",
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="A run: its own tools if no --tool is given, else what memory and skills belong to."),
]
NameArgument = Annotated[str, typer.Argument(help="Name of a tool.")]


def tools_config(tool: Sequence[str] | None, allow: Sequence[str] | None) -> ToolsConfig:
    """Return the options of a command as a config."""
    from autotelic.tools import DEFAULT_ALLOW, ToolsConfig

    return ToolsConfig(use=tuple(tool or ()), allow=(*DEFAULT_ALLOW, *(allow or ())))


@tools.command("list")
def list_tools(
    tool: ToolOption = None, allow: AllowOption = None, run: RunOption = None, as_json: JsonOption = False
) -> None:
    """List the tools that --tool names, or those of --run; without both, the names that can be given to --tool."""
    if not tool and run is None:
        from autotelic.core.registry import available

        names = sorted({"python", *available("tool")})
        show(names, as_json, "\n".join(names))
        return
    rows = asyncio.run(_listed(_config(tool, allow, run), run))
    table = listing("tool", "permission", "allowed", "seconds", "what it does")
    for row in rows:
        does = row["description"].split("\n")[0]
        allowed = "yes" if row["allowed"] else "no"
        table.add_row(*plain(row["name"], row["permission"], allowed, f"{row['seconds']:g}", does))
    show(rows, as_json, table if rows else _NONE)


@tools.command("show")
def show_tool(name: NameArgument, tool: ToolOption = None, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Show a tool's description, bounds and schema."""
    rows = {row["name"]: row for row in asyncio.run(_listed(_config(tool, None, run, name), run))}
    if name not in rows:
        source, there = "--run" if run is not None and not tool else "--tool", ", ".join(rows) or "none"
        raise UsageError(f"{source} names no tool {name!r}; it names: {there}.")
    row = rows[name]
    show(row, as_json, json.dumps(row, indent=2, ensure_ascii=False))


@tools.command("call")
def call_tool(
    name: NameArgument,
    arguments: Annotated[str, typer.Option("--args", help='JSON, e.g. {"expression": "2 + 2"}.')] = "{}",
    tool: ToolOption = None,
    allow: AllowOption = None,
    run: RunOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call a tool as a model would; exit code 1 if it did not do its work."""

    async def call() -> Any:
        async with _opened(_config(tool, allow, run, name), run) as toolbox:
            return await toolbox.call(name, arguments)

    result = asyncio.run(call())
    show(result.model_dump(), as_json, result.content if result.ok else f"{result.reason}: {result.content}")
    if not result.ok:
        raise typer.Exit(1)


@tools.command("test")
def test_tools(
    tool: ToolOption = None,
    allow: AllowOption = None,
    run: RunOption = None,
    calls: Annotated[int, typer.Option(min=1, help="Calls for each tool.")] = 300,
    seed: Annotated[int, typer.Option(help="Which calls.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Try tools with calls drawn from their schemas, most of them broken; exit code 1 if one ends as it must not.

    Calls that fit are made to allowed tools only; broken ones never reach a tool that keeps its schema.
    """
    found = asyncio.run(_tested(_config(tool, allow, run), run, calls, seed))
    lines = [f"{row['tool']}: {row['calls']} calls, {len(row['findings'])} ended badly" for row in found]
    for row in found:
        lines += [f"  {f['kind']} {f['arguments'][:100]}: {f['problem']}" for f in row["findings"][:10]]
    if not found:
        raise UsageError("no tool was named. Name one with --tool, e.g. --tool my_tools.py." if run is None else _NONE)
    show(found, as_json, "\n".join(lines))
    if any(row["findings"] for row in found):
        raise typer.Exit(1)


_NONE = "the run has no tools: name some under tools.use in a new run's config, or here with --tool."


def _config(
    tool: Sequence[str] | None, allow: Sequence[str] | None, run: Path | None, name: str | None = None
) -> ToolsConfig:
    """Return which tools are meant: those of `--tool`, else the run's, else the one that is named."""
    if run is None or tool:
        return tools_config(tool or (name and [name]), allow)
    own = _settings(run).tools
    return own.model_copy(update={"allow": (*own.allow, *(allow or ()))})


def _settings(run: Path) -> Config:
    from autotelic.core.run_dir import RunDir
    from autotelic.graphs.config import run_config

    return run_config(RunDir(run).require())


@asynccontextmanager
async def _opened(config: ToolsConfig, run: Path | None) -> AsyncIterator[Toolbox]:
    from autotelic.tools import open_toolbox

    async with AsyncExitStack() as stack:
        made: Mapping[str, Sequence[Tool]] = {}
        if run is not None:
            from autotelic.cli.memory import opened
            from autotelic.graphs.skill_library import open_made

            settings = _settings(run)
            memory, _ = await stack.enter_async_context(opened(run))
            own = open_made(memory, config.use, scopes=settings.memory.scopes, sandbox=settings.sandbox)
            made = await stack.enter_async_context(own)
        yield await stack.enter_async_context(open_toolbox(config, workers=1, made=made))


async def _listed(config: ToolsConfig, run: Path | None) -> list[dict[str, Any]]:
    async with _opened(config, run) as toolbox:
        return [_row(tool, tool in toolbox.allowed) for tool in _all(toolbox)]


async def _tested(config: ToolsConfig, run: Path | None, calls: int, seed: int) -> list[dict[str, Any]]:
    from autotelic.tools import fuzz

    rows = []
    async with _opened(config, run) as toolbox:
        for tool in _all(toolbox):
            findings = await fuzz(tool, calls, seed, run_fitting=tool in toolbox.allowed)
            shown = [{"kind": f.call.kind, "arguments": f.call.arguments, "problem": f.problem} for f in findings]
            rows.append({"tool": tool.name, "calls": calls, "findings": shown})
    return rows


def _all(toolbox: Toolbox) -> list[Tool]:
    return sorted([*toolbox.allowed, *toolbox.refused], key=lambda tool: tool.name)


def _row(tool: Tool, allowed: bool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "permission": tool.permission,
        "allowed": allowed,
        "seconds": tool.seconds,
        "max_chars": tool.max_chars,
        "description": tool.description,
        "parameters": tool.parameters,
    }
