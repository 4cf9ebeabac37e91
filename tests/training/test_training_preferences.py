"""The method `dpo` against plain PyTorch and against TRL's own trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig as TrlConfig
from trl import DPOTrainer

from autotelic.core.errors import UsageError
from autotelic.core.words import TrainingExample
from autotelic.training.dpo import DPO
from autotelic.training.packing import Row
from autotelic.training.sft import tokenize
from autotelic.training.weights import load_model

pytestmark = pytest.mark.e2e

SETTINGS = {"rank": 4, "alpha": 8, "batch_size": 4, "epochs": 2, "learning_rate": 0.01, "beta": 0.3, "sft": 0.7}
ROWS = [
    Row([3, 10, 11], [12, 2], 1.0, [12, 13, 14, 2]),
    Row([3, 10, 11], [15, 2], 1.0, [12, 2]),
    Row([3, 9], [8, 7, 6, 2], 1.0, [2]),
    Row([5, 6], [20, 2], 1.0, [21, 22, 2]),
]


def build(tiny: Path, rows: list[Row], scratch: Path, **overrides: Any) -> Any:
    return DPO({**SETTINGS, **overrides}).trainer(load_model(tiny), rows, 3, str(scratch))


def stir(model: Any) -> None:
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)


def said(model: Any, prompt: Any, answer: Any) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return -F.cross_entropy(logits, torch.tensor(answer), reduction="sum")


def reference_loss(model: Any, before: Any, rows: list[Row]) -> torch.Tensor:
    """Pair by pair, no sharing, stock layers."""
    likelihood = sum((said(model, row.prompt, row.completion) for row in rows), torch.zeros(()))
    tokens = sum(len(row.completion) for row in rows)
    gained = [
        (said(model, row.prompt, row.completion) - said(model, row.prompt, row.rejected))
        - (said(before, row.prompt, row.completion) - said(before, row.prompt, row.rejected)).detach()
        for row in rows
        if row.rejected
    ]
    preference = -F.logsigmoid(0.3 * torch.stack(gained)).mean()
    return preference - 0.7 * likelihood / tokens


@pytest.mark.parametrize("rows", [ROWS, [*ROWS[:2], Row([3, 10], [30, 31, 2])]], ids=["pairs", "and a single"])
def test_loss_and_gradients_equal_plain_pytorch(tiny: Path, tmp_path: Path, rows: list[Row]) -> None:
    trainer = build(tiny, rows, tmp_path)
    trainer._margins = trainer._measured()
    stir(trainer.model)
    trainer.model.train()
    batch = trainer._collate(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()

    plain = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="eager"),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    stir(plain)
    expected = reference_loss(plain, AutoModelForCausalLM.from_pretrained(tiny), rows)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert trainer.losses == [pytest.approx(expected.item(), rel=1e-4)]
    ours = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert len(ours) == 2 * 2 * 7
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


class Given(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on token ids."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def test_training_repeats_trl_step_by_step(tiny: Path, tmp_path: Path) -> None:
    ours = build(tiny, ROWS * 2, tmp_path)
    ours.train()
    columns = {
        "prompt_ids": [list(row.prompt) for row in ROWS * 2],
        "chosen_ids": [list(row.completion) for row in ROWS * 2],
        "rejected_ids": [list(row.rejected) for row in ROWS * 2],
    }
    args = TrlConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_train_epochs=2, learning_rate=0.01,
        warmup_steps=ours.args.warmup_steps, seed=3, bf16=False, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to="none", disable_tqdm=True, dataloader_pin_memory=False, gradient_checkpointing=False,
        loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7], beta=0.3, remove_unused_columns=False,
    )  # fmt: skip
    trl = Given(
        model=AutoModelForCausalLM.from_pretrained(tiny),
        args=args,
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(tiny),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trl.train()
    theirs = [entry["loss"] for entry in trl.state.log_history if "loss" in entry]
    assert len(theirs) == 4
    assert ours.losses == pytest.approx(theirs, rel=2e-3)
    assert ours.losses[-1] < ours.losses[0]


def test_what_was_chosen_over_it_becomes_less_likely(tiny: Path, examples: list[TrainingExample]) -> None:
    pairs = [one.model_copy(update={"rejected": "w40 w41 w42"}) for one in examples]
    (row,) = tokenize(AutoTokenizer.from_pretrained(tiny), pairs[0])
    assert row.rejected[-1] == row.completion[-1] and len(row.rejected) == 4
    before = AutoModelForCausalLM.from_pretrained(tiny)
    trained = DPO({**SETTINGS, "epochs": 6}).train(tiny, pairs, 0, lambda step: None)

    def margin(model: Any) -> float:
        return float(said(model, row.prompt, row.completion) - said(model, row.prompt, row.rejected))

    with torch.no_grad():
        assert margin(trained.model) > margin(before) + 1
    assert trained.rows == len(pairs) and not trained.skipped


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"sft": -1.0}, {"betas": 1}])
def test_settings_that_cannot_work_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"method dpo cannot work: {next(iter(wrong))}"):
        DPO(wrong)
