"""`autotelic memory` on a finished simulated run: looked at, searched, forgotten for good, carried to another run."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autotelic.agents import memory_tools
from autotelic.cli.app import app
from autotelic.cli.doctor import Finding
from autotelic.cli.memory import opened
from autotelic.core.config import load_config
from autotelic.core.errors import UsageError
from autotelic.core.run_dir import RunDir
from autotelic.core.words import Task
from autotelic.graphs import Config, open_session
from autotelic.graphs.ask import GraphContext, opening
from autotelic.graphs.remembering import recall
from autotelic.memory import Memory
from autotelic.serving import Gateway, ScriptedBackend
from autotelic.tools import Toolbox


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["memory", *map(str, args)], catch_exceptions=False)


def data(*args: object) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def standings(file: Path) -> set[tuple[str, str | None, int]]:
    """Id in the first run, standing, and the round that this id names."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    ids = [one["item"]["id"].removeprefix("imported/") for one in found]
    rounds = [int(id_[1]) if id_.startswith("r") and id_[1].isdigit() else 0 for id_ in ids]
    return {(id_, one["out_of_sight"], n) for id_, one, n in zip(ids, found, rounds, strict=True)}


def test_what_is_remembered_is_listed_searched_and_shown(copied: Path) -> None:
    listed = data("list", copied, "--limit", 500)
    assert len(listed) > 10 and listed[0]["round"] >= listed[-1]["round"] == 0
    only = data("list", copied, "--family", "gcd", "--limit", 500)
    assert {one["family"] for one in only} == {"gcd"} and len(only) < len(listed)
    one = only[0]
    for asked in (one["question"].replace("Find", "Tell"), one["question"]):
        found = data("search", copied, asked, "--limit", 3)
        assert len(found) == 3 and one["id"] in {f["id"] for f in found}
    shown = data("show", copied, one["id"])
    assert shown["question"] == one["question"] and shown["out_of_sight"] is None
    rows = {row["family"]: row for row in data("stats", copied)}
    assert rows["gcd"]["in_sight"] + sum(rows["gcd"]["out_of_sight"].values()) == len(only)
    assert sum(row["uses"] for row in rows.values()) > 0
    assert "gcd" in run("stats", copied).stdout


