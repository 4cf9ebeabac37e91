"""The index on a Chroma server of its own: filled, searched, harmed, rebuilt, gone."""

from __future__ import annotations

import gc
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.memory.kit import Trigrams, solved

from autotelic.core.errors import UsageError
from autotelic.memory import Memory, Query

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Chroma's client leaves its connections for the garbage collector to close, which warns."""
    yield
    gc.collect()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [shutil.which("chroma", path=Path(sys.executable).parent) or "chroma", "run", "--host", "127.0.0.1"]
    arguments = ["--port", str(port), "--path", str(tmp_path / "server")]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


async def test_a_memory_whose_index_is_on_a_server(server: str, tmp_path: Path) -> None:
    for name in ("one", "two"):  # two runs, one server, nothing mixed
        memory = await Memory.open(tmp_path / name, Trigrams(), chroma=server)
        await memory.add([solved(i, f"{name}: the gcd of {i} and {3 * i}") for i in range(1, 30)])
        await memory.aclose()
    memory = await Memory.open(tmp_path / "one", Trigrams(), chroma=server)
    assert await memory.check(), "it is there after closing"
    assert not (tmp_path / "one" / "chroma").exists()
    asked = Query("one: the gcd of 7 and 21!")
    [found] = await memory.retrieve([asked], 5)
    assert found[0].id == "d7" and all(one.question.startswith("one") for one in found)
    assert await memory.forget(["d7"]) == ["d7"]
    [found] = await memory.retrieve([asked], 40)
    assert len(found) == 28 and "d7" not in {one.id for one in found}
    memory._index._collection.delete(ids=["d8"])
    assert not await memory.check() and await memory.check(), "what was lost is built again"
    await memory.aclose()


async def test_no_server_is_one_clear_line(tmp_path: Path) -> None:
    for url, says in (("http://127.0.0.1:9", "no Chroma server answers"), ("127.0.0.1:8000", "an address such as")):
        with pytest.raises(UsageError, match=says):
            await Memory.open(tmp_path, Trigrams(), chroma=url)
