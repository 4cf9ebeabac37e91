"""`autotelic memory`: what a run remembers, and what it is to forget."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from autotelic.cli.shown import JsonOption, RunArgument, out, show
from autotelic.core.errors import UsageError

if TYPE_CHECKING:
    from autotelic.memory import Demonstration, DemonstrationMemory
    from autotelic.store import Ledger

__all__ = ["memory"]

memory = typer.Typer(
    help="What a run remembers: list, search, show, forget, export, import, stats.", no_args_is_help=True
)

FamilyOption = Annotated[str | None, typer.Option(help="Only this family.")]
IdArgument = Annotated[list[str], typer.Argument(help="Ids, as list shows them.")]


@memory.command("list")
def list_memory(
    run: RunArgument,
    family: FamilyOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List what is remembered, the newest first."""

    async def work() -> list[Demonstration]:
        async with _memory(run) as (found, _):
            return [one for one in await found.all() if family in (None, one.family)]

    _list(asyncio.run(work())[::-1][:limit], as_json)


@memory.command("search")
def search_memory(
    run: RunArgument,
    text: Annotated[str, typer.Argument(help="What to look for, by meaning.")],
    family: FamilyOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Search by meaning, as the solver does."""

    async def work() -> list[Demonstration]:
        from autotelic.memory import Query

        async with _memory(run) as (found, _):
            return (await found.retrieve([Query(text, family=family)], limit))[0]

    _list(asyncio.run(work()), as_json)


@memory.command("show")
def show_memory(run: RunArgument, id: str, as_json: JsonOption = False) -> None:
    """Show one item whole, with how often it was in a prompt and how often the answer was right then."""

    async def work() -> dict[str, Any]:
        async with _memory(run) as (found, ledger):
            one = _known({d.id: d for d in await found.all()}, [id])[0]
            return {**one.model_dump(mode="json"), **_use(ledger).get(id, {"used": 0, "right": None})}

    item = asyncio.run(work())
    show(item, as_json, json.dumps(item, indent=2, ensure_ascii=False))


@memory.command("forget")
def forget_memory(
    run: RunArgument,
    ids: IdArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete items for good. They do not come back; the ledger keeps the episodes they came from."""
    if not yes and not typer.confirm(f"Forget {len(ids)} for good?"):
        raise typer.Exit(1)

    async def work() -> list[str]:
        async with _memory(run) as (found, _):
            _known({d.id: d for d in await found.all()}, ids)
            return await found.forget(ids)

    gone = asyncio.run(work())
    show({"forgotten": gone}, as_json, f"forgotten: {', '.join(gone)}")


@memory.command("export")
def export_memory(run: RunArgument, file: Annotated[Path, typer.Argument(help="JSON lines.")]) -> None:
    """Write everything that is remembered to a file."""

    async def work() -> list[Demonstration]:
        async with _memory(run) as (found, _):
            return await found.all()

    lines = [one.model_dump_json() for one in asyncio.run(work())]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    out.print(f"{len(lines)} written to {file}", soft_wrap=True)


@memory.command("import")
def import_memory(
    run: RunArgument, file: Annotated[Path, typer.Argument(help="JSON lines, as export writes.")]
) -> None:
    """Add what another run remembers. What is known, or was forgotten here, is left out."""
    from autotelic.memory import Demonstration

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        items = [Demonstration.model_validate_json(line) for line in lines if line.strip()]
    except (OSError, ValidationError) as error:
        raise UsageError(f"{file} cannot be imported: {' '.join(str(error).split())[:300]}") from None

    async def work() -> int:
        async with _memory(run) as (found, _):
            return await found.add(items)

    out.print(f"{asyncio.run(work())} of {len(items)} added", soft_wrap=True)


@memory.command("stats")
def memory_stats(run: RunArgument, as_json: JsonOption = False) -> None:
    """Count what is remembered by family, and how often it helped."""

    async def work() -> list[dict[str, Any]]:
        async with _memory(run) as (found, ledger):
            return _stats(await found.all(), _use(ledger))

    rows = asyncio.run(work())
    table = Table("family", "items", "rounds", "in prompts", "right then")
    for row in rows:
        right = "-" if row["right"] is None else f"{row['right']:.1%}"
        table.add_row(row["family"], str(row["items"]), row["rounds"], str(row["used"]), right)
    show(rows, as_json, table)


@asynccontextmanager
async def _memory(run: Path) -> AsyncIterator[tuple[DemonstrationMemory, Ledger]]:
    from autotelic.core.config import load_config
    from autotelic.core.run_dir import RunDir
    from autotelic.graphs import Config
    from autotelic.graphs.session import open_memory
    from autotelic.store import Ledger

    async with AsyncExitStack() as stack:
        directory = stack.enter_context(RunDir(run).require().held())
        ledger = Ledger(directory.ledger)
        stack.callback(ledger.close)
        yield await open_memory(stack, load_config(Config, directory.config), directory), ledger


def _list(found: list[Demonstration], as_json: bool) -> None:
    table = Table("id", "family", "round", "question", "answer")
    for one in found:
        question = " ".join(one.question.split())
        table.add_row(one.id, one.family, str(one.round), question[:80], one.answer[:40])
    show([one.model_dump(mode="json") for one in found], as_json, table)


def _known(found: dict[str, Demonstration], ids: list[str]) -> list[Demonstration]:
    if missing := [id_ for id_ in ids if id_ not in found]:
        raise UsageError(f"nothing is remembered under {missing[0]!r}. See: autotelic memory list RUN")
    return [found[id_] for id_ in ids]


def _use(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """How often each item was in a prompt, and the share of right answers then."""
    from autotelic.environments import solved
    from autotelic.store import EpisodeRow

    used, right = Counter[str](), Counter[str]()
    for row in ledger.rows(EpisodeRow):
        used.update(row.memory_ids)
        right.update(row.memory_ids if solved(row.score) else ())
    return {id_: {"used": n, "right": right[id_] / n} for id_, n in used.items()}


def _stats(found: list[Demonstration], use: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for family in sorted({one.family for one in found}):
        own = [one for one in found if one.family == family]
        met = [use[one.id] for one in own if one.id in use]
        n = sum(u["used"] for u in met)
        rounds = sorted({one.round for one in own})
        right = sum(u["used"] * u["right"] for u in met) / n if n else None
        row = {"family": family, "items": len(own), "rounds": f"{rounds[0]}-{rounds[-1]}", "used": n, "right": right}
        rows.append(row)
    return rows
