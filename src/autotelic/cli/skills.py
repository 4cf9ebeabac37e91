"""`autotelic skills`: the tools that a run's model has made: looked at, made, measured, kept or removed by a person."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotelic.cli.memory import opened
from autotelic.cli.shown import JsonOption, RunArgument, listing, plain, show

if TYPE_CHECKING:
    from autotelic.graphs import Session
    from autotelic.graphs.skill_library import SkillLibrary
    from autotelic.memory.items import Skill
    from autotelic.store import SkillRow

__all__ = ["skills"]

skills = typer.Typer(
    help="Tools that a run's model has made: list, show, pin, unpin, remove, make, measure.", no_args_is_help=True
)

SkillArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of a skill, or its name.")]
FamilyOption = Annotated[str | None, typer.Option(help="Only this family.")]


@skills.command("list")
def list_skills(run: RunArgument, family: FamilyOption = None, as_json: JsonOption = False) -> None:
    """List the skills in use, with the gain that matched rollouts showed."""

    async def work() -> list[Skill]:
        from autotelic.graphs.skill_library import skills_of

        async with opened(run) as (library, _):
            return [skill for skill in await skills_of(library) if family in (None, skill.family)]

    found = asyncio.run(work())
    table = listing("id", "family", "version", "round", "gain", "pinned", "what it does")
    for one in found:
        does = one.description.splitlines()[0] if one.description else ""
        pinned = "yes" if one.pinned else ""
        table.add_row(*plain(one.id, one.family, str(one.version), str(one.round), _gain(one), pinned, does[:60]))
    show([one.model_dump(mode="json") for one in found], as_json, table)


@skills.command("show")
def show_skill(run: RunArgument, id: SkillArgument, as_json: JsonOption = False) -> None:
    """Show a skill: its code, schema, tests and origin, and everything that was decided about it."""

    async def work() -> tuple[Skill, list[dict[str, Any]]]:
        from autotelic.graphs.skill_library import find_skill
        from autotelic.store import SkillRow

        async with opened(run) as (library, ledger):
            skill = await find_skill(library, id)
            rows = ledger.rows(SkillRow, skill_id=skill.id, order=["round", "kind", "id"])
            return skill, [row.model_dump(include=_SHOWN) for row in rows]

    skill, decided = asyncio.run(work())
    data = {**skill.model_dump(mode="json"), "decided": decided}
    about = json.dumps({k: v for k, v in data.items() if k != "code"}, indent=2, ensure_ascii=False)
    show(data, as_json, f"{skill.code}\n\n{about}")


@skills.command("pin")
def pin(run: RunArgument, id: SkillArgument, as_json: JsonOption = False) -> None:
    """Keep a skill, whatever is measured."""
    _pin(run, id, True, as_json)


@skills.command("unpin")
def unpin(run: RunArgument, id: SkillArgument, as_json: JsonOption = False) -> None:
    """Let measurements decide about a skill again."""
    _pin(run, id, False, as_json)


@skills.command("remove")
def remove(
    run: RunArgument,
    id: SkillArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a skill for good. The ledger keeps what was decided about it.

    In a run whose oversight names forgetting this waits for `autotelic approve`, exit code 3; then give it again.
    """
    if not yes and not typer.confirm(f"Remove {id} for good?"):
        raise typer.Exit(1)

    async def work() -> list[str]:
        from autotelic.core.run_dir import RunDir
        from autotelic.graphs.holdings import forget_items
        from autotelic.graphs.skill_library import find_skill

        async with opened(run) as (library, ledger):
            return await forget_items(RunDir(run), library, ledger, [(await find_skill(library, id)).id])

    gone = asyncio.run(work())
    show({"removed": gone}, as_json, f"removed: {', '.join(gone)}")


@skills.command("make")
def make(
    run: RunArgument,
    family: Annotated[str, typer.Option(help="Family of tasks that the functions are to help with.")],
    as_json: JsonOption = False,
) -> None:
    """Have the champion write functions for a family, and keep those whose matched rollouts show a gain.

    Once in a round of the run: asked again, it goes on, or shows what came of it.
    """
    from autotelic.graphs.toolsmithing import make_in_run

    _decided(run, lambda session, library: make_in_run(session, library, family), as_json)


@skills.command("measure")
def measure(run: RunArgument, family: FamilyOption = None, as_json: JsonOption = False) -> None:
    """Measure the skills of earlier rounds again with the champion, and retire those that do no good."""
    from autotelic.graphs.toolsmithing import measure_in_run

    _decided(run, lambda session, library: measure_in_run(session, library, family), as_json)


_SHOWN = {"id", "kind", "skill_id", "round", "policy", "kept", "reason", "detail", "trial", "evidence"}


def _pin(run: Path, id: str, pinned: bool, as_json: bool) -> None:
    async def work() -> Skill:
        from autotelic.graphs.skill_library import pin_skill

        async with opened(run) as (library, _):
            return await pin_skill(library, id, pinned)

    skill = asyncio.run(work())
    said = f"{skill.id} is {'kept, whatever is measured' if pinned else 'kept as long as it does good'}"
    show({"id": skill.id, "pinned": skill.pinned}, as_json, said)


def _decided(run: Path, work: Callable[[Session, SkillLibrary], Awaitable[list[SkillRow]]], as_json: bool) -> None:
    async def decide() -> list[SkillRow]:
        from autotelic.cli.bars import Bars
        from autotelic.core.config import load_config
        from autotelic.core.run_dir import RunDir
        from autotelic.graphs import Config, open_session

        with Bars() as bars, RunDir(run).require().held() as directory:
            async with open_session(load_config(Config, directory.config), directory, bars) as session:
                return await work(session, session.memory)

    rows = [row.model_dump(include=_SHOWN) for row in asyncio.run(decide())]
    table = listing("id", "skill", "kept", "reason", "figures")
    for row in rows:
        table.add_row(*plain(row["id"], row["skill_id"], "yes" if row["kept"] else "no", row["reason"], row["detail"]))
    show(rows, as_json, table)


def _gain(skill: Skill) -> str:
    if skill.gain is None:
        return "not measured"
    mean, low, high = (100 * figure for figure in skill.gain)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
