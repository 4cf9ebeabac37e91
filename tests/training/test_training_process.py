"""The trainer process with a tiny model: whole policies or none, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from autotelic.core.errors import StoreError, TrainingError, UsageError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.words import TrainingExample
from autotelic.training import Trainer, TrainingJob, TrainingResult, TrainingStep, read_card, read_policy

SMALL = {"rank": 4, "batch_size": 4, "epochs": 2}
ENDLESS = {**SMALL, "epochs": 100_000}
SOURCE = str(Path(__file__).parents[2] / "src")

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]  # every test starts a process with torch in it


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def trainer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trainer]:
    async with Trainer(tmp_path_factory.mktemp("logs") / "trainer.log", threads=1) as trainer:
        yield trainer


@pytest.fixture
def job(tiny: Path, tmp_path: Path, examples: list[TrainingExample]) -> TrainingJob:
    data = tmp_path / "examples.jsonl"
    data.write_text("".join(example.model_dump_json() + "\n" for example in examples))
    return TrainingJob(
        number=1,
        parent=0,
        base=str(tiny),
        examples=str(data),
        out=str(tmp_path / "policies" / "policy-1"),
        config=SMALL,
        canary_texts=("w1 w2 w3 w4", "w5 w6"),
    )


async def test_a_job_makes_a_whole_policy_and_is_not_done_twice(trainer: Trainer, job: TrainingJob) -> None:
    steps: list[TrainingStep] = []
    announced: list[tuple[int, tuple[int, ...]]] = []
    result = await trainer.train(job, steps.append, lambda ids: announced.append((len(steps), ids)))
    assert announced == [(0, *result.canary.token_ids)], "before the first step"
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert result.losses == tuple(step.loss for step in steps)
    assert TrainingResult.model_validate_json(result.model_dump_json()) == result

    policy = read_policy(Path(job.out), verify=True)
    card = read_card(Path(job.out))
    assert (policy.number, card.parent, len(card.data_ids)) == (1, 0, 10)
    assert policy.sha256 == result.sha256 == sha256_of_weights(policy.path)
    fresh = await trainer.prepare_base(Path(policy.path))
    assert fresh.sha256 == result.sha256
    assert (Path(job.out) / "adapter" / "adapter_model.safetensors").exists()
    assert sorted(path.name for path in Path(job.out).parent.iterdir()) == ["policy-1"]

    steps.clear()
    assert await trainer.train(job, steps.append) == result
    assert not steps
    other = await trainer.train(job.model_copy(update={"seed": 5}), steps.append)
    assert len(steps) == 6
    assert other.sha256 != result.sha256


async def test_a_method_and_its_settings_are_checked_without_a_job(trainer: Trainer) -> None:
    await trainer.check("sft", SMALL)
    for method, settings, says in (
        ("stf", {}, "no method is called 'stf'"),
        ("sft", {"epochz": 3}, "epochz: Extra inputs are not permitted"),
        ("dpo", {"beta": -1}, "beta: Input should be greater than 0"),
    ):
        with pytest.raises(UsageError, match=says):
            await trainer.check(method, settings)


async def test_changed_weights_are_noticed(trainer: Trainer, job: TrainingJob) -> None:
    await trainer.train(job)
    weights = Path(job.out) / "merged" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(StoreError, match="have changed"):
        read_policy(Path(job.out), verify=True)
    (Path(job.out) / "card.json").write_text("{")
    with pytest.raises(StoreError, match="is not a policy"):
        read_policy(Path(job.out))


async def test_a_mistake_of_the_user_keeps_the_worker(trainer: Trainer, job: TrainingJob, tmp_path: Path) -> None:
    await trainer.warm()
    pid = trainer.pid
    with pytest.raises(UsageError, match="rank"):
        await trainer.train(job.model_copy(update={"config": {"rank": -1}}))
    with pytest.raises(UsageError, match="no model can be loaded"):
        await trainer.train(job.model_copy(update={"base": str(tmp_path)}))
    with pytest.raises(UsageError, match="no directory"):
        await trainer.train(job.model_copy(update={"base": str(tmp_path / "nowhere")}))
    assert trainer.pid == pid
    assert not Path(job.out).exists()


async def test_a_method_may_be_one_of_a_plug_ins(trainer: Trainer, job: TrainingJob, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from autotelic.core.registry import lookup, register\n"
        "@register('method', 'mine')\n"
        "def mine(config):\n    return lookup('method', 'sft')(config)\n"
    )
    own = job.model_copy(update={"method": "mine"})
    with pytest.raises(UsageError, match="no method is called 'mine'"):
        await trainer.train(own)
    assert (await trainer.train(own.model_copy(update={"plugins": (str(file),)}))).losses


async def test_a_killed_worker_leaves_nothing_and_the_next_job_runs(trainer: Trainer, job: TrainingJob) -> None:
    def kill(step: TrainingStep) -> None:
        if step.step == 2 and trainer.pid is not None:
            victims.append(trainer.pid)
            os.kill(trainer.pid, signal.SIGKILL)

    victims: list[int] = []
    with pytest.raises(TrainingError, match="exit code -9"):
        await trainer.train(job.model_copy(update={"config": ENDLESS}), kill)
    assert trainer.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(victims[0], 0)
    assert not list(Path(job.out).parent.iterdir())
    assert (await trainer.train(job)).steps == 6


async def test_a_failed_job_says_why(trainer: Trainer, job: TrainingJob) -> None:
    Path(job.examples).write_text("{}\n")
    with pytest.raises(TrainingError, match="validation errors") as caught:
        await trainer.train(job)
    assert "Traceback" in str(caught.value), "the log's tail belongs to the message"


async def test_the_worker_dies_with_its_parent(job: TrainingJob, tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib, sys
from autotelic.training import Trainer, TrainingJob
job = TrainingJob.model_validate_json(sys.argv[1])
async def main():
    trainer = Trainer(pathlib.Path({str(tmp_path / "log")!r}), threads=1)
    await trainer.train(job, lambda step: print(trainer.pid, flush=True))
asyncio.run(main())
"""
    endless = job.model_copy(update={"config": ENDLESS}).model_dump_json()
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", program, endless]
    parent = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    worker = os.pidfd_open(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    ended, _, _ = await asyncio.to_thread(select.select, [worker], [], [], 30)
    os.close(worker)
    assert ended, "the worker outlived its parent"
