"""`autotelic tools`, as a person and as a script would use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import small
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.errors import UsageError
from autotelic.core.run_dir import RunDir
from autotelic.store import Ledger

FILE = """
import autotelic
from autotelic.tools import Tool

@autotelic.tool
def double(x: int) -> int:
    "Double a number."
    return 2 * x

@autotelic.tool(permission="writes")
def remove(name: str) -> str:
    "Remove something."
    return "removed " + name

async def _anything(arguments):
    return "fine"

careless = Tool("careless", "Take anything.", {"additionalProperties": True}, _anything, permission="pure")
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "my_tools.py"
    path.write_text(FILE)
    return str(path)


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["tools", *args])


def data(*args: str) -> Any:
    return json.loads(run(*args, "--json").stdout)


def test_what_can_be_named_is_listed() -> None:
    assert {"calculator", "documents", "python", "sql"} <= set(data("list"))
    assert "calculator" in run("list").stdout


def test_the_tools_of_a_file_are_listed_with_what_they_may_do(file: str) -> None:
    rows = {row["name"]: row for row in data("list", "--tool", file)}
    assert {name: (row["permission"], row["allowed"]) for name, row in rows.items()} == {
        "careless": ("pure", True),
        "double": ("pure", True),
        "remove": ("writes", False),
    }
    assert {row["name"]: row["allowed"] for row in data("list", "--tool", file, "--allow", "writes")}["remove"]
    assert "Double a number." in run("list", "--tool", file).stdout


def test_a_tool_is_shown_with_its_schema(file: str) -> None:
    assert data("show", "double", "--tool", file)["parameters"]["properties"]["x"]["type"] == "integer"
    assert data("show", "calculator")["name"] == "calculator"
    with pytest.raises(UsageError, match="names no tool 'triple'; it names: careless, double, remove"):
        CliRunner().invoke(app, ["tools", "show", "triple", "--tool", file], catch_exceptions=False)


def test_a_tool_is_called_as_a_model_would(file: str) -> None:
    assert run("call", "calculator", "--args", '{"expression": "2 ** 10"}').stdout == "1024\n"
    done = run("call", "double", "--tool", file, "--args", '{"x": 21}')
    assert (done.exit_code, done.stdout) == (0, "42\n")
    for args, says in (
        (["double", "--args", '{"x": "21"}'], "bad_arguments: x: '21' is not of type 'integer'"),
        (["remove", "--args", '{"name": "x"}'], "refused: remove was not called"),
        (["triple"], "unknown: there is no tool 'triple'"),
    ):
        failed = run("call", *args, "--tool", file)
        assert failed.exit_code == 1 and failed.stdout.startswith(says)
    assert run("call", "remove", "--tool", file, "--args", '{"name": "x"}', "--allow", "remove").stdout == "removed x\n"


@pytest.fixture
def past(tmp_path: Path, file: str) -> str:
    """A run that remembers nothing yet, whose solver has tools."""
    made = RunDir(tmp_path / "past").create()
    config = small(tools={"use": ["memory", file], "allow": ["pure", "reads", "note"]})
    made.config.write_text(json.dumps(config.model_dump(mode="json")))
    Ledger(made.ledger).close()
    return str(made.root)


def test_the_tools_of_a_run_are_its_own(past: str) -> None:
    allowed = {row["name"]: row["allowed"] for row in data("list", "--run", past)}
    assert allowed == {"careless": True, "double": True, "note": True, "recall": True, "remove": False}
    with pytest.raises(UsageError, match=r"are a run's own\. Name one with --run"):
        CliRunner().invoke(app, ["tools", "show", "recall", "--tool", "memory"], catch_exceptions=False)
    assert data("show", "recall", "--run", past)["permission"] == "reads"
    assert data("show", "recall", "--tool", "memory", "--run", past)["permission"] == "reads"
    with pytest.raises(UsageError, match="--run names no tool 'triple'; it names: careless, double"):
        CliRunner().invoke(app, ["tools", "show", "triple", "--run", past], catch_exceptions=False)
    noted = run("call", "note", "--run", past, "--args", '{"text": "the oven is hot"}')
    assert (noted.exit_code, noted.stdout) == (0, "noted\n")
    recalled = run("call", "recall", "--run", past, "--args", '{"query": "oven"}')
    assert recalled.stdout == "Note: the oven is hot\n"
    tried = run("test", "--tool", "memory", "--run", past, "--calls", "40", "--json")
    assert [(row["tool"], row["findings"]) for row in json.loads(tried.stdout)] == [("note", []), ("recall", [])]


def test_a_run_without_tools_says_how_it_gets_some(tmp_path: Path) -> None:
    made = RunDir(tmp_path / "bare").create()
    made.config.write_text(json.dumps(small().model_dump(mode="json")))
    Ledger(made.ledger).close()
    assert "tools.use" in run("list", "--run", str(made.root)).stdout and data("list", "--run", str(made.root)) == []
    with pytest.raises(UsageError, match=r"tools\.use"):
        CliRunner().invoke(app, ["tools", "test", "--run", str(made.root)], catch_exceptions=False)


def test_bad_calls_are_thrown_at_tools(file: str) -> None:
    fine = run("test", "--tool", "calculator", "--calls", "100")
    assert (fine.exit_code, fine.stdout) == (0, "calculator: 100 calls, 0 ended badly\n")
    bad = run("test", "--tool", file, "--calls", "100", "--json")
    assert bad.exit_code == 1
    found = {row["tool"]: {finding["problem"] for finding in row["findings"]} for row in json.loads(bad.stdout)}
    assert found == {"careless": {"arguments that do not fit were taken"}, "double": set(), "remove": set()}
    with pytest.raises(UsageError, match="no tool was named"):
        CliRunner().invoke(app, ["tools", "test"], catch_exceptions=False)
