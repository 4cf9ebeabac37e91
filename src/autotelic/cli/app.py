"""The commands: each is a few lines over the library, with `--json` where a script would want it.

Exit codes: 0 done, 1 something failed, 2 the user has to act, 3 the run waits for a person, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from autotelic import __version__
from autotelic.cli.approvals import approvals, approve, waits
from autotelic.cli.chat import chat
from autotelic.cli.graphs import graphs, run_graph
from autotelic.cli.memory import memory
from autotelic.cli.prompts import prompts
from autotelic.cli.serve import serve
from autotelic.cli.shown import JsonOption, OtherOption, RunArgument, listing, out, plain, show
from autotelic.cli.skills import skills
from autotelic.cli.strategies import evaluate_strategies, split_strategies, strategies, strategy_table
from autotelic.cli.tools import tools
from autotelic.cli.ui import ui
from autotelic.core.errors import UsageError

__all__ = ["app"]

app = typer.Typer(
    name="autotelic",
    help="Language models that improve themselves: self-play over a local vLLM model, proved, gated, resumable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
policies = typer.Typer(help="The policies of a run: list, show, promote, roll back.", no_args_is_help=True)
app.add_typer(policies, name="policies")
app.add_typer(tools, name="tools")
app.add_typer(graphs, name="graphs")
app.add_typer(memory, name="memory")
app.add_typer(skills, name="skills")
app.add_typer(strategies, name="strategies")
app.add_typer(prompts, name="prompts")

NumberArgument = Annotated[int, typer.Argument(help="Number of a policy.")]
SetArgument = Annotated[list[str] | None, typer.Argument(help="Overrides of the config, key=value.")]


def _version(value: bool) -> None:
    if value:
        out.print(f"autotelic {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Language models that improve themselves."""