def test_ids_can_be_copied_in_a_narrow_terminal(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotelic.cli.shown.out.width", 80)
    items = data("list", copied, "--limit", 500)
    shown = run("list", copied, "--limit", 9).stdout
    assert all(one["id"] in shown for one in items[:9]) and f"9 of {len(items)}" in shown and "…" not in shown
    assert f"of {len(items)}" not in run("list", copied, "--limit", 500).stdout
    question = items[0]["question"]
    found = data("search", copied, question, "--limit", 3)
    shown = run("search", copied, question, "--limit", 3).stdout
    assert all(one["id"] in shown for one in found)


def test_a_reason_that_nothing_left_for_is_refused(copied: Path) -> None:
    with pytest.raises(UsageError, match="for the reason 'harmfull'"):
        run("restore", copied, "--why", "harmfull")


def test_text_in_square_brackets_is_text(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept.jsonl"
    run("export", copied, kept)
    one = json.loads(kept.read_text().splitlines()[0])
    one["item"] |= {"question": "Why [/b] and [x for x in xs]?", "id": "odd"}
    kept.write_text(json.dumps(one))
    assert run("import", copied, kept, "--scope", "user/ada").exit_code == 0
    monkeypatch.setattr("autotelic.cli.shown.out.width", 300)
    assert "Why [/b] and [x for x in xs]?" in run("search", copied, "Why and xs?", "--scope", "user/ada").stdout
    monkeypatch.setattr("autotelic.cli.shown.out.width", 40)
    fix = "pip install 'autotelic[train]' and then pip install --no-deps --require-hashes -r requirements/x.txt"
    mended = Finding(name="x", ok=False, needed_for="y", found="none", fix=fix)
    monkeypatch.setattr("autotelic.cli.doctor.examine", lambda: [mended])
    assert mended.fix in CliRunner().invoke(app, ["doctor"]).stdout


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
    lines = kept.read_text().splitlines()
    assert run("import", other, kept).stdout == f"{len(lines)} of {len(lines)} added\n"
    again = tmp_path / "again.jsonl"
    run("export", other, again)
    assert standings(again) == standings(kept) and {round_ for _, _, round_ in standings(kept)} == {0, 1, 2}
    assert {json.loads(line)["item"]["round"] for line in again.read_text().splitlines()} == {0}
    (tmp_path / "broken.jsonl").write_text('{"kind": "lesson", "id": "x"}\n')
    for file, says in (("broken.jsonl", "cannot be imported: .*Field required"), ("none.jsonl", "cannot be imported")):
        with pytest.raises(UsageError, match=says) as refused:
            run("import", other, tmp_path / file)
        assert "errors.pydantic.dev" not in str(refused.value)


def test_an_export_is_whole_or_not_there(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere\. Make it"):
        run("export", copied, tmp_path / "nowhere" / "kept.jsonl")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="cannot be written: "):
        run("export", copied, tmp_path / "taken")
    (tmp_path / ".kept.jsonl.part").mkdir()  # so the disk says no half way
    (tmp_path / "kept.jsonl").write_text("the last one\n")
    with pytest.raises(UsageError, match="cannot be written: "):
        run("export", copied, tmp_path / "kept.jsonl")
    assert (tmp_path / "kept.jsonl").read_text() == "the last one\n"


def test_an_import_goes_into_a_scope_and_says_what_it_left_out(copied: Path, tmp_path: Path) -> None:
    kept, said = tmp_path / "kept.jsonl", data("list", copied, "--limit", 500)
    run("export", copied, kept)
    assert len(data("import", copied, kept, "--scope", "user/ada")["added"]) == len(said)
    assert len(data("list", copied, "--scope", "user/ada", "--limit", 500)) == len(said)
    with pytest.raises(UsageError, match="'ada' is no scope"):
        run("import", copied, kept, "--scope", "ada")


def test_notes_are_listed_searched_shown_carried_and_forgotten(copied: Path, tmp_path: Path) -> None:
    async def keep() -> None:
        async with opened(copied) as (memory, _):
            box = Toolbox(memory_tools(memory), allow=("note",))
            assert (await box.call("note", {"text": "the zebra code is 7"})).ok

    asyncio.run(keep())
    [note] = data("list", copied, "--kind", "record")
    assert note["id"] in {one["id"] for one in data("list", copied, "--limit", 500)}
    assert data("search", copied, "zebra code", "--limit", 1)[0]["id"] == note["id"]
    assert data("show", copied, note["id"])["value"] == {"text": "the zebra code is 7"}
    assert "record" in {row["kind"] for row in data("stats", copied)}
    run("export", copied, tmp_path / "kept.jsonl")
    assert note["id"] in (tmp_path / "kept.jsonl").read_text()
    assert data("forget", copied, note["id"], "--yes") == {"forgotten": [note["id"]]}
    assert data("list", copied, "--kind", "record") == []


async def test_the_config_says_how_the_solvers_share_is_chosen(copied: Path) -> None:
    task = Task.make(environment="e", family="", question="the train leaves at noon, says the zyzzyva", key={})

    async def chosen(memory: Memory, config: Config) -> list[str]:
        context = GraphContext(_NOBODY, memory, demonstrations=3, ranking=config.memory.ranking)
        return (await opening(context, "", task.question))[1]

    async def found(others: int, *overrides: str) -> tuple[list[str], list[str]]:
        """What a session recalls, and what `run` does."""
        config = load_config(
            Config, copied / "config.yaml", [f"memory.{one}" for one in ("demonstrations=3", *overrides)]
        )
        with RunDir(copied).require().held() as run_dir:
            async with open_session(config, run_dir) as s:
                await s.memory.add([_about(i, f"the train leaves at noon, number {i}") for i in range(others)])
                await s.memory.add([_about(99, "zyzzyva " + "is the last word in any book " * 5)])
                recalled = [one.id for one in (await recall(s, [task], 3)).get(task.id, [])]
                return recalled, await chosen(s.memory, config)

    bare, alone = await found(12)
    assert bare == alone and len(bare) == 3 and "d99" not in bare
    varied, alone = await found(12, "variety=0.9")
    assert "d99" in varied and alone != bare, "`run` may look into other environments, too"
    assert all("d99" not in ids for ids in await found(30))
    assert all("d99" in ids for ids in await found(30, "keywords=true"))
    assert await found(30, "tokens=1") == ([], [])
    assert all(len(ids) == 1 for ids in await found(30, "tokens=20"))
    with pytest.raises(UsageError, match="variety"):
        load_config(Config, copied / "config.yaml", ["memory.variety=2"])


async def _silence(_: Any, __: Any) -> list[str]:
    return [""]


_NOBODY = Gateway(ScriptedBackend(_silence))


def _about(i: int, question: str) -> Any:
    from tests.memory.kit import solved

    return solved(i, question, environment="e", family="")
