"""What strategies of answering are worth and cost with a trained policy, and with the base before it.

    .venv/bin/python benchmarks/strategies.py runs/seed0 runs/seed1 runs/seed2 [--tasks 200] [--strategies A,B]

Each run is a finished self-play session. Its base and its champion answer the same tasks of its last fresh suite by
each strategy, also (`--sides base+memory`) with examples that the run remembered; what the runs found is put together.
A run's seed decides about tasks and sampling, so three runs with three seeds are three seeds here. Answers are rows of
the run's ledger: what was cut off goes on.

Prints a table for each side, writes `strategies-SIDE.html` (accuracy against tokens) beside the first run, and as its
last line one JSON object with all figures; its `ratio` is the best strategy's accuracy over that of the first. Won and
lost are tasks on which a strategy and the first differ, p the one-sided sign test over them; flips are answers that a
revision mended and spoiled. `tool_loop`, `critic` and `self_debug` need tools or code: name them, with runs that have
such tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from autotelic.cli.bars import Bars
from autotelic.cli.strategies import split_strategies
from autotelic.core.run_dir import RunDir
from autotelic.evaluation import StrategyFigures, strategy_figures, strategy_page
from autotelic.graphs.actions import opened_suite
from autotelic.graphs.refining import answer_suite_by
from autotelic.store import EvaluationRow, Ledger, StrategyRow

STRATEGIES = (
    "direct,few_shot,self_consistency(few_shot(pool=24), n=8, heat=0.0),guided,self_consistency(n=8),"
    "self_consistency(n=8, weigh='certainty'),self_consistency(n=8, weigh='critic'),best_of(n=8),"
    "best_of(n=8, by='likelihood'),best_of(n=8, by='critic'),universal,contrastive,self_refine,reflexion,"
    "plan_and_solve,least_to_most,tree_of_thoughts,monte_carlo,debate,mixture,conversation,prompted,auto,adapted(by='neighbours'),"
    "adapted(by='vote')"
)
SIDES = ("base", "base+memory", "champion", "champion+memory")


async def answered(
    run: Path, sides: list[str], names: list[str], count: int, bars: Bars
) -> dict[str, dict[str, list[StrategyRow]]]:
    """Return the rows of a run by side and strategy."""
    ledger = Ledger(RunDir(run).require().ledger)
    last, champion = max(ledger.column(EvaluationRow, "round", suite="fresh")), ledger.champion().number
    ledger.close()
    found: dict[str, dict[str, list[StrategyRow]]] = {}
    for side in sides:
        who, _, help = side.partition("+")
        policy = 0 if who == "base" else champion
        async with opened_suite(run, f"fresh:{last}", policy, memory=bool(help), progress=bars) as (s, asked):
            found[side] = {}
            for name in names:
                found[side][name] = await answer_suite_by(
                    s, name, asked.suite, asked.round, policy, memory_of=asked.memory_of, limit=count
                )
    return found


def show(side: str, found: list[StrategyFigures]) -> None:
    """Print one side's table."""
    print(f"\n{side:<58} accuracy [95%]          gain [95%]            won:lost      p   tokens  calls  seconds  flips")
    for one in found:
        share, gain = one.accuracy, one.gain
        assert share is not None  # every task has an answer
        gained = f"{100 * gain.gain:+5.1f} [{100 * gain.low:+5.1f}, {100 * gain.high:+5.1f}]" if gain else ""
        won, p = (f"{gain.wins}:{gain.losses}", f"{gain.sign_p:.4f}") if gain else ("", "")
        print(
            f"{one.strategy:<58} {share.mean:6.1%} [{share.low:5.1%}, {share.high:5.1%}]  {gained:<20} {won:>9} {p:>6} "
            f"{one.tokens:8,.0f} {one.calls:6.1f} {one.seconds:8.2f}  +{one.mended}/-{one.spoiled}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs")
    parser.add_argument("--tasks", type=int, default=200, help="tasks of each run")
    parser.add_argument("--strategies", default=STRATEGIES, help="what is compared; the first is compared with")
    parser.add_argument("--sides", default="base,champion", help=f"who answers, of {','.join(SIDES)}")
    given = parser.parse_args()
    if unknown := set(given.sides.split(",")) - set(SIDES):
        parser.error(f"there is no side {', '.join(sorted(unknown))}")
    names = split_strategies(given.strategies)
    sides: dict[str, dict[str, list[StrategyRow]]] = {side: {} for side in given.sides.split(",")}
    with Bars() as bars:
        for run in given.runs:
            for side, rows in asyncio.run(answered(run, list(sides), names, given.tasks, bars)).items():
                for name, own in rows.items():
                    # Two runs may hold the same task: here it counts once for each.
                    marked = [StrategyRow(**row.model_dump() | {"task_id": f"{run}/{row.task_id}"}) for row in own]
                    sides[side].setdefault(name, []).extend(marked)
    figures = {side: strategy_figures(rows) for side, rows in sides.items()}
    for side, found in figures.items():
        show(side, found)
        page = given.runs[0].parent / f"strategies-{side}.html"
        n = len(sides[side][names[0]])
        page.write_text(strategy_page(found, f"{side.capitalize()} of {len(given.runs)} runs, {n} tasks"))
        print(page)
    shown = "champion" if "champion" in sides else next(iter(sides))
    shares = [one.accuracy.mean for one in figures[shown] if one.accuracy]
    data = {side: [one.model_dump(mode="json") for one in found] for side, found in figures.items()}
    print(json.dumps({"ratio": max(shares) / shares[0] if shares[0] else None, "side": shown, "figures": data}))


if __name__ == "__main__":
    main()
