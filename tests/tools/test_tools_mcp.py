"""A real MCP server, over stdio and over HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotelic.core.errors import UsageError
from autotelic.tools import McpServer, ToolsConfig, open_toolbox

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
        assert {tool.name for tool in toolbox.allowed} == {"add", "fail", "wait", "die", "secrets"}
        added = await toolbox.call("add", '{"left": 2, "right": 40}')
        assert (added.ok, added.content) == (True, "42")
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
async def test_a_tool_that_hangs_and_a_server_that_dies_are_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_SECRET", "x")
    server = STDIO.model_copy(update={"seconds": 4.0})
    async with open_toolbox(ToolsConfig(mcp={"house": server})) as toolbox:
        seen = await toolbox.call("secrets", {})
        assert "PATH" in seen.content and "HOUSE_SECRET" not in seen.content
        late = await toolbox.call("wait", {"seconds": 60})
        assert not late.ok and late.reason in ("timeout", "failed")
        assert not (await toolbox.call("die", {})).ok
        assert not (await toolbox.call("add", {"left": 1, "right": 1})).ok


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
