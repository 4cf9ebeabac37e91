"""A real MCP server, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from autotelic.agents import Solver, ToolLoop
from autotelic.core.errors import UsageError
from autotelic.core.words import Message
from autotelic.environments import make_environment
from autotelic.serving import Gateway, Sampling, ScriptedBackend
from autotelic.tools import McpServer, ToolsConfig, open_toolbox

pytestmark = pytest.mark.e2e  # real servers, in processes of their own

SCRIPT = Path(__file__).with_name("mcp_server.py")
STDIO = McpServer(command=(sys.executable, str(SCRIPT)), permission="pure", seconds=20)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, str(SCRIPT), str(port)], stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
        server.terminate()


@pytest.mark.parametrize("over", ["stdio", "http"])
async def test_the_tools_of_a_server_are_called(over: str, url: str) -> None:
    server = STDIO if over == "stdio" else McpServer(url=url, permission="pure", seconds=20)
    async with open_toolbox(ToolsConfig(mcp={"house": server})) as toolbox:
        assert {tool.name for tool in toolbox.allowed} == {
            "add",
            "fail",
            "wait",
            "freeze",
            "die",
            "page",
            "secrets",
            "books_find",
        }
        added = await toolbox.call("add", '{"left": 2, "right": 40}')
        assert (added.ok, added.content) == (True, "42")
        found = await toolbox.call("books_find", {"title": "Emma"})
        assert found.content == "Emma is on shelf 3", "our names have no dots, and the server is called by its own"
        assert (await toolbox.call("page", {})).content == "the page's words\n", "what is embedded is read too"
        failed = await toolbox.call("fail", {"text": "no bread"})
        assert (failed.ok, failed.reason) == (False, "failed") and "no bread" in failed.content
        for bad in ('{"left": "2", "right": 40}', '{"left": 2}', '{"left": 2, "right": 40, "up": 1}'):
            assert (await toolbox.call("add", bad)).reason == "bad_arguments"


async def test_a_server_on_the_command_line_needs_one_word(url: str) -> None:
    config = ToolsConfig(use=(f"mcp={url}",), allow=("add",))
    async with open_toolbox(config) as toolbox:
        assert [tool.name for tool in toolbox.allowed] == ["add"]
        assert {tool.permission for tool in toolbox.refused} == {"network"}, "its word about itself is not trusted"
        assert (await toolbox.call("wait", {"seconds": 0})).reason == "refused"
        assert (await toolbox.call("add", {"left": 1, "right": 1})).content == "2"


@pytest.mark.e2e
async def test_a_tool_that_hangs_is_a_result_and_secrets_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_SECRET", "x")
    server = STDIO.model_copy(update={"seconds": 4.0})
    async with open_toolbox(ToolsConfig(mcp={"house": server})) as toolbox:
        seen = await toolbox.call("secrets", {})
        assert "PATH" in seen.content and "HOUSE_SECRET" not in seen.content
        late = await toolbox.call("wait", {"seconds": 60})
        assert not late.ok and late.reason in ("timeout", "failed") and "lost" not in late.content


async def test_a_server_that_hangs_as_a_whole_is_started_again() -> None:
    server = STDIO.model_copy(update={"seconds": 10.0})
    async with open_toolbox(ToolsConfig(mcp={"house": server})) as toolbox:
        hung = await toolbox.call("freeze", {"seconds": 600})
        assert not hung.ok and "it is there again" in hung.content
        assert (await toolbox.call("add", {"left": 1, "right": 1})).content == "2"


async def test_a_server_that_died_is_started_again(tmp_path: Path) -> None:
    async with open_toolbox(ToolsConfig(mcp={"house": STDIO})) as toolbox:
        for _ in range(2):
            died = await toolbox.call("die", {})
            assert (died.ok, died.reason) == (False, "failed"), "called again in a fresh server, it died again"
            assert (await toolbox.call("add", {"left": 1, "right": 1})).content == "2"
        several = [toolbox.call("die", {}), *(toolbox.call("add", {"left": 1, "right": n}) for n in range(3))]
        await asyncio.gather(*several)
        assert (await toolbox.call("add", {"left": 2, "right": 2})).content == "4"


async def test_a_call_that_may_have_changed_something_is_not_made_twice() -> None:
    careful = STDIO.model_copy(update={"permission": "writes"})
    async with open_toolbox(ToolsConfig(mcp={"house": careful}, allow=("writes",))) as toolbox:
        lost = await toolbox.call("die", {})
        assert not lost.ok and "not known what was done; it is there again" in lost.content
        assert (await toolbox.call("add", {"left": 1, "right": 1})).content == "2"


async def test_tools_of_the_same_name_are_told_apart_by_a_prefix() -> None:
    servers = {"a": STDIO, "b": STDIO.model_copy(update={"prefix": "other_", "tools": ("add", "books.find")})}
    async with open_toolbox(ToolsConfig(mcp=servers)) as toolbox:
        assert {"add", "books_find", "other_add", "other_books_find"} <= {tool.name for tool in toolbox.allowed}
        assert (await toolbox.call("other_add", {"left": 1, "right": 1})).content == "2"


def odd(fault: str, file: Path, seconds: float = 20) -> McpServer:
    command = (sys.executable, str(SCRIPT.with_name("mcp_odd.py")), fault, str(file))
    return McpServer(command=command, permission="pure", seconds=seconds)


@pytest.mark.parametrize(("fault", "seconds"), [("endless", 60.0), ("error", 20.0), ("mute", 3.0)])
async def test_a_server_that_cannot_list_its_tools_is_ended(tmp_path: Path, fault: str, seconds: float) -> None:
    with pytest.raises(UsageError, match="cannot be reached"):
        async with open_toolbox(ToolsConfig(mcp={"odd": odd(fault, tmp_path / "pid", seconds)})):
            pass
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_tool_that_cannot_be_used_does_not_take_the_others_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = odd("schema", tmp_path / "pid")
    async with open_toolbox(ToolsConfig(mcp={"odd": server})) as toolbox:
        assert [tool.name for tool in toolbox.allowed] == ["good"]
    assert "left out a tool" in caplog.text and "'bad' is no JSON schema" in caplog.text
    with pytest.raises(UsageError, match="'bad' is no JSON schema"):
        async with open_toolbox(ToolsConfig(mcp={"odd": server.model_copy(update={"tools": ("bad",)})})):
            pass


async def test_the_solver_calls_the_tools_of_a_server() -> None:
    environment = make_environment({"name": "reasoning_gym", "families": ["gcd"]})
    (task,) = environment.tasks(1, seed=3)
    told: list[list[Message]] = []

    def say(messages: Sequence[Message], sampling: Sampling) -> list[str]:
        told.append(list(messages))
        if messages[-1].role == "tool":
            return [json.dumps({"answer": messages[-1].content})]
        assert "add" in {one["function"]["name"] for one in sampling.tools}
        arguments = {"left": int(str(task.answer)) - 1, "right": 1}
        return [json.dumps({"calls": [{"tool": "add", "arguments": arguments}]})]

    gateway = Gateway(ScriptedBackend(say))
    async with open_toolbox(ToolsConfig(mcp={"house": STDIO})) as toolbox:
        solver = Solver(gateway, environment, ToolLoop(gateway, toolbox))
        found = await solver.attempt(task, solver.messages(task), Sampling(n=2, seed=1))
    assert [(one.answer, one.score, one.reason) for one in found] == [(task.answer, 1.0, "ok")] * 2
    assert [[(c.call.name, c.result.content) for c in one.calls] for one in found] == [[("add", task.answer)]] * 2
    assert [turn["role"] for turn in found[0].turns] == ["assistant", "tool"]
    assert len(told) == 4


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (ToolsConfig(use=("mcp=http://127.0.0.1:9/mcp",)), "cannot be reached"),
        (ToolsConfig(use=("mcp=/no/such/program",)), "cannot be reached"),
        (ToolsConfig(use=("mcp=",)), "names no server"),
        (ToolsConfig(mcp={"house": STDIO.model_copy(update={"tools": ("fly",)})}), "has no tool 'fly'; it has: add"),
        (ToolsConfig(use=("calculator",), mcp={"a": STDIO, "b": STDIO}), "two tools are called 'add'"),
    ],
)
async def test_a_server_that_cannot_be_used_is_one_clear_line(config: ToolsConfig, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        async with open_toolbox(config):
            pass


def test_a_server_is_a_command_or_an_address() -> None:
    for both in ({}, {"command": ("x",), "url": "http://x"}):
        with pytest.raises(ValueError, match="either command or url"):
            McpServer.model_validate(both)
