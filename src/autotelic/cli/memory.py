"""`autotelic memory`: what a run remembers, and what it is to forget."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.text import Text

from autotelic.cli.shown import JsonOption, RunArgument, listing, out, plain, show
from autotelic.core.errors import UsageError
from autotelic.core.faults import faults

if TYPE_CHECKING:
    from autotelic.memory import Kind, Memory, Usefulness
    from autotelic.store import Ledger

__all__ = ["memory", "opened"]

memory = typer.Typer(
    help="What a run remembers: list, search, show, restore, forget, export, import, stats.", no_args_is_help=True
)

KindOption = Annotated[str | None, typer.Option(help="Only demonstration, lesson, skill or record (notes, too).")]
IntoOption = Annotated[str | None, typer.Option(help="Put all of it into this scope: run, project/NAME, user/NAME.")]
FamilyOption = Annotated[str | None, typer.Option(help="Only this family.")]
ScopeOption = Annotated[str | None, typer.Option(help="Only this scope and what is below it: run, user/ada ...")]
IdArgument = Annotated[list[str], typer.Argument(help="Ids, as list shows them.")]


@memory.command("list")
def list_memory(
    run: RunArgument,
    kind: KindOption = None,
    family: FamilyOption = None,
    scope: ScopeOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List what is remembered, the newest first; what is out of sight of the solver with the reason."""
    wanted = _kinds(kind)

    async def work() -> tuple[list[Any], dict[str, str]]:
        async with opened(run) as (found, _):
            items = [one for one in await found.all(*wanted) if family in (None, one.family) and _under(one, scope)]
            return items, {id_: row.why for id_, row in (await found.rows()).items()}

    items, why = asyncio.run(work())
    _list(items[::-1][:limit], as_json, why)
    if not as_json and len(items) > limit:
        out.print(f"{limit} of {len(items)}; --limit shows more")


