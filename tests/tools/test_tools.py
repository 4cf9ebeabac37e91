from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as langchain_tool
from pydantic import Field
from typer.testing import CliRunner

from autotelic.cli.app import app
from autotelic.core.errors import UsageError
from autotelic.sandbox import Limits, Sandbox
from autotelic.tools import Tool, as_tool, calculator, load_tools, python_tool, tool


@tool
def weather(
    city: Annotated[str, Field(description="Name of a city")], unit: Literal["C", "F"] = "C", days: int = 1
) -> dict[str, object]:
    """Tell the weather."""
    return {"city": city, "unit": unit, "days": days}


async def test_a_typed_function_is_a_tool() -> None:
    assert (weather.name, weather.description) == ("weather", "Tell the weather.")
    assert weather.parameters["required"] == ["city"]
    assert weather.parameters["properties"]["city"]["description"] == "Name of a city"
    assert weather.parameters["properties"]["unit"]["enum"] == ["C", "F"]
    assert weather.openai()["function"]["name"] == "weather"
    result = await weather({"city": "Ulm", "days": 2})
    assert (result.ok, result.reason, result.content) == (True, "ok", '{"city": "Ulm", "unit": "C", "days": 2}')
    assert (await weather('{"city": "Ulm", "unit": "F"}')).ok


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "a list, expected an object"),
        ("{}", "'city' is a required property"),
        ('{"city": "Ulm", "unit": "K"}', "unit: 'K' is not one of"),
        ('{"city": "Ulm", "days": "2"}', "days: '2' is not of type 'integer'"),
        ('{"city": "Ulm", "days": NaN}', "NaN is not a number"),
        ('{"city": "Ulm", "days": 1e999}', "Out of range float"),
        ('{"city": "Ulm", "city": "Rome"}', "'city' is given twice"),
        ('{"city": "Ulm", "moon": 1}', "'moon' was unexpected"),
        ('{"city": "' + "x" * 300_000 + '"}', "at most 200000"),
    ],
)
async def test_bad_arguments_are_data(arguments: str, says: str) -> None:
    result = await weather(arguments)
    assert (result.ok, result.reason) == (False, "bad_arguments")
    assert says in result.content


async def test_errors_time_and_size_are_bounded() -> None:
    @tool
    async def broken(x: int) -> int:
        """Fail."""
        return 1 // x

    @tool(name="slow", seconds=0.05)
    async def never(x: int) -> None:
        """Wait."""
        await asyncio.Event().wait()

    @tool(max_chars=10)
    def long(x: int) -> str:
        """Say much."""
        return "y" * x

    failed = await broken({"x": 0})
    assert (failed.ok, failed.reason, failed.content.partition(":")[0]) == (False, "failed", "ZeroDivisionError")
    late = await never({"x": 0})
    assert (late.reason, late.content) == ("timeout", "slow gave no result within 0.05 s")
    assert (await long({"x": 30})).content == "y" * 10 + "... (20 characters left out)"


