"""`autotelic strategies`: ways to a better answer without touching the weights, and `eval --strategy`."""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from autotelic.cli.shown import JsonOption, RunArgument, listing, out, plain, show
from autotelic.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotelic.core.progress import Progress
    from autotelic.evaluation import RoutesConfig
    from autotelic.refinement import Budget

__all__ = ["evaluate_strategies", "split_strategies", "strategies", "strategy_table"]

strategies = typer.Typer(help="Strategies of answering: list, show, learn.", no_args_is_help=True)


@strategies.command("list")
def list_strategies(as_json: JsonOption = False) -> None:
    """List the strategies that can be named, with their parameters."""
    from autotelic.core.registry import available, lookup
    from autotelic.refinement import parameters

    rows = []
    for name in available("strategy"):
        maker = lookup("strategy", name)
        rows.append({"strategy": name, "parameters": parameters(maker), "what": _doc(maker).split("\n")[0]})
    table = listing("strategy", "parameters", "what it does")
    for row in rows:
        table.add_row(*plain(*row.values()))
    show(rows, as_json, table)


@strategies.command("show")
def show_strategy(
    name: Annotated[str, typer.Argument(help="Name of a strategy.")], as_json: JsonOption = False
) -> None:
    """Show what a strategy does, where it comes from and what its parameters mean."""
    from autotelic.core.registry import lookup
    from autotelic.refinement import parameters

    maker = lookup("strategy", name)
    data = {"strategy": name, "parameters": parameters(maker), "what": _doc(maker)}
    show(data, as_json, f"{name}({data['parameters']})\n\n{data['what']}")


