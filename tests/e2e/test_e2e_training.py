"""The trainer on the default model: it learns, what it writes is what it proved, and a blow leaves nothing behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from autotelic.core.errors import TrainingError
from autotelic.core.words import Message, Role, TrainingExample, content_id
from autotelic.serving.model import resolve_model
from autotelic.training import Trainer, TrainingJob, TrainingStep, read_card, read_policy
from autotelic.training.weights import canary_of, load_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def make_examples() -> list[TrainingExample]:
    rows = []
    for number in range(24):
        word = "abcdefghijklmnopqrstuvwxyz"[number % 20 : number % 20 + 4]
        messages = (Message(role="user", content=f"Spell this word backward: {word}"),)
        answer = f"<answer>{word[::-1]}</answer>"
        rows.append(
            TrainingExample(id=content_id(word, number), role=Role.SOLVER, messages=messages, completion=answer)
        )
    return rows


def make_job(directory: Path, number: int, base: str, epochs: int = 2) -> TrainingJob:
    data = directory / "examples.jsonl"
    data.write_text("".join(example.model_dump_json() + "\n" for example in make_examples()))
    return TrainingJob(
        number=number,
        parent=number - 1,
        base=base,
        examples=str(data),
        out=str(directory / "policies" / f"policy-{number}"),
        config={"epochs": epochs},
    )


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_blow_in_mid_training_leaves_nothing(tmp_path: Path, blow: signal.Signals) -> None:
    async with Trainer(tmp_path / "trainer.log", timeout=60) as trainer:

        def strike(step: TrainingStep) -> None:
            if step.step == 1 and trainer.pid is not None:
                os.kill(trainer.pid, blow)

        job = make_job(tmp_path, 1, resolve_model().path, epochs=50)
        with pytest.raises(TrainingError, match=r"exit code -9|no sign of life"):
            await trainer.train(job, strike)
        assert trainer.pid is None
        assert not list((tmp_path / "policies").iterdir())
        result = await trainer.train(make_job(tmp_path, 1, job.base, epochs=1))
        assert result.steps == 2
        assert read_policy(Path(job.out), verify=True).sha256 == result.sha256


async def test_two_policies_in_a_row(tmp_path: Path) -> None:
    base = resolve_model()
    async with Trainer(tmp_path / "trainer.log") as trainer:
        fingerprint = await trainer.prepare_base(Path(base.path))
        assert fingerprint.sha256 == base.sha256
        first = await trainer.train(make_job(tmp_path, 1, base.path))
        policy = read_policy(tmp_path / "policies" / "policy-1", verify=True)
        second = await trainer.train(make_job(tmp_path, 2, policy.path))
        policy = read_policy(tmp_path / "policies" / "policy-2", verify=True)

    assert first.last_loss < 0.7 * first.first_loss
    assert second.first_loss < 0.7 * first.first_loss, "the second policy starts where the first ended"
    assert len({fingerprint.sha256, first.sha256, second.sha256}) == 3
    assert read_card(tmp_path / "policies" / "policy-2").parent == 1

    loaded = load_model(Path(policy.path))
    (texts,), (ids,) = fingerprint.canary.token_ids, policy.canary.token_ids
    assert ids[: len(texts)] == texts and len(ids) > len(texts), "the fixed texts, then what was trained on"
    again = canary_of(loaded.model.eval(), ids)
    assert again.token_ids == policy.canary.token_ids
    assert again.logprobs[0] == pytest.approx(policy.canary.logprobs[0], abs=1e-3)
    said = [one.canary.logprobs[0][: len(texts) - 1] for one in (fingerprint, first, second)]
    assert said[0] != said[1] != said[2]

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy.path)
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Spell this word backward: cdef"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    generated = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    text = loaded.tokenizer.decode(generated)
    assert text.startswith("<answer>")
    assert text.endswith("</answer><|im_end|>")
