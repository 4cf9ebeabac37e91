"""The whole idea in a hundred lines: answer with help, keep what is right, train without the help, prove, compare.

One round on the default model, about five minutes on two CPU cores. What the framework adds to this: a proposer, memory
that grows, curation with reasons, a ledger, resume after a kill at any moment, alarms, and a report.

    .venv/bin/python examples/loop_in_100_lines.py
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from autotelic.agents import Solver, demonstration_turns
from autotelic.core.words import PolicyFiles, Role, Task, TrainingExample, content_id
from autotelic.environments import Environment, open_environment, solved
from autotelic.evaluation import paired_bootstrap
from autotelic.serving import PolicyServer, Sampling, ServingConfig, resolve_model
from autotelic.training import Trainer, TrainingJob, read_policy

Pairs = list[tuple[str, str]]


async def answer(solver: Solver, task: Task, helped: Pairs, sampling: Sampling) -> list[tuple[str, bool]]:
    """Sample answers to one task and have the environment judge them."""
    attempts = await solver.attempt(task, solver.messages(task, demonstration_turns(helped)), sampling)
    return [(attempt.answer or "", solved(attempt.score)) for attempt in attempts]


async def score(solver: Solver, tasks: list[Task]) -> list[float | None]:
    """Answer every task once, greedily and without help."""
    greedy = Sampling(temperature=0.0, max_tokens=24)
    found = await asyncio.gather(*(answer(solver, task, [], greedy) for task in tasks))
    return [float(attempts[0][1]) for attempts in found]


async def right_answers(solver: Solver, tasks: list[Task], solved_examples: list[Task]) -> list[TrainingExample]:
    """Answer with three solved examples in the prompt; what is right is learned without them."""
    sampling = Sampling(n=8, temperature=1.0, max_tokens=24, seed=1)

    async def one(task: Task) -> TrainingExample | None:
        pairs = [(t.question, str(t.answer)) for t in solved_examples if t.family == task.family][:3]
        right = [text for text, ok in await answer(solver, task, pairs, sampling) if ok]
        if not right or len(right) == sampling.n:  # nothing to learn from, or nothing left to learn
            return None
        bare = solver.messages(task)
        id_ = content_id(task.id, right[0])
        return TrainingExample(id=id_, role=Role.SOLVER, messages=bare, completion=right[0], family=task.family)

    found = await asyncio.gather(*(one(task) for task in tasks))
    return [example for example in found if example is not None]


async def one_round(environment: Environment, trainer: Trainer, server: PolicyServer, room: Path, n: int) -> None:
    """Policy 0 answers, policy 1 is trained on what was right, and stays only if it is better on new tasks."""
    base = Path(resolve_model().path)
    fingerprint = await trainer.prepare_base(base)
    old = PolicyFiles(number=0, path=str(base), sha256=fingerprint.sha256, canary=fingerprint.canary)
    await server.start(old)
    solver = Solver(server.gateway, environment)
    practice, examples, fresh = (environment.tasks(k, seed) for k, seed in ((n, 11), (48, 22_000), (n, 33_000_000)))
    fresh = [task for task in fresh if task.id not in {t.id for t in practice + examples}]

    before = await score(solver, fresh)
    data = await right_answers(solver, practice, examples)
    print(f"{len(data)} of {len(practice)} tasks gave something to learn")
    path = room / "examples.jsonl"
    path.write_text("".join(example.model_dump_json() + "\n" for example in data))
    job = TrainingJob(number=1, parent=0, base=str(base), examples=str(path), out=str(room / "policy-1"))
    result = await trainer.train(job, lambda step: print(f"step {step.step}/{step.steps}: loss {step.loss:.3f}"))

    record = await server.deliver(read_policy(room / "policy-1"), kind="train", finished_at=result.finished_at)
    print(
        f"policy-1 proved and serving after {record.seconds:.2f} s: {record.proof.to_trainer:.2f} nats from the trainer"
    )
    found = paired_bootstrap(before, await score(solver, fresh))
    assert found is not None
    print(f"{found.before:.1%} -> {found.after:.1%}, gain {found.gain:+.3f} [{found.low:+.3f}, {found.high:+.3f}]")
    if found.low <= 0:
        await server.deliver(old, kind="rollback")
    print(f"policy-{server.policy} is the champion")


async def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as room:
        async with (
            open_environment({"name": "reasoning_gym"}) as environment,
            Trainer(Path(room) / "train.log") as trainer,
        ):
            server = PolicyServer(ServingConfig(), log=Path(room) / "vllm.log")
            try:
                await one_round(environment, trainer, server, Path(room), n)
            finally:
                await server.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
