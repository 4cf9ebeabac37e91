"""What a tool is worth: the trained policy with the Python tool against itself without, on tasks it has never met.

    .venv/bin/python benchmarks/tool_use.py [--run DIRECTORY] [--tasks 200]

Holds a session on `configs/tools.yaml` (two rounds; an existing run goes on), then has base and champion answer new
tasks greedily, without memory, each with the tool and without. The same tasks, prompts, policy and server; without the
tool the prompt does not speak of it. Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from autotelic.agents import Solver, ToolLoop
from autotelic.cli.bars import Bars
from autotelic.core.config import load_config
from autotelic.core.run_dir import RunDir
from autotelic.core.words import Task
from autotelic.environments import solved
from autotelic.evaluation import paired_bootstrap
from autotelic.graphs import Config, SelfPlay
from autotelic.graphs.acquire import unmet
from autotelic.graphs.session import Session, open_session
from autotelic.serving import Sampling

CONFIG = Path(__file__).parents[1] / "configs" / "tools.yaml"
SEED = 90_001
"""Of the new tasks; no run uses it."""

Scores = dict[str, list[float]]


async def answers(s: Session, tasks: list[Task], loop: ToolLoop | None) -> list[float]:
    """Answer every task once, greedily: 1.0 where right."""
    solver = Solver(s.server.gateway, s.environment, loop)
    sampling = Sampling(temperature=0.0, max_tokens=s.config.solve.max_tokens)
    found: dict[str, float] = {}

    async def ask(task: Task) -> None:
        (attempt,) = await solver.attempt(task, solver.messages(task), sampling)
        found[task.id] = float(solved(attempt.score))

    await s.each("answers", tasks, ask)
    return [found[task.id] for task in tasks]


async def measure(run: Path, count: int, bars: Bars) -> tuple[Scores, list[Task], int]:
    """Hold the session and score four ways of answering the same new tasks."""
    config = load_config(Config, CONFIG)
    await SelfPlay(config, run, bars).run()
    with RunDir(run).held() as directory:
        async with open_session(config, directory, bars) as s:
            tasks = unmet(s, s.environment.tasks(2 * count, SEED))[:count]
            champion = s.ledger.champion().number
            scores: Scores = {}
            for policy in sorted({0, champion}):
                await s.serve(policy)
                for name, loop in (("without", None), ("with", s.loop)):
                    scores[f"policy-{policy} {name}"] = await answers(s, tasks, loop)
    return scores, tasks, champion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="directory of the session; a temporary one where left out")
    parser.add_argument("--tasks", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Bars() as bars:
        scores, tasks, champion = asyncio.run(measure(options.run or Path(scratch) / "run", options.tasks, bars))
    families = sorted({task.family for task in tasks})
    print(f"\n{'':<22}" + "".join(f"{name:>20}" for name in scores))
    for family in [*families, "all"]:
        row = [
            [right for right, task in zip(found, tasks, strict=True) if family in (task.family, "all")]
            for found in scores.values()
        ]
        print(f"{family:<22}" + "".join(f"{sum(own) / len(own):>20.1%}" for own in row))
    without, with_tool = scores[f"policy-{champion} without"], scores[f"policy-{champion} with"]
    gain = paired_bootstrap(without, with_tool)
    assert gain is not None, "every task has a verdict"
    print(f"policy-{champion}, with against without: {gain}")
    report = {
        "ratio": round(sum(with_tool) / max(1.0, sum(without)), 2),
        "compared": "right answers of the trained policy on new tasks, with the Python tool against without",
        "champion": champion,
        "tasks": len(tasks),
        "accuracy": {name: round(sum(found) / len(found), 4) for name, found in scores.items()},
        "gain": gain.model_dump(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
