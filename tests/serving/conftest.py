from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from autotelic.core.hashing import sha256_of_weights
from autotelic.core.words import Canary, DeliveryRecord, PolicyFiles
from autotelic.serving import PolicyServer, ServingConfig, VLLMServer

FAKE = Path(__file__).with_name("fake_vllm.py")
TOKENS = ((5, 6, 7, 8), (9, 10, 11))


class Bench:
    """A policy server over `fake_vllm.py`, its control files, and policies whose weights are one number."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.control = root / "control"
        self.control.mkdir()
        self.records: list[DeliveryRecord] = []
        config = ServingConfig(device="cpu", startup_seconds=30)
        process = VLLMServer(
            config, root / "server.log", lambda _, model: [sys.executable, str(FAKE), str(model), str(self.control)]
        )
        self.server = PolicyServer(config, log=process.log, on_record=self.records.append, server=process)

    def policy(self, number: int, value: float, *, canary: float | None = None, name: str = "") -> PolicyFiles:
        """Write weights `value` as policy `number`; the canary says `canary` (by default the truth)."""
        path = self.root / (name or f"policy-{number}-{value}")
        path.mkdir(exist_ok=True)
        (path / "model.safetensors").write_text(str(value))
        told = canary if canary is not None else value
        rows = tuple(tuple(-told - j / 100 for j in range(1, len(ids))) for ids in TOKENS)
        return PolicyFiles(
            number=number,
            path=str(path),
            sha256=sha256_of_weights(path),
            canary=Canary(token_ids=TOKENS, logprobs=rows),
        )

    def set(self, name: str, text: str = "") -> None:
        """Put a control file."""
        (self.control / name).write_text(text)

    def clear(self, name: str) -> None:
        """Take it away."""
        (self.control / name).unlink()

    def calls(self) -> list[str]:
        """Paths posted to the server so far."""
        return (self.control / "calls").read_text().split()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.server.stop()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Wait until something outside this process has happened, bounded by a minute."""

    def wait(true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.01)

    return wait


@pytest.fixture
def descendants() -> Callable[[int], dict[int, list[str]]]:
    """Living processes under a pid, with their command lines."""

    def find(root: int) -> dict[int, list[str]]:
        parents: dict[int, int] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.parent.name)] = int(parent)
        found: dict[int, list[str]] = {}
        wave = {root}
        while wave := {pid for pid, parent in parents.items() if parent in wave}:
            for pid in wave:
                found[pid] = [*Path(f"/proc/{pid}/cmdline").read_text().split("\0"), "", ""]
        return found

    return find