@strategies.command("learn")
def learn(
    run: RunArgument,
    strategy: Annotated[
        str, typer.Option(help="Strategies to weigh against direct, e.g. self_consistency(n=8),debate.")
    ],
    on: Annotated[int | None, typer.Option(help="Round whose fresh suite is learned on; by default the first.")] = None,
    prove: Annotated[
        int | None, typer.Option(help="Round whose fresh suite decides: the next, or of a single one the other half.")
    ] = None,
    price: Annotated[float, typer.Option(min=0, help="Points that a thousand tokens more must gain.")] = 1.0,
    calls: Annotated[int, typer.Option(min=1, help="Calls of the model for learning; the proof comes on top.")] = 5000,
    policy: Annotated[int | None, typer.Option(help="Number of a policy; the champion if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Learn which strategy is worth its tokens in which family; `auto` uses it once the gate has promoted it."""
    from autotelic.cli.bars import Bars
    from autotelic.evaluation import RoutesConfig

    names = split_strategies(strategy)
    config = RoutesConfig(price=price / 100, calls=calls)
    with Bars() as bars:
        found = asyncio.run(_learned(run, names, policy, config, on, prove, bars))
    table = listing("family", "strategy", "gain [95%]", "more tokens", "chosen", box=SIMPLE_HEAD)
    for one in found["choices"]:
        gain, chosen = one["gain"], "yes" if one["chosen"] else "dropped" if one["dropped"] else "no"
        shown = f"{100 * gain['gain']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
        table.add_row(*plain(one["family"], one["strategy"], shown, f"{one['tokens']:,.0f}", chosen))
    show(found, as_json, table)
    if not as_json:
        verdict = "promoted" if found["promoted"] else "not promoted"
        out.print("\n".join([f"routes {found['version']}: {verdict}", *found["reasons"]]), markup=False)


async def _learned(
    run: Path,
    names: list[str],
    policy: int | None,
    config: RoutesConfig,
    on: int | None,
    prove: int | None,
    progress: Progress,
) -> dict[str, Any]:
    from autotelic.core.run_dir import RunDir
    from autotelic.graphs.actions import opened_suite
    from autotelic.graphs.config import run_config
    from autotelic.graphs.routing import learn_in_run
    from autotelic.refinement import build_strategy

    run_config(RunDir(run).require())  # a strategy may be one of its plug-ins'
    for name in names:
        build_strategy(name)
    async with opened_suite(run, "frozen", policy, memory=False, progress=progress) as (s, asked):
        row = await learn_in_run(s, names, asked.policy, config, learn=on, prove=prove)
    return row.model_dump(mode="json")


def split_strategies(text: str) -> list[str]:
    """Split `a,b(n=2),c` at the commas between strategies, not at those within.

    Raises:
        UsageError: it is no list of strategies.
    """
    try:
        tree = ast.parse(f"[{text}]", mode="eval").body
    except (SyntaxError, ValueError):
        tree = None
    if not isinstance(tree, ast.List) or not tree.elts:
        raise UsageError(f"--strategy {text!r} is no list of strategies. Write direct,self_consistency(n=8).")
    return list(dict.fromkeys(ast.unparse(part) for part in tree.elts))


async def evaluate_strategies(
    run: Path,
    names: list[str],
    policy: int | None,
    suite: str,
    *,
    memory: bool,
    budget: Budget,
    others: Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    """Have a policy answer a suite by each strategy, as far as it has not; write the page, return the figures.

    Raises:
        UsageError: there is no such strategy, suite or policy.
    """
    from autotelic.core.run_dir import RunDir
    from autotelic.evaluation import bootstrap_seed, strategy_figures, strategy_page
    from autotelic.graphs.actions import opened_suite
    from autotelic.graphs.config import run_config
    from autotelic.graphs.others import shown_others
    from autotelic.graphs.refining import answer_suite_by
    from autotelic.refinement import build_strategy

    run_config(RunDir(run).require())  # a strategy may be one of its plug-ins'
    for name in names:
        build_strategy(name, suite=True)  # a mistake is found before anything is started
    async with opened_suite(run, suite, policy, memory=memory, progress=progress, others=others) as (s, asked):
        rows = {
            name: await answer_suite_by(
                s, name, asked.suite, asked.round, asked.policy, memory_of=asked.memory_of, budget=budget
            )
            for name in names
        }
        seed, spoke = bootstrap_seed(s.config.seed), shown_others(s.config.solve.others)
    found = strategy_figures(rows, seed=seed)
    page = run / f"strategies-{asked.suite}{f'-{asked.round}' if asked.round else ''}.html"
    n = len(rows[names[0]])
    helped = " with memory" if memory else ""
    who = f"policy-{asked.policy}{spoke}"
    try:
        page.write_text(strategy_page(found, f"{who} on {n} tasks of {suite}{helped}"), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{page} cannot be written: {error}. The answers are kept: give the command again.") from None
    return {
        "policy": asked.policy,
        "who": who,
        "suite": suite,
        "memory": memory,
        "n": n,
        "page": str(page),
        "strategies": [one.model_dump(mode="json") for one in found],
    }


def strategy_table(found: dict[str, Any]) -> Table:
    """Return the figures for a terminal; where it is wide enough, with a bar for each accuracy, and calls."""
    from autotelic.evaluation import told_stops

    wide = out.width >= 110
    stops = [f"{one['strategy']}: {told_stops(one['stopped'])}" for one in found["strategies"] if one["stopped"]]
    cut = f"cut short, of {found['n']}: {'; '.join(stops)}\n" if stops else ""
    table = Table(
        title=f"{found['who']} on {found['n']} tasks of {found['suite']}, percent",
        caption=Text(f"{cut}against tokens, as a picture: {found['page']}"),
        box=SIMPLE_HEAD,
        caption_justify="left",
    )
    table.add_column("strategy", min_width=16, overflow="fold")
    for head in (
        "accuracy [95%]",
        *([""] if wide else []),
        "gain [95%]",
        "tokens",
        *(["calls"] if wide else []),
        "flips",
    ):
        table.add_column(head, no_wrap=True, justify="left" if not head else "right")
    top = max([one["accuracy"]["high"] for one in found["strategies"] if one["accuracy"]], default=1.0) or 1.0
    for one in found["strategies"]:
        share, gain = one["accuracy"] or {"mean": 0.0, "low": 0.0, "high": 0.0}, one["gain"]
        bar = "█" * round(16 * share["mean"] / top) + "─" * round(16 * (share["high"] - share["mean"]) / top)
        table.add_row(
            Text(one["strategy"]),
            f"{100 * share['mean']:.1f} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]",
            *([bar] if wide else []),
            "" if gain is None else f"{100 * gain['gain']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]",
            f"{one['tokens']:,.0f}",
            *([f"{one['calls']:.1f}"] if wide else []),
            f"+{one['mended']} -{one['spoiled']}",
        )
    return table


def _doc(maker: Any) -> str:
    return inspect.getdoc(maker) or ""
