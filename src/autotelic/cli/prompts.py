"""`autotelic prompts`: a role's prompts evolved and proved, and the versions that a run has."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.text import Text

from autotelic.cli.shown import JsonOption, RunArgument, listing, out, show
from autotelic.core.errors import UsageError

if TYPE_CHECKING:
    from autotelic.core.progress import Progress
    from autotelic.store import PromptRow

__all__ = ["prompts"]

prompts = typer.Typer(help="Evolved prompts: evolve, list, show.", no_args_is_help=True)


@prompts.command("evolve")
def evolve(
    run: RunArgument,
    role: Annotated[str, typer.Option(help="Whose prompts: solver, critic, proposer or curator.")] = "solver",
    family: Annotated[str | None, typer.Option(help="The solver's prompt for this family; else one for all.")] = None,
    calls: Annotated[int, typer.Option(min=1, help="Most calls of models while evolving, reflections too.")] = 300,
    on: Annotated[int, typer.Option(help="Round whose fresh suite is learned on.")] = 1,
    prove: Annotated[int, typer.Option(help="Round whose fresh suite decides.")] = 2,
    policy: Annotated[int | None, typer.Option(help="Number of a policy; the champion if not given.")] = None,
    reflector: Annotated[
        str | None, typer.Option(help="A model called through LiteLLM that reflects; else the policy itself.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible server for --reflector.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evolve a role's prompts by reflection on failures and by solved examples; `prompted` uses what the gate takes."""
    from autotelic.cli.bars import Bars
    from autotelic.graphs.prompting import component_of

    component_of(role, family)  # a mistake is found before anything is started
    if base_url is not None and reflector is None:
        raise UsageError("--base-url is the address of the model named by --reflector; name one, e.g. openai/NAME.")
    what = {"role": role, "family": family, "learn": on, "prove": prove, "calls": calls}
    with Bars() as bars:
        row = asyncio.run(_evolved(run, what, policy, reflector, base_url, bars))
    _show_version(row, as_json)


async def _evolved(
    run: Path, what: dict[str, Any], policy: int | None, reflector: str | None, base_url: str | None, progress: Progress
) -> PromptRow:
    from autotelic.graphs.actions import opened_suite
    from autotelic.graphs.evolving import Plan, Reflector, evolve_in_run
    from autotelic.serving import Gateway, LiteLLMBackend

    async with opened_suite(run, f"fresh:{what['prove']}", policy, memory=False, progress=progress) as (s, asked):
        plan = Plan(policy=asked.policy, **what)
        if not s.ledger.suite("fresh", round=plan.learn):
            raise UsageError(f"the run has no suite fresh:{plan.learn} to learn on. Name another round with --on.")
        if plan.family not in (None, *s.environment.families):
            have = ", ".join(s.environment.families)
            raise UsageError(f"the run has no family {plan.family!r}. It has: {have}.")
        if reflector is None:
            return await evolve_in_run(s, plan)
        gateway = Gateway(LiteLLMBackend(reflector, base_url=base_url))
        try:
            return await evolve_in_run(s, plan, Reflector(gateway, reflector, max_tokens=4096))
        finally:
            await gateway.aclose()


@prompts.command("list")
def list_prompts(run: RunArgument, as_json: JsonOption = False) -> None:
    """List the versions of a run's prompts."""
    rows = _rows(run)
    table = listing("version", "role", "policy", "promoted", "gain [95%]", "calls", "learned on", "proved on")
    for row in rows:
        verdict = "yes" if row.promoted else "no"
        place = (row.learned_on, row.proved_on)
        table.add_row(str(row.version), row.role, str(row.policy), verdict, _gain(row), str(row.calls), *place)
    show([row.model_dump(mode="json", exclude={"tried"}) for row in rows], as_json, table)


@prompts.command("show")
def show_prompt(
    run: RunArgument,
    version: Annotated[int, typer.Argument(help="Number of a version.")],
    as_json: JsonOption = False,
) -> None:
    """Show a version: its prompts, what was tried on the way, and what the gate said."""
    rows = {row.version: row for row in _rows(run)}
    if version not in rows:
        have = ", ".join(map(str, rows)) or "none yet; see: autotelic prompts evolve --help"
        raise UsageError(f"the run has no version {version} of its prompts. It has: {have}.")
    _show_version(rows[version], as_json)


def _rows(run: Path) -> list[PromptRow]:
    from autotelic.core.run_dir import RunDir
    from autotelic.store import Ledger, PromptRow

    ledger = Ledger(RunDir(run).require().ledger)
    try:
        return ledger.rows(PromptRow, order="version")
    finally:
        ledger.close()


def _show_version(row: PromptRow, as_json: bool) -> None:
    table = listing("tasks", "score", "chosen", "by", "prompt", box=SIMPLE_HEAD)
    for one in row.tried:
        score, chosen = "-" if one["score"] is None else f"{one['score']:.1%}", "yes" if one["chosen"] else ""
        by = one.get("by", "")  # older ledgers do not say
        table.add_row(str(one["tasks"]), score, chosen, by, Text(_cut(one["text"])))
    show(row.model_dump(mode="json"), as_json, table)
    if as_json:
        return
    verdict = f"{'promoted' if row.promoted else 'not promoted'} for policy-{row.policy}"
    lines = [
        f"prompts {row.version} of the {row.role}: {verdict}",
        f"learned on {row.learned_on} in {row.calls} of {row.budget} calls, reflected on by {row.reflector}",
        *row.reasons,
        *(f"\n{component}:\n{text}" for component, text in row.prompts.items()),
    ]
    out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _gain(row: PromptRow) -> str:
    found: dict[str, Any] | None = row.evidence.get("fresh")
    if found is None:
        return "-"
    return f"{100 * found['gain']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