@memory.command("search")
def search_memory(
    run: RunArgument,
    text: Annotated[str, typer.Argument(help="What to look for, by meaning and by words.")],
    kind: KindOption = None,
    family: FamilyOption = None,
    scope: ScopeOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Search what is in sight, by meaning and by words."""
    wanted = _kinds(kind)

    async def work() -> list[Any]:
        from autotelic.memory import Query

        async with opened(run) as (found, _):
            scopes = None if scope is None else (scope,)
            query = Query(text, family=family, kinds=wanted, scopes=scopes, itself=True)
            return (await found.retrieve([query], limit, keywords=True))[0]

    _list(asyncio.run(work()), as_json, {})


@memory.command("show")
def show_memory(
    run: RunArgument,
    id: Annotated[str, typer.Argument(help="Id, as list shows it.")],
    as_json: JsonOption = False,
) -> None:
    """Show one item whole: where it stands, and what attempts with it were worth against bare ones."""

    async def work() -> dict[str, Any]:
        async with opened(run) as (found, ledger):
            one = (await _known(found, [id]))[0]
            row = (await found.rows())[id]
            worth = _worth(ledger).get(id)
            standing = {"out_of_sight": row.why or None, "usefulness": worth.model_dump() if worth else None}
            return {**one.model_dump(mode="json"), **standing}

    item = asyncio.run(work())
    show(item, as_json, json.dumps(item, indent=2, ensure_ascii=False))


@memory.command("restore")
def restore_memory(
    run: RunArgument,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids, as list shows them.")] = None,
    why: Annotated[str | None, typer.Option(help="All that left for this reason: consolidated, harmful, room.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put items that left the solver's sight back into it.

    What did harm or had to make room can come back until a later round remembers something; then it is deleted.
    """
    if bool(ids) == bool(why):
        raise UsageError("name ids, or a reason with --why; one of the two. See: autotelic memory list RUN")

    async def work() -> list[str]:
        async with opened(run) as (found, _):
            if ids:
                await _known(found, ids)
                return await found.restore(ids)
            gone = {id_: row.why for id_, row in (await found.rows()).items() if row.why}
            if why not in gone.values():
                have = ", ".join(sorted(set(gone.values()))) or "none"
                raise UsageError(f"nothing is out of sight for the reason {why!r}. Reasons here: {have}.")
            return await found.restore([id_ for id_, reason in gone.items() if reason == why])

    back = asyncio.run(work())
    show({"restored": back}, as_json, f"restored: {', '.join(back) or 'none, all of it is in sight'}")


@memory.command("forget")
def forget_memory(
    run: RunArgument,
    ids: IdArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete items for good. They do not come back; the ledger keeps the episodes they came from.

    In a run whose oversight names forgetting this waits for `autotelic approve`, exit code 3; then give it again.
    """
    if not yes and not typer.confirm(f"Forget {len(ids)} for good?"):
        raise typer.Exit(1)

    async def work() -> list[str]:
        from autotelic.core.run_dir import RunDir
        from autotelic.graphs.holdings import forget_items

        async with opened(run) as (found, ledger):
            return await forget_items(RunDir(run), found, ledger, ids)

    gone = asyncio.run(work())
    show({"forgotten": gone}, as_json, f"forgotten: {', '.join(gone)}")


@memory.command("export")
def export_memory(
    run: RunArgument, file: Annotated[Path, typer.Argument(help="JSON lines.")], as_json: JsonOption = False
) -> None:
    """Write everything that is remembered to a file: also notes, and what is out of sight, with the reason."""

    async def work() -> str:
        from autotelic.memory import dump

        async with opened(run) as (found, _):
            return await dump(found)

    if not file.parent.is_dir():
        raise UsageError(f"{file} cannot be written: there is no folder {file.parent}. Make it, or name another file.")
    text = asyncio.run(work())
    _write(file, text)
    lines = text.count("\n")
    show({"written": lines, "file": str(file)}, as_json, f"{lines} written to {file}")


@memory.command("import")
def import_memory(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(help="JSON lines, as export writes.")],
    scope: IntoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add what another run remembers; the solver sees it from the first round on.

    What is known, unfit, did harm or was forgotten here is left out; what was out of sight there is so here. The rest
    gets ids of its own, imported/ and the old one. A scope is seen where the run's memory.scopes name it.
    """
    from autotelic.memory import Added, load, read_dump

    try:
        held = read_dump(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UsageError(
            f"{file} cannot be imported: {faults(error)}. Each line is an item as export writes."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be imported: {error}") from None

    async def work() -> Added:
        async with opened(run) as (found, _):
            return await load(found, held, scope)

    done = asyncio.run(work())
    refused = [f"{id_} is refused: {why}" for id_, why in done.refused.items()]
    merged = [f"{len(done.merged)} say what a known lesson says"] if done.merged else []
    said = "\n".join([*refused, *merged, f"{len(done.added)} of {len(held)} added"])
    show(done.model_dump(mode="json"), as_json, said)


@memory.command("stats")
def memory_stats(run: RunArgument, as_json: JsonOption = False) -> None:
    """Count what is remembered, what of it is out of sight and why, and what it has been worth."""

    async def work() -> list[dict[str, Any]]:
        async with opened(run) as (found, ledger):
            why = {id_: row.why for id_, row in (await found.rows()).items()}
            return _stats(await found.all(*_kinds(None)), why, _worth(ledger))

    rows = asyncio.run(work())
    table = listing("kind", "family", "in sight", "out of sight", "uses", "useful", "harmful")
    for row in rows:
        gone = ", ".join(f"{n} {why}" for why, n in row["out_of_sight"].items())
        numbers = [str(row[name]) for name in ("uses", "useful", "harmful")]
        table.add_row(*plain(row["kind"], row["family"], str(row["in_sight"]), gone or "-", *numbers))
    show(rows, as_json, table)


@asynccontextmanager
async def opened(run: Path) -> AsyncIterator[tuple[Memory, Ledger]]:
    """Open a run's memory and ledger, as their only user."""
    from autotelic.graphs.holdings import open_library

    async with open_library(run) as found:
        yield found


def _kinds(kind: str | None) -> tuple[Kind, ...]:
    from autotelic.memory import KINDS

    kinds: tuple[Kind, ...] = (*KINDS, "record")
    if kind is None:
        return kinds
    if chosen := tuple(known for known in kinds if known == kind):
        return chosen
    raise UsageError(f"there is no kind {kind!r}; there are {', '.join(kinds)}.")


def _write(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = file.with_name(f".{file.name}.part")
    try:
        if file.exists() and not file.is_file():  # a pipe, say
            file.write_text(text, encoding="utf-8")
            return
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UsageError(f"{file} cannot be written: {error.strerror or error}. Name another file.") from None


def _under(one: Any, scope: str | None) -> bool:
    return scope is None or one.scope == scope or one.scope.startswith(f"{scope}/")


def _list(found: list[Any], as_json: bool, why: dict[str, str]) -> None:
    table = listing("id", "found by", "out of sight")
    for one in found:
        text = " ".join(one.text.split())
        about = Text(f"{one.id}\n  {one.kind}, {one.family}, round {one.round}")
        table.add_row(about, *plain(text[:80], why.get(one.id) or "-"))
    show([one.model_dump(mode="json") for one in found], as_json, table)


async def _known(memory: Memory, ids: list[str]) -> list[Any]:
    from autotelic.graphs.holdings import known_items

    return await known_items(memory, ids)


def _worth(ledger: Ledger) -> dict[str, Usefulness]:
    from autotelic.graphs.holdings import worth_of

    return worth_of(ledger)


def _stats(found: list[Any], why: dict[str, str], worth: dict[str, Usefulness]) -> list[dict[str, Any]]:
    rows = []
    for kind, family in sorted({(one.kind, one.family) for one in found}):
        own = [one.id for one in found if (one.kind, one.family) == (kind, family)]
        known = [worth[id_] for id_ in own if id_ in worth]
        gone = Counter(why[id_] for id_ in own if why[id_])
        rows.append(
            {
                "kind": kind,
                "family": family,
                "in_sight": len(own) - gone.total(),
                "out_of_sight": dict(gone),
                "uses": sum(one.uses for one in known),
                "useful": sum(one.low > 0 for one in known),
                "harmful": sum(one.high < 0 for one in known),
            }
        )
    return rows
