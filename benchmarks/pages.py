"""How long the browser app's pages take on a run of 100,000 trajectories, against the run that it was made of.

    .venv/bin/python benchmarks/pages.py RUN [--trajectories 100000] [--times 5]

Copies a finished run, and repeats its trajectories and what curation said of them until there are so many. `autotelic
ui` shows both. Every page is asked for as a browser does, first once by an app that has just started. Prints a table of
medians, and as its last line one JSON object; its `ratio` is the slowest page of the large run against that page of the
small one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from autotelic.core.run_dir import RunDir

PAGES = (
    "",
    "trajectories",
    "trajectories?right=true",
    "trajectories?reason=wrong&policy=0",
    "trajectories?role=proposer",
    "data",
    "library",
    "policies",
    "report",
)
REPEATED = {"episode": "id", "curation": "item_id"}


def enlarge(run: Path, count: int) -> int:
    """Repeat what a run's ledger has of each trajectory; return how many there are now."""
    with closing(sqlite3.connect(RunDir(run).ledger)) as db:
        (have,) = db.execute("SELECT count(*) FROM episode").fetchone()
        for table, key in REPEATED.items():
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            names = ", ".join(f'"{name}"' for name in columns)
            values = ", ".join(f'"{name}" || ?' if name == key else f'"{name}"' for name in columns)
            own = f"WHERE {key} IN (SELECT id FROM episode WHERE id NOT LIKE '%#%')"
            for copy in range(1, -(-count // have)):
                db.execute(f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} {own}", [f"#{copy}"])
        db.commit()
        (have,) = db.execute("SELECT count(*) FROM episode").fetchone()
    return int(have)


@contextmanager
def shown(runs: Path) -> Iterator[httpx.Client]:
    """The app in a process of its own, and a client that it lets in."""
    command = [sys.executable, "-m", "autotelic", "ui", str(runs), "--port", "0", "--no-chat"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = httpx.URL(process.stdout.readline().removeprefix("open ").strip())
            with httpx.Client(base_url=address.join("/"), timeout=120, follow_redirects=True) as client:
                client.get(address).raise_for_status()
                yield client
        finally:
            process.terminate()
            process.wait(60)


def ask(client: httpx.Client, path: str) -> float:
    """Return the seconds until a page is there, whole."""
    began = time.perf_counter()
    client.get(path).raise_for_status()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--trajectories", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5, help="how often each page is asked for")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) / "runs"
        for name in ("small", "large"):
            shutil.copytree(given.run, runs / name, ignore=shutil.ignore_patterns("policies"))
        count = enlarge(runs / "large", given.trajectories)
        with shown(runs) as client:
            first = {page: ask(client, f"runs/large/{page}") for page in PAGES}
            found = {
                page: [
                    statistics.median(ask(client, f"runs/{name}/{page}") for _ in range(given.times))
                    for name in ("large", "small")
                ]
                for page in PAGES
            }
    print(f"\n{'seconds':<44}{'first':>8}{count:>10,}{'small':>8}")
    for page, (large, small) in found.items():
        print(f"{'/runs/RUN/' + page:<44}{first[page]:>8.3f}{large:>10.3f}{small:>8.3f}")
    slowest = max(found, key=lambda page: found[page][0])
    ratio = found[slowest][0] / found[slowest][1]
    seconds = {page: large for page, (large, _) in found.items()}
    print(
        json.dumps({"ratio": ratio, "compared": f"{slowest}, {count} trajectories", "first": first, "large": seconds})
    )


if __name__ == "__main__":
    main()
