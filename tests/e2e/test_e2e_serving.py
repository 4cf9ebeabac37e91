"""The real vLLM on the real model: served, guided, delivered to, attacked, killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from autotelic.core.errors import DeliveryError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.words import DeliveryRecord, Message, PolicyFiles
from autotelic.serving import Indistinguishable, PolicyServer, Sampling, ServingConfig, resolve_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MAKER = Path(__file__).parents[2] / "benchmarks" / "delivery.py"
ASK = [Message(role="user", content="What is the capital of France? Answer in one sentence.")]
SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 20}, "letters": {"type": "integer", "minimum": 0}},
    "required": ["capital", "letters"],
    "additionalProperties": False,
}
ORPHAN = """
import asyncio, sys
from pathlib import Path
from autotelic.serving import ServingConfig, VLLMServer
asyncio.run(VLLMServer(ServingConfig(), Path(sys.argv[2])).start(Path(sys.argv[1])))
"""


def make(source: Path | str, out: Path, noise: float, number: int) -> PolicyFiles:
    command = [sys.executable, "-W", "ignore", str(MAKER), "--make", str(source), str(out), str(noise)]
    subprocess.run(command, check=True, capture_output=True)
    return PolicyFiles.model_validate_json((out / "policy.json").read_text()).model_copy(update={"number": number})


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[PolicyFiles]:
    """The base, and two policies made from it."""
    root, model = tmp_path_factory.mktemp("policies"), resolve_model()
    assert resolve_model() == model
    return [make(model.path, root / f"policy-{i}", noise, i) for i, noise in enumerate((0.0, 0.02, 0.05))]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PolicyServer]:
    made = PolicyServer(ServingConfig(), log=tmp_path / "vllm.log")
    yield made
    await made.stop()
    assert not processes(os.getpid())


def processes(root: int) -> dict[int, str]:
    """Living processes under a pid, by name."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = entry.read_text().rpartition(")")
        except OSError:
            continue
        if tail.split()[0] != "Z":
            parents[int(entry.parent.name)] = int(tail.split()[1])
            names[int(entry.parent.name)] = head.partition("(")[2] + " " + command_line(int(entry.parent.name))
    found: dict[int, str] = {}
    wave = {root}
    while wave := {pid for pid, parent in parents.items() if parent in wave}:
        found |= {pid: names[pid] for pid in wave}
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def pid_of(word: str) -> int:
    return min(pid for pid, name in processes(os.getpid()).items() if word in name)


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def copy(policy: PolicyFiles, to: Path, number: int) -> PolicyFiles:
    shutil.copytree(policy.path, to)
    return policy.model_copy(update={"number": number, "path": str(to)})


async def test_served_guided_and_delivered(server: PolicyServer, policies: list[PolicyFiles], tmp_path: Path) -> None:
    records: list[DeliveryRecord] = []
    server.on_record = records.append
    base, candidate, _ = policies
    await server.start(base)
    gateway = server.gateway

    greedy = Sampling(temperature=0, max_tokens=16, logprobs=True)
    [plain] = await gateway.complete(ASK, greedy)
    assert plain.policy == 0 and plain.prompt_tokens > 10
    assert len(plain.token_ids) == len(plain.logprobs) == plain.completion_tokens <= 16
    assert all(value <= 0 for value in plain.logprobs)

    for answer in await gateway.complete(ASK, Sampling(schema=SCHEMA, n=4, max_tokens=64, seed=1)):
        assert set(json.loads(answer.text)) == {"capital", "letters"}
        assert answer.text == json.dumps(json.loads(answer.text), separators=(",", ":"), ensure_ascii=False)
    [choice] = await gateway.complete(ASK, Sampling(choices=("yes", "no")))
    [number] = await gateway.complete(ASK, Sampling(regex="[0-9]{3}"))
    assert choice.text in ("yes", "no") and re.fullmatch("[0-9]{3}", number.text)

    # Long prompts with seeds, many at once: what kills vLLM on a CPU when it cuts prompts in pieces.
    long = [Message(role="user", content="Count. " * 150)]
    many = await asyncio.gather(*[gateway.complete(long, Sampling(max_tokens=8, seed=i)) for i in range(48)])
    assert len(many) == 48

    async with httpx.AsyncClient(base_url=server.server.url) as stranger:
        for path in ("/collective_rpc", "/pause", "/v1/chat/completions"):
            assert (await stranger.post(path, json={})).status_code == 401

    record = await server.deliver(candidate, kind="train", finished_at=time.time())
    assert server.policy == 1 and record.previous == 0
    assert record.proof.to_previous is not None and record.proof.to_previous > record.proof.to_trainer
    [moved] = await gateway.complete(ASK, greedy)
    assert moved.policy == 1 and moved.logprobs != plain.logprobs
    await server.deliver(base, kind="rollback")
    [again] = await gateway.complete(ASK, greedy)
    assert again.policy == 0 and again.token_ids == plain.token_ids
    assert [(r.policy, r.kind) for r in records] == [(0, "start"), (1, "train"), (0, "rollback")]

    # Nothing learned: not served, and the server, which was not touched, goes on with what it had.
    pid = pid_of("autotelic_vllm")
    with pytest.raises(Indistinguishable, match="very weights of policy-0"):
        await server.deliver(copy(base, tmp_path / "twin", 2), kind="train")
    with pytest.raises(DeliveryError, match="policy-2 was not delivered"):
        await gateway.complete(ASK, greedy)
    await server.deliver(base)
    [again] = await gateway.complete(ASK, greedy)
    assert again.token_ids == plain.token_ids and pid_of("autotelic_vllm") == pid


