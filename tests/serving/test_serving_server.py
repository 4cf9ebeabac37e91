from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autotelic.core.errors import ServingError, UsageError
from autotelic.serving import ServingConfig, VLLMServer
from autotelic.serving import server as server_module
from autotelic.serving.server import server_command, server_environment

Wait = Callable[[Callable[[], bool]], None]
Descendants = Callable[[int], dict[int, list[str]]]
SUPERVISOR = str(Path(server_module.__file__).with_name("_supervisor.py"))
CONFIG = ServingConfig(device="cpu", startup_seconds=30)

# A server that starts a child, tells both pids and leaves a file in its temporary directory; neither ends by itself,
# the child not even when asked to.
FAMILY = """
import os, signal, sys, tempfile, time
tempfile.mkstemp()
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    with open(sys.argv[1] + ".part", "w") as stream:
        stream.write(f"{os.getpid()} {child}")
    os.rename(sys.argv[1] + ".part", sys.argv[1])
while True:
    time.sleep(60)
"""
# A parent like ours: it starts the supervisor with a pipe and then waits.
PARENT = """
import subprocess, sys, time
held = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
print(held.pid, flush=True)
while True:
    time.sleep(60)
"""


def server(tmp_path: Path, code: str, config: ServingConfig = CONFIG) -> VLLMServer:
    return VLLMServer(config, tmp_path / "server.log", lambda *_: [sys.executable, "-c", code])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_a_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("an earlier start\n")
    broken = server(tmp_path, "import sys; print('loading'); sys.exit('no such model')")
    with pytest.raises(ServingError, match=r"status 1 before(?s:.*)loading\nno such model") as caught:
        await broken.start(tmp_path)
    assert "an earlier start" not in str(caught.value) and str(tmp_path / "server.log") in str(caught.value)
    assert not broken.running


async def test_a_start_is_bounded(tmp_path: Path, descendants: Descendants) -> None:
    config = ServingConfig(device="cpu", startup_seconds=0.2)
    slow = server(tmp_path, "print('thinking', flush=True)\nwhile True: pass", config)
    with pytest.raises(ServingError, match=r"startup_seconds is 0\.2"):
        await slow.start(tmp_path)
    assert not descendants(os.getpid())


async def test_a_lost_port_is_replaced(tmp_path: Path) -> None:
    once = tmp_path / "once"
    code = f"""
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
if not os.path.exists({str(once)!r}):
    open({str(once)!r}, "w").close()
    sys.exit("[Errno 98] Address already in use")
class Well(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[-1])), Well).serve_forever()
"""
    made = server(tmp_path, code)
    await made.start(tmp_path)
    assert await made.healthy()
    await made.stop()
    assert not await made.healthy()


async def test_a_busy_port_is_the_users_to_mend(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = ServingConfig(device="cpu", port=taken.getsockname()[1])
        with pytest.raises(UsageError, match=r"serving\.port"):
            await server(tmp_path, "", config).start(tmp_path)


async def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"serving\.python"):
        await server(tmp_path, "", ServingConfig(python=str(tmp_path / "python"))).start(tmp_path)


async def test_an_interpreter_without_vllm(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(UsageError, match="has no vLLM"):
        await server(tmp_path, "", ServingConfig(python=str(bare))).start(tmp_path)


def test_the_command_is_made_for_the_machine() -> None:
    cpu = server_command(ServingConfig(device="cpu"), Path("m"))
    gpu = server_command(ServingConfig(device="cuda", extra_args=("--seed", "3")), Path("m"))
    assert "--no-enable-chunked-prefill" in cpu and "--enforce-eager" in cpu
    assert "--no-enable-chunked-prefill" not in gpu and "--enforce-eager" not in gpu and "uni" not in gpu
    assert gpu[-3:] == ["--seed", "3", "--port"] and cpu[cpu.index("--host") + 1] == "127.0.0.1"
    ahead = server_command(ServingConfig(device="cpu", guess_ahead=4), Path("m"))
    guessed = json.loads(ahead[ahead.index("--speculative-config") + 1])
    assert guessed["method"] == "ngram" and guessed["num_speculative_tokens"] == 4
    assert "--speculative-config" not in cpu
    assert "OMP_NUM_THREADS" in server_environment(ServingConfig(device="cpu", threads=3), "k")


def test_keys_of_others_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    environment = server_environment(CONFIG, "ours")
    assert "OPENAI_API_KEY" not in environment and environment["AUTOTELIC_SERVER_KEY"] == "ours"
    assert "ours" not in server_command(CONFIG, Path("m"))


@pytest.mark.parametrize("killed", ["server", "supervisor", "parent"])
def test_nothing_survives_a_kill(tmp_path: Path, killed: str, wait_for: Wait) -> None:
    pids = tmp_path / "pids"
    command = [sys.executable, "-I", "-S", SUPERVISOR, "0.2", sys.executable, "-c", FAMILY, str(pids)]
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    with parent:
        assert parent.stdout is not None
        supervisor = int(parent.stdout.readline())
        wait_for(pids.exists)
        family = [int(pid) for pid in pids.read_text().split()]
        assert all(alive(pid) for pid in family) and [*scratch.glob("autotelic-*/*")]
        os.kill({"server": family[0], "supervisor": supervisor, "parent": parent.pid}[killed], signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in [*family, supervisor]) and not any(scratch.iterdir()))
        parent.kill()


async def test_stop_ends_what_does_not_want_to(tmp_path: Path, wait_for: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_GRACE_SECONDS", 0.2)
    pids = tmp_path / "pids"
    made = VLLMServer(CONFIG, tmp_path / "log", lambda *_: [sys.executable, "-c", FAMILY, str(pids)])
    start = asyncio.create_task(made.start(tmp_path))
    await asyncio.to_thread(wait_for, pids.exists)
    family = [int(pid) for pid in pids.read_text().split()]
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not any(alive(pid) for pid in family) and not made.running


def test_the_eager_cpu_server_needs_no_compiler_and_hardly_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    eager = server_environment(ServingConfig(device="cpu"), "k")
    assert (eager["TORCHDYNAMO_DISABLE"], eager["GOMP_SPINCOUNT"]) == ("1", "2000")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "GOMP_SPINCOUNT" not in server_environment(ServingConfig(device="cpu"), "k")
    compiled = server_environment(ServingConfig(device="cpu", enforce_eager=False), "k")
    assert "TORCHDYNAMO_DISABLE" not in compiled
