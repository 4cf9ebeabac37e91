"""A run written as pages: every link leads to a file, and there is nothing that needs a server."""

from __future__ import annotations

import re
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tests.ui.test_ui_site import make_run
from tests.ui.test_ui_site_doors import fill

from autotelic.core.errors import UsageError
from autotelic.store import CurationRow, Ledger
from autotelic.ui.links import Disk
from autotelic.ui.site_export import export_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path / "runs", "mine", 130)
    fill(tmp_path / "runs")
    with closing(Ledger(tmp_path / "runs" / "mine" / "ledger.sqlite")) as ledger:
        kept: dict[str, Any] = {"round": 2, "role": "solver", "family": "f", "kept": True, "reason": "kept"}
        ledger.add(CurationRow(item_id=f"e{n:06}", **kept) for n in range(130))
    (tmp_path / "runs" / "mine" / "report.html").write_text("<p>the report</p>")
    return tmp_path / "runs"


def links(folder: Path) -> dict[Path, list[str]]:
    pages = sorted(folder.rglob("*.html"))
    return {page: [unescape(x) for x in re.findall(r'(?:href|src)="([^"]*)"', page.read_text())] for page in pages}


def test_every_link_leads_to_a_file(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written = export_run(runs, "mine", folder)
    found = links(folder)
    assert len(found) == written + 1, "and the report"
    for page, targets in found.items():
        for target in targets:
            if target.startswith("#"):
                continue
            assert not re.match(r"[a-z]+:|/", target), f"{page}: {target} leaves the folder"
            path = (page.parent / unquote(target)).resolve()
            assert path.is_file() and path.is_relative_to(folder.resolve()), f"{page}: {target}"
    reached, new = set[Path](), {folder / "index.html"}
    while new:
        page = new.pop()
        reached.add(page)
        new |= {(page.parent / t).resolve() for t in found.get(page, []) if not t.startswith("#")} - reached
    assert {page.resolve() for page in found} <= {page.resolve() for page in reached}, "one can get everywhere"


def test_a_folder_needs_no_server_and_runs_nothing(runs: Path, tmp_path: Path) -> None:
    export_run(runs, "mine", tmp_path / "out")
    for page in (tmp_path / "out").rglob("*.html"):
        text = page.read_text()
        assert "<form" not in text and "<script" not in text and "<button" not in text and "data-live" not in text, page
        if page.name != "report.html":
            assert "default-src 'none'" in text and "<img" not in text, page


def test_it_is_bounded_and_says_so(runs: Path, tmp_path: Path) -> None:
    export_run(runs, "mine", tmp_path / "out", most=60)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert "trajectories-page-2.html" in files and "trajectories-page-3.html" not in files
    first = (tmp_path / "out" / "trajectories.html").read_text()
    assert "60 of 130 trajectories" in first and "--most" in first
    assert len(list((tmp_path / "out" / "trajectory").iterdir())) == 60
    rounds = re.findall(r"<td>(\d)</td><td>\d</td>\s*</tr>", first)
    assert rounds and rounds == sorted(rounds, reverse=True) and rounds[0] == "2", "the newest rounds first"
    assert "More items of this round" in (tmp_path / "out" / "data-page-2.html").read_text()
    whole = export_run(runs, "mine", tmp_path / "all")
    assert "130 of 130 trajectories" in (tmp_path / "all" / "trajectories.html").read_text() and whole > 130
    assert "More items" not in "".join(p.read_text() for p in (tmp_path / "all").glob("data*.html"))


def test_nothing_is_written_over(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    export_run(runs, "mine", folder, most=1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="is not empty"):
        export_run(runs, "mine", folder)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        export_run(runs, "mine", tmp_path / "file")
    for name in ("none", "../runs/mine", ""):
        with pytest.raises(UsageError, match="there is no run"):
            export_run(runs, name, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out", "runs"], "and nothing is left lying"


def test_the_directory_that_one_is_in_can_be_written(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_run(runs, "mine", Path(), most=1)
    assert (tmp_path / "here" / "index.html").is_file()
    with pytest.raises(UsageError, match="is not empty"):
        export_run(runs, "mine", tmp_path / "here", most=1)


def test_a_run_of_nothing_is_written_too(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "empty", 0)
    assert export_run(tmp_path / "runs", "empty", tmp_path / "out") == 5
    for page, targets in links(tmp_path / "out").items():
        assert all((page.parent / target).is_file() for target in targets if not target.startswith("#")), page


def test_files_of_trajectories_are_names_of_their_own() -> None:
    ids = ["r1/solve/a/memory/0", "r1-solve-a-memory-0", "../../etc/passwd", "a" * 300, "é\n", ""]
    files = [Disk.file(id) for id in ids]
    assert len(set(files)) == len(ids)
    assert all(re.fullmatch(r"trajectory/[A-Za-z0-9_-]+\.html", file) and len(file) < 100 for file in files)
