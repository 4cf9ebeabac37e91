"""A run written as pages into a folder: they lead to one another by relative links, so it opens from disk.

The pages are those of the app, without what needs a server. The folder appears when all of it is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotelic.core.errors import UsageError
from autotelic.core.run_dir import RunDir
from autotelic.store import EpisodeRow, Ledger
from autotelic.ui import browse, trajectories
from autotelic.ui.browse import PAGE, Runs
from autotelic.ui.links import Disk
from autotelic.ui.pages import Pages, static
from autotelic.ui.site_approvals import approvals_shown
from autotelic.ui.site_reading import curves, fates_shown, policies_shown

__all__ = ["export_run"]

_STYLES = ("page.css", "app.css")
Page = tuple[str, str]  # file from the folder, text


def export_run(runs: Path, name: str, folder: Path, *, most: int = 2000) -> int:
    """Write a run as pages, and return how many there are.

    Args:
        runs: directory that holds runs.
        name: of the run.
        folder: where to; it must not be there, or be empty.
        most: trajectories that are written, those of the newest rounds first; as many items of each round's data.

    Raises:
        UsageError: there is no such run, or something is in the folder.
    """
    run = Runs(runs).open(name)
    if run is None:
        known = ", ".join(Runs(runs).names()) or "none"
        raise UsageError(f"there is no run {name!r} in {runs}. Those that there are: {known}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty, and nothing is written over. Name another folder.")
    folder = folder.absolute()  # `.` has no name of its own
    part = folder.with_name(f".{folder.name}.part")
    if part.exists():
        raise UsageError(f"{part} is there, from an export that was cut off or goes on. Remove it, and try again.")
    try:
        written = _write(run, part, most)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error}. Name another folder.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return written


def _write(run: RunDir, part: Path, most: int) -> int:
    for place in ("static", "trajectory"):
        (part / place).mkdir(parents=True)
    for style in _STYLES:
        found = static(style)
        assert found is not None, "it comes with the package"
        (part / "static" / style).write_bytes(found[0])
    report = run.root / "report.html"
    if report.is_file():
        shutil.copyfile(report, part / "report.html")
    written = 0
    with closing(Ledger(run.ledger)) as ledger:
        for file, text in _Export(run, ledger, most).pages():
            (part / file).write_text(text, encoding="utf-8")
            written += 1
    return written


@dataclass(frozen=True)
class _Export:
    run: RunDir
    ledger: Ledger
    most: int

    def pages(self) -> Iterator[Page]:
        """Make every page."""
        ids = trajectories.newest(self.ledger, self.most)
        pages = Pages(links=Disk(frozenset(ids)))
        above = Disk(frozenset(ids), "../")

        def page(file: str, template: str, here: str, **data: Any) -> Page:
            links = above if "/" in file else None
            return file, pages(template, run=self.run.root.name, here=here, links=links, **data)

        gates, report = browse.decisions(self.ledger), (self.run.root / "report.html").is_file()
        shown = {"one": browse.progress(self.run, self.ledger), "gates": gates, "report": report, "pace": None}
        yield page("index.html", "run", "", title=self.run.root.name, curves=curves(self.ledger), **shown)
        policies = policies_shown(self.run)
        yield page("policies.html", "policies", "policies", title="Policies", found=policies, busy=False)
        yield page("approvals.html", "approvals", "approvals", title="Approvals", **approvals_shown(self.ledger))
        for file, data in self._lists(ids):
            yield page(file, "trajectories", "trajectories", title="Trajectories", **data)
        for id in ids:
            found = trajectories.trajectory(self.ledger, id)
            yield page(Disk.file(id), "trajectory", "trajectories", title="Trajectory", found=[found])
        for file, data in self._data():
            yield page(file, "data", "data", **data)

    def _lists(self, ids: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        total, starts = self.ledger.count(EpisodeRow), range(0, len(ids), PAGE)
        for number, start in enumerate(starts or [0], 1):
            rows = trajectories.listed(self.ledger, ids[start : start + PAGE])
            ways = _ways("trajectories", number, start + PAGE < len(ids))
            yield _file("trajectories", number), {"rows": rows, "ways": ways, "total": total, "written": len(ids)}

    def _data(self) -> Iterator[tuple[str, dict[str, Any]]]:
        known = browse.rounds(self.ledger)
        for round in known or [0]:
            place = "data" if round == max(known, default=0) else f"data-{round}"
            after: str | None = ""
            number = 0
            while after is not None and number * PAGE < self.most:
                number += 1
                shown, after = fates_shown(self.ledger, round, None, after)
                cut = after is not None and number * PAGE >= self.most
                ways = _ways(place, number, after is not None and not cut)
                yield _file(place, number), {**shown, "rounds": known, "ways": ways, "cut": cut}


def _file(place: str, number: int) -> str:
    return f"{place}.html" if number == 1 else f"{place}-page-{number}.html"


def _ways(place: str, number: int, more: bool) -> dict[str, str | None]:
    return {
        "first": _file(place, 1) if number > 1 else None,
        "next": _file(place, number + 1) if more else None,
    }
