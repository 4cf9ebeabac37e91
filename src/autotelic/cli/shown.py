"""What commands share: the console, `--json`, and one way to print a result for a person or for a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

__all__ = ["JsonOption", "OtherOption", "RunArgument", "listing", "out", "plain", "show"]

out = Console()

RunArgument = Annotated[Path, typer.Argument(help="Directory of a run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]
OtherOption = Annotated[
    list[str] | None,
    typer.Option(help="Another model that speaks in debate, mixture...: provider/name, or openai/NAME=URL."),
]


def listing(name: str, *heads: str, **style: Any) -> Table:
    """Return a table of which nothing is cut: names stand in one line, to be copied, and the rest goes on below."""
    return Table(Column(name, no_wrap=True), *(Column(head, overflow="fold") for head in heads), **style)


def plain(*cells: str) -> list[Text]:
    """Return cells of a table that hold data: what stands in square brackets is no colour."""
    return [Text(cell) for cell in cells]


def show(data: Any, as_json: bool, shown: Any) -> None:
    """Print `data` as JSON, or `shown` (text or anything that Rich draws)."""
    if as_json:
        out.print_json(json.dumps(data, default=str))
    else:
        out.print(shown, soft_wrap=isinstance(shown, str), markup=not isinstance(shown, str))
