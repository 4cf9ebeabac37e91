"""`autotelic memory` on a finished simulated run: looked at, searched, forgotten for good, carried to another run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.errors import UsageError


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["memory", *map(str, args)], catch_exceptions=False)


def data(*args: object) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_what_is_remembered_is_listed_searched_and_shown(copied: Path) -> None:
    listed = data("list", copied, "--limit", 500)
    assert len(listed) > 10 and listed[0]["round"] >= listed[-1]["round"] == 0
    only = data("list", copied, "--family", "gcd", "--limit", 500)
    assert {one["family"] for one in only} == {"gcd"} and len(only) < len(listed)
    one = only[0]
    found = data("search", copied, one["question"].replace("Find", "Tell"), "--limit", 3)
    assert len(found) == 3 and one["id"] in {f["id"] for f in found}
    shown = data("show", copied, one["id"])
    assert shown["question"] == one["question"] and shown["out_of_sight"] is None
    rows = {row["family"]: row for row in data("stats", copied)}
    assert rows["gcd"]["in_sight"] + sum(rows["gcd"]["out_of_sight"].values()) == len(only)
    assert sum(row["uses"] for row in rows.values()) > 0
    assert "gcd" in run("stats", copied).stdout


def test_what_is_forgotten_is_gone_and_does_not_come_back(copied: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    assert "written to" in run("export", copied, kept).stdout
    victim = data("list", copied, "--family", "spell_backward")[0]
    marks = [victim["question"].encode(), victim["id"].encode()]
    assert run("forget", copied, victim["id"]).exit_code == 1, "nobody said yes"
    assert data("forget", copied, victim["id"], "--yes") == {"forgotten": [victim["id"]]}
    # Looked at before this process, which knows the text, opens the index again (see `Index.rebuild_apart`).
    for file in (copied / "memory").rglob("*"):
        if file.is_file():
            assert not any(mark in file.read_bytes() for mark in marks), file
    assert victim["id"] not in {one["id"] for one in data("list", copied, "--limit", 500)}
    before = len(data("list", copied, "--limit", 500))
    assert run("import", copied, kept).stdout.startswith("0 of")
    assert len(data("list", copied, "--limit", 500)) == before
    with pytest.raises(UsageError, match="nothing is remembered under"):
        run("forget", copied, victim["id"], "--yes")


def test_memory_is_carried_to_another_run(copied: Path, tmp_path: Path) -> None:
    kept, other = tmp_path / "kept.jsonl", tmp_path / "other"
    run("export", copied, kept)
    shutil.copytree(copied, other)
    shutil.rmtree(other / "memory")
    assert data("list", other) == []
    n = len(kept.read_text().splitlines())
    assert run("import", other, kept).stdout == f"{n} of {n} added\n"
    run("export", other, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_text() == kept.read_text()
    (tmp_path / "broken.jsonl").write_text('{"kind": "lesson", "id": "x"}\n')
    for file, says in (("broken.jsonl", "cannot be imported: .*Field required"), ("none.jsonl", "cannot be imported")):
        with pytest.raises(UsageError, match=says):
            run("import", other, tmp_path / file)