@app.command("self-play")
def self_play(
    config: Annotated[Path, typer.Argument(help="YAML file, e.g. configs/quickstart.yaml.")],
    overrides: SetArgument = None,
    run: Annotated[Path | None, typer.Option(help="Run directory; runs/<config's name> if not given.")] = None,
    approve: Annotated[
        bool | None,
        typer.Option("--approve/--refuse", help="Answer to what waits for a person: a promotion, training or tool."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold a self-play session, or go on with one that was interrupted."""
    from autotelic.cli.bars import Bars
    from autotelic.core.config import load_config
    from autotelic.graphs import Config, SelfPlay

    settings = load_config(Config, config, overrides or [])
    directory = run or Path("runs") / config.stem
    with Bars() as bars:
        outcome = asyncio.run(SelfPlay(settings, directory, bars).run(answer=approve))
    if outcome.question is not None:
        show({"waiting": outcome.question}, as_json, waits(directory, outcome.question))
        raise typer.Exit(3)
    _finished(directory, as_json)


def _finished(run: Path, as_json: bool) -> None:
    from autotelic.cli.tables import report_tables

    report = json.loads((run / "report.json").read_text())
    if as_json:
        out.print_json(json.dumps(report))
        return
    for table in report_tables(report):
        out.print(table)
    out.print(f"report: {run / 'report.html'}", soft_wrap=True)


@app.command()
def report(run: RunArgument, as_json: JsonOption = False) -> None:
    """Write report.json and report.html of a run anew, and show the figures."""
    from autotelic.core.run_dir import RunDir
    from autotelic.evaluation import write_report

    try:
        write_report(RunDir(run).require().root)
    except OSError as error:
        raise UsageError(f"the report of {run} cannot be written: {error}. Make the directory writable.") from None
    _finished(run, as_json)


@app.command("eval")
def evaluate(
    run: RunArgument,
    policy: Annotated[int | None, typer.Option(help="Number of a policy; the champion if not given.")] = None,
    suite: Annotated[
        str, typer.Option(help="frozen, fresh:ROUND, regression:ROUND, or sealed after the end.")
    ] = "frozen",
    memory: Annotated[bool, typer.Option(help="Answer with the memory's help.")] = False,
    strategy: Annotated[
        str | None, typer.Option(help="Strategies to compare, e.g. direct,self_consistency(n=8); see: strategies list.")
    ] = None,
    calls: Annotated[int | None, typer.Option(min=1, help="Most calls for an answer by a strategy.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens, prompts included.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Most seconds.")] = None,
    other: OtherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a policy answer a suite, and show its accuracy by family, or that of several strategies of answering."""
    from autotelic.cli.bars import Bars
    from autotelic.cli.tables import accuracy_table
    from autotelic.graphs.actions import evaluate_policy

    if strategy is not None:
        from autotelic.refinement import Budget

        names, budget = split_strategies(strategy), Budget(calls=calls, tokens=tokens, seconds=seconds)
        with Bars() as bars:
            work = evaluate_strategies(
                run, names, policy, suite, memory=memory, budget=budget, others=other or (), progress=bars
            )
            compared = asyncio.run(work)
        show(compared, as_json, strategy_table(compared))
        return
    if other or calls or tokens or seconds:
        raise UsageError("--calls, --tokens, --seconds and --other go with --strategy. Name one, e.g. direct,debate.")
    with Bars() as bars:
        found = asyncio.run(evaluate_policy(run, policy, suite, memory=memory, progress=bars))
    show(found, as_json, accuracy_table(found))


@app.command()
def train(
    run: RunArgument,
    round: Annotated[int | None, typer.Option(help="Round whose curated data is used; else the newest.")] = None,
    feedback: Annotated[
        bool, typer.Option("--feedback", help="Train on what was said in chats that may be learned from.")
    ] = False,
    approve: Annotated[
        bool | None,
        typer.Option("--approve/--refuse", help="Answer to what waits for a person: the training or the promotion."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train one more candidate from the champion of a finished run; it is proved and measured, the gate decides.

    With --feedback the candidate must not fall anywhere, and a person decides.
    """
    if feedback and round is not None:
        raise UsageError("--round names curated data and --feedback what was said in chats. Give one of them.")
    from autotelic.cli.bars import Bars
    from autotelic.graphs.actions import train_candidate

    with Bars() as bars:
        found = asyncio.run(train_candidate(run, round, progress=bars, approve=approve, feedback=feedback))
    if "waiting" in found:
        show(found, as_json, waits(run, found["waiting"]))
        raise typer.Exit(3)
    made = "nothing was trained" if found["candidate"] is None else f"policy-{found['candidate']}"
    verdict = "promoted" if found["promoted"] else "not promoted"
    show(found, as_json, "\n".join([f"{made}: {verdict}", *found["reasons"]]))


app.command("run")(run_graph)
app.command("serve")(serve)
app.command("chat")(chat)
app.command("ui")(ui)
app.command("approvals")(approvals)
app.command("approve")(approve)


@policies.command("list")
def list_policies(run: RunArgument, as_json: JsonOption = False) -> None:
    """List every policy of a run."""
    from autotelic.graphs.actions import describe_policies

    rows = describe_policies(run)
    table = listing("policy", "state", "parent", "round", "method", "frozen", "hash")
    for row in rows:
        shown = "-" if row["frozen"] is None else f"{row['frozen']:.1%}"
        table.add_row(
            f"policy-{row['number']}",
            row["state"],
            "-" if row["parent"] is None else str(row["parent"]),
            str(row["round"]),
            row["method"],
            shown,
            row["sha256"][:8],
        )
    show(rows, as_json, table)


@policies.command("show")
def show_policy(run: RunArgument, number: NumberArgument, as_json: JsonOption = False) -> None:
    """Show a policy's card, deliveries and gate."""
    from autotelic.graphs.actions import describe_policy

    found = describe_policy(run, number)
    show(found, as_json, json.dumps(found, indent=2, default=str))


@policies.command("promote")
def promote(run: RunArgument, number: NumberArgument, as_json: JsonOption = False) -> None:
    """Make a policy the champion, after the server has been shown to answer with it."""
    _crown(run, number, "switch", as_json)


@policies.command("rollback")
def rollback(
    run: RunArgument,
    number: Annotated[int | None, typer.Argument(help="Number; the champion's parent if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to an earlier policy, proved on the server."""
    _crown(run, number, "rollback", as_json)


def _crown(run: Path, number: int | None, kind: str, as_json: bool) -> None:
    from autotelic.cli.bars import Bars
    from autotelic.graphs.actions import crown

    with Bars() as bars:
        found = asyncio.run(crown(run, number, kind=kind, progress=bars))
    proof = found["proof"]
    away = "" if proof["to_previous"] is None else f", {proof['to_previous']:.2f} from policy-{found['before']}"
    shown = f"log-probabilities within {proof['to_trainer']:.2f} nats of the trainer's{away}"
    show(found, as_json, f"policy-{found['champion']} is the champion, proved: {shown}")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Look at what this machine can do and what is missing, with the fix."""
    from autotelic.cli.doctor import examine

    findings = examine()
    table = listing("", "what", "found", "needed for")
    for f in findings:
        table.add_row("[green]ok[/]" if f.ok else "[red]no[/]", *plain(f.name, f.found, f.needed_for))
    show([f.model_dump() for f in findings], as_json, table)
    for f in findings:
        if f.fix and not as_json:
            out.print(f"{f.name}: {f.fix}", soft_wrap=True, markup=False, highlight=False)
    if not all(f.ok for f in findings):
        raise typer.Exit(1)
