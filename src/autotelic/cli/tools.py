"""`autotelic tools`: look at tools, call one, and try how it takes bad calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from autotelic.cli.shown import JsonOption, show
from autotelic.core.errors import UsageError

if TYPE_CHECKING:
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
NameArgument = Annotated[str, typer.Argument(help="Name of a tool.")]


def tools_config(tool: Sequence[str] | None, allow: Sequence[str] | None) -> ToolsConfig:
    """Return the options of a command as a config."""
    from autotelic.tools import DEFAULT_ALLOW, ToolsConfig

    return ToolsConfig(use=tuple(tool or ()), allow=(*DEFAULT_ALLOW, *(allow or ())))


@tools.command("list")
def list_tools(tool: ToolOption = None, allow: AllowOption = None, as_json: JsonOption = False) -> None:
    """List the tools that --tool names; without it, the names that can be given to --tool."""
    if not tool:
        from autotelic.core.registry import available

        names = sorted({"python", *available("tool")})
        show(names, as_json, "\n".join(names))
        return
    rows = asyncio.run(_listed(tools_config(tool, allow)))
    table = Table("tool", "permission", "allowed", "seconds", "what it does")
    for row in rows:
        does = row["description"].split("\n")[0]
        table.add_row(row["name"], row["permission"], "yes" if row["allowed"] else "no", f"{row['seconds']:g}", does)
    show(rows, as_json, table)


@tools.command("show")
def show_tool(name: NameArgument, tool: ToolOption = None, as_json: JsonOption = False) -> None:
    """Show a tool's description, bounds and schema."""
    rows = {row["name"]: row for row in asyncio.run(_listed(tools_config(tool or [name], None)))}
    if name not in rows:
        raise UsageError(f"--tool names no tool {name!r}; it names: {', '.join(rows)}.")
    row = rows[name]
    show(row, as_json, json.dumps(row, indent=2, ensure_ascii=False))


@tools.command("call")
def call_tool(
    name: NameArgument,
    arguments: Annotated[str, typer.Option("--args", help='JSON, e.g. {"expression": "2 + 2"}.')] = "{}",
    tool: ToolOption = None,
    allow: AllowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call a tool as a model would; exit code 1 if it did not do its work."""
    from autotelic.tools import open_toolbox

    async def call() -> Any:
        async with open_toolbox(tools_config(tool or [name], allow), workers=1) as toolbox:
            return await toolbox.call(name, arguments)

    result = asyncio.run(call())
    show(result.model_dump(), as_json, result.content if result.ok else f"{result.reason}: {result.content}")
    if not result.ok:
        raise typer.Exit(1)


@tools.command("test")
def test_tools(
    tool: ToolOption = None,
    allow: AllowOption = None,
    calls: Annotated[int, typer.Option(min=1, help="Calls for each tool.")] = 300,
    seed: Annotated[int, typer.Option(help="Which calls.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Try tools with calls drawn from their schemas, most of them broken; exit code 1 if one ends as it must not.

    Calls that fit are made to allowed tools only; broken ones never reach a tool that keeps its schema.
    """
    found = asyncio.run(_tested(tools_config(tool, allow), calls, seed))
    lines = [f"{row['tool']}: {row['calls']} calls, {len(row['findings'])} ended badly" for row in found]
    for row in found:
        lines += [f"  {f['kind']} {f['arguments'][:100]}: {f['problem']}" for f in row["findings"][:10]]
    show(found, as_json, "\n".join(lines))
    if not found:
        raise UsageError("no tool was named. Name one with --tool, e.g. --tool my_tools.py")
    if any(row["findings"] for row in found):
        raise typer.Exit(1)


async def _listed(config: ToolsConfig) -> list[dict[str, Any]]:
    from autotelic.tools import open_toolbox

    async with open_toolbox(config, workers=1) as toolbox:
        return [_row(tool, tool in toolbox.allowed) for tool in _all(toolbox)]


async def _tested(config: ToolsConfig, calls: int, seed: int) -> list[dict[str, Any]]:
    from autotelic.tools import fuzz, open_toolbox

    rows = []
    async with open_toolbox(config, workers=1) as toolbox:
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