async def test_attacks_are_caught(server: PolicyServer, policies: list[PolicyFiles], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    base, candidate, other = policies
    await server.start(base)

    flipped = copy(candidate, tmp_path / "flipped", 11)
    with (Path(flipped.path) / "model.safetensors").open("r+b") as stream:
        stream.seek(-1000, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-1000, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))
    truncated = copy(candidate, tmp_path / "truncated", 12)
    os.truncate(Path(truncated.path) / "model.safetensors", 100_000_000)
    for attack in (flipped, truncated):
        with pytest.raises(DeliveryError, match="its card"):
            await server.deliver(attack)
        with pytest.raises(DeliveryError):
            await server.gateway.complete(ASK)
    await server.deliver(base, kind="rollback")
    assert (await server.gateway.complete(ASK, Sampling(max_tokens=4)))[0].policy == 0

    # A card whose hash fits: only the server's answers can tell.
    stale = copy(base, tmp_path / "stale", 13).model_copy(update={"canary": candidate.canary})
    with pytest.raises(DeliveryError, match="not proved"):
        await server.deliver(stale)
    with pytest.raises(DeliveryError):
        await server.gateway.complete(ASK)

    await server.deliver(candidate)
    tampered = copy(other, tmp_path / "tampered", 14)
    file = Path(tampered.path) / "model.safetensors"
    weights = load_file(file)
    layer = weights["model.layers.15.mlp.down_proj.weight"]
    layer.add_(torch.randn_like(layer) * layer.std())
    save_file(weights, file, metadata={"format": "pt"})
    tampered = tampered.model_copy(update={"sha256": sha256_of_weights(tampered.path)})
    with pytest.raises(DeliveryError, match="differs from the trainer"):
        await server.deliver(tampered)
    with pytest.raises(DeliveryError):
        await server.gateway.complete(ASK)


async def test_kills_are_survived_and_leave_nothing(server: PolicyServer, policies: list[PolicyFiles]) -> None:
    records: list[DeliveryRecord] = []
    server.on_record = records.append
    await server.start(policies[0])
    await server.deliver(policies[1])
    sampling = Sampling(max_tokens=200, n=4)
    for victim in ("VLLM::EngineCor", "autotelic_vllm"):
        before = list(processes(os.getpid()))
        asked = [asyncio.create_task(server.gateway.complete(ASK, sampling)) for _ in range(4)]
        await asyncio.sleep(0.3)
        os.kill(pid_of(victim), signal.SIGKILL)
        answers = await asyncio.gather(*asked)
        assert {c.policy for answer in answers for c in answer} == {1}
        assert not alive(before)
    assert [(r.policy, r.kind) for r in records] == [(0, "start"), (1, "switch"), (1, "recover"), (1, "recover")]

    everything = list(processes(os.getpid()))
    os.kill(pid_of("_supervisor.py"), signal.SIGKILL)
    await asyncio.to_thread(wait_for, lambda: not alive(everything))


def test_a_killed_parent_takes_the_server_with_it(policies: list[PolicyFiles], tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, policies[0].path, str(tmp_path / "vllm.log")])
    wait_for(lambda: any("EngineCor" in name for name in processes(parent.pid).values()))
    everything = [parent.pid, *processes(parent.pid)]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not alive(everything))