def test_what_cannot_be_a_tool_says_why() -> None:
    def no_docstring(x: int) -> int:
        return x

    def no_annotation(x):  # type: ignore[no-untyped-def]
        """Do."""

    def variadic(*x: int) -> None:
        """Do."""

    def no_schema(x: Callable[[int], int]) -> None:
        """Do."""

    def not_even_a_type(x: threading.Lock) -> None:
        """Do."""

    def hidden(x: int, _y: int = 1) -> None:
        """Do."""

    def unknown(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Do."""

    for function, says in (
        (no_docstring, "no docstring"),
        (no_annotation, "no annotation"),
        (variadic, "by name only"),
        (no_schema, "the arguments of the tool 'no_schema' have no JSON schema: .*Callable.* Annotate them"),
        (not_even_a_type, "the arguments of the tool 'not_even_a_type' have no JSON schema: .* Annotate them"),
        (hidden, "'_y' of the tool 'hidden' begins with an underscore"),
        (unknown, "an annotation of the tool 'unknown' cannot be read: name 'Nowhere' is not defined"),
    ):
        with pytest.raises(UsageError, match=says):
            tool(function)
    with pytest.raises(UsageError, match="is not a tool"):
        as_tool(3)


async def test_langchain_tools_are_taken_as_they_are() -> None:
    @langchain_tool
    def shout(text: str, times: int = 1) -> str:
        """Say it louder."""
        return text.upper() * times

    assert isinstance(shout, BaseTool)
    ours = as_tool(shout)
    assert (ours.name, ours.description) == ("shout", "Say it louder.")
    assert set(ours.parameters["properties"]) == {"text", "times"}
    assert (await ours({"text": "a", "times": 2})).content == "AA"
    assert (await ours({"times": 2})).reason == "bad_arguments"


async def test_tools_load_from_a_file_a_module_and_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my_house_tools.py"
    file.write_text(
        "from autotelic.tools import tool\n\n@tool\ndef double(x: int) -> int:\n    'Double.'\n    return 2 * x\n\n"
        "def helper(x: int) -> int:\n    'Not a tool.'\n    return x\n"
    )
    (loaded,) = load_tools(str(file))
    assert (await loaded({"x": 4})).content == "8"
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)  # as on the command line, where nobody has put it on the path
    assert [t.name for t in load_tools("my_house_tools:double")] == ["double"]
    assert [t.name for t in load_tools("my_house_tools:helper")] == ["helper"]
    assert load_tools("calculator") == [calculator]
    sys.modules.pop("my_house_tools")


PLUGIN = """
from __future__ import annotations
import autotelic
from autotelic.tools import Tool, ToolResult

@autotelic.tool
def double(x: int) -> int:
    "Double a number."
    return 2 * x

def halve(x: int) -> ToolResult:
    "Halve a number."
    return ToolResult(ok=True, content=str(x // 2))

def times(factor: str) -> list[Tool]:
    @autotelic.tool
    def multiply(x: int) -> int:
        "Multiply a number."
        return int(factor) * x
    return [multiply]

several = [double, halve]
"""
POINTS = "[autotelic.tool]\n" + "".join(
    f"{name} = house_plugin:{name}\n" for name in ("double", "halve", "times", "several")
)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with entry points, where an installer would put it."""
    (tmp_path / "house_plugin.py").write_text(PLUGIN)
    info = tmp_path / "house_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house_plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("house_plugin", None)


@pytest.mark.usefixtures("plugin")
async def test_an_installed_package_offers_tools_by_its_entry_points() -> None:
    for spec, arguments, content in (
        ("double", {"x": 4}, "8"),
        ("halve", {"x": 4}, "2"),
        ("times=3", {"x": 4}, "12"),
    ):
        (loaded,) = load_tools(spec)
        assert (await loaded(arguments)).content == content
    assert [one.name for one in load_tools("several")] == ["double", "halve"]
    for spec, says in (("times", "made from something. Say from what: times="), ("halve=3", "takes nothing after")):
        with pytest.raises(UsageError, match=says):
            load_tools(spec)


@pytest.mark.usefixtures("plugin")
def test_the_tools_of_an_installed_package_are_listed_and_called() -> None:
    listed = CliRunner().invoke(app, ["tools", "list", "--json"])
    assert {"double", "halve", "times", "several"} <= set(json.loads(listed.stdout))
    shown = CliRunner().invoke(app, ["tools", "list", "--tool", "halve", "--tool", "times=3", "--json"])
    assert [row["name"] for row in json.loads(shown.stdout)] == ["halve", "multiply"]
    called = CliRunner().invoke(app, ["tools", "call", "double", "--args", '{"x": 21}'])
    assert (called.exit_code, called.stdout) == (0, "42\n")


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    for spec, says in (
        (str(tmp_path / "none.py"), "there is no file"),
        (str(tmp_path / "empty.py"), "holds no tool"),
        (str(tmp_path / "broken.py"), "cannot be loaded: ModuleNotFoundError"),
        ("no_such_module:x", "no_such_module cannot be loaded"),
        ("json:nothing", "has no 'nothing'"),
        ("nothing", "no tool is called 'nothing'"),
        ("python", "needs a sandbox"),
    ):
        with pytest.raises(UsageError, match=says):
            load_tools(spec)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("(17 * 3 - 1) / 8", "6.25"),
        ("-7 // 2", "-4"),
        ("7 % 4 - -2", "5"),
        ("2 ** 100", "1267650600228229401496703205376"),
        ("2 ** -3", "0.125"),
        ("1 / 3", "1/3 (about 0.333333333333)"),
        ("-0.05 / 10", "-0.005"),
        ("gcd(12, 18) + max(1, 2) * abs(-3)", "12"),
        ("round(2.675, 2)", "2.68"),
        ("1_000.5 * 2", "2001"),
        ("1e-99999999", "0"),
    ],
)
async def test_calculator_is_exact(expression: str, result: str) -> None:
    answer = await calculator({"expression": expression})
    assert (answer.ok, answer.content) == (True, result)


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "10 ** 100000", "2 ** 0.5", "1 / 0", "1e999", "1e400 * 2", "__import__('os')", "x",
     "True + 1", "'a' * 9",
     "(1).real", "max()", "gcd(0.5, 1)", "[1]", "1 if 1 else 2", "1 +", "((" * 200, "9" * 600, "", "2**4000 * 2**4000",
     "round(1, 2, 3)", "abs(1, 2)", "max(1, key=2)"],
)  # fmt: skip
async def test_calculator_refuses(expression: str) -> None:
    answer = await calculator({"expression": expression})
    assert (answer.ok, answer.reason) == (False, "failed")
    assert answer.content


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9), st.sampled_from(["+", "-", "*", "//", "%", "/"]))
def test_calculator_agrees_with_python(a: int, b: int, op: str) -> None:
    if b == 0 and op in {"//", "%", "/"}:
        return
    answer = asyncio.run(calculator({"expression": f"({a}) {op} ({b})"}))
    expected = eval(f"Fraction({a}) {op} Fraction({b})", {"Fraction": Fraction})
    assert Fraction(answer.content.partition(" ")[0]) == expected


async def test_python_runs_in_the_sandbox_only() -> None:
    async with await Sandbox.open(limits=Limits(seconds=1)) as sandbox:
        (python,) = load_tools("python", sandbox=sandbox)
        assert isinstance(python, Tool) and python.parameters["required"] == ["code"]
        good = await python({"code": "print('hi')\n6 * 7"})
        assert (good.ok, good.content) == (True, "hi\n42")
        assert (await python({"code": "print('hi')"})).content == "hi"
        bad = await python({"code": "print('before')\n1 / 0"})
        assert (bad.ok, bad.reason, bad.content) == (False, "failed", "before\nZeroDivisionError: division by zero")
        assert (await python({"code": "while True: pass"})).reason == "timeout"
        inside = await python_tool(sandbox, name="py")({"code": "import os\nos.path.exists('/etc/passwd')"})
        assert inside.content == "False"
