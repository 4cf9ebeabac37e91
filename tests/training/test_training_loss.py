"""The loss, its gradients and the batches of the method `sft` against plain PyTorch and against TRL itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from autotelic.core.errors import UsageError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.words import Message, TrainingExample
from autotelic.training.lora import merge
from autotelic.training.packing import Row, pack
from autotelic.training.sft import SFT, tokenize
from autotelic.training.weights import WEIGHTS, load_model

pytestmark = pytest.mark.e2e

SETTINGS = {"rank": 4, "alpha": 8, "batch_size": 4, "epochs": 2, "learning_rate": 0.01}

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=6)
some_rows = st.lists(st.builds(Row, tokens, tokens, st.floats(0.1, 2)), min_size=1, max_size=8)


@given(some_rows)
def test_a_packed_batch_holds_every_row_and_no_prefix_twice(rows: list[Row]) -> None:
    packed = pack(rows)
    prefixes = set()
    for row, path in zip(rows, packed.rows_B_T, strict=True):
        whole = [*row.prompt, *row.completion]
        nodes = path[: row.length]
        assert packed.ids_N[nodes].tolist() == whole
        assert packed.positions_N[nodes].tolist() == list(range(row.length))
        prefixes |= {tuple(whole[: end + 1]) for end in range(row.length)}
    assert len(packed.ids_N) == len(prefixes)
    assert packed.rows_B_T.reshape(-1)[packed.read_N].tolist() == list(range(len(prefixes)))
    assert packed.tokens == sum(row.length for row in rows)
    assert packed.learned == sum(len(row.completion) for row in rows)
    assert packed.weight_M.sum() == pytest.approx(sum(len(row.completion) * row.weight for row in rows), rel=1e-5)


def test_a_row_without_completion_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        pack([Row([1, 2], [])])


def build(tiny: Path, rows: list[Row], scratch: Path, **overrides: Any) -> Any:
    method = SFT({**SETTINGS, **overrides})
    return method.trainer(load_model(tiny), rows, 3, str(scratch))


def stir(model: Any) -> None:
    """Give every adapter a B that is not zero, the same in every model."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def reference_loss(model: Any, rows: list[Row]) -> torch.Tensor:
    """Row by row, no padding, no sharing, stock layers and attention."""
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([[*row.prompt, *row.completion]])
        logits = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1]
        total = total + row.weight * F.cross_entropy(logits, torch.tensor(row.completion), reduction="sum")
    return total / sum(len(row.completion) for row in rows)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_plain_pytorch(tiny: Path, tmp_path: Path, checkpointing: bool) -> None:
    rows = [
        Row([3, 10, 11], [12, 2]),
        Row([3, 10, 11], [12, 13, 2], 0.25),
        Row([3, 9], [8, 7, 6, 2], 3.0),
        Row([5], [2]),
    ]
    trainer = build(tiny, rows, tmp_path, gradient_checkpointing=checkpointing)
    stir(trainer.model)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, vars(pack(rows)))
    loss.backward()

    plain = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="eager"),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    stir(plain)
    expected = reference_loss(plain, rows)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    ours, theirs = gradients(trainer.model), gradients(plain)
    assert len(ours) == 2 * 2 * 7
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


def test_weights_scale_what_a_row_teaches(tiny: Path, tmp_path: Path) -> None:
    row, other = Row([3, 10], [11, 2]), Row([4, 20], [21, 22, 2])
    trainer = build(tiny, [row, other], tmp_path)

    def loss(*rows: Row) -> float:
        return float(trainer.compute_loss(trainer.model, vars(pack(rows))).item())

    light = loss(row._replace(weight=0.5), other)
    assert light == pytest.approx((0.5 * 2 * loss(row) + 3 * loss(other)) / 5, rel=1e-5)
    assert light != pytest.approx(loss(row, other), rel=1e-3)


def test_every_row_is_seen_exactly_once_an_epoch(tiny: Path, tmp_path: Path) -> None:
    rows = [Row([3, 4], [10 + number]) for number in range(23)]
    trainer = build(tiny, rows, tmp_path)
    batches = [batch["target_M"].tolist() for batch in trainer.get_train_dataloader()]
    assert sorted(target for batch in batches for target in batch) == [10 + number for number in range(23)]
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 3]
    assert batches[0] != [10, 11, 12, 13], "rows should be shuffled"


def test_training_repeats_trl_step_by_step(tiny: Path, tmp_path: Path, examples: list[TrainingExample]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    rows = [row for example in examples for row in tokenize(tokenizer, example)]
    ours = build(tiny, rows, tmp_path)
    args = copy.copy(ours.args)
    ours.train()

    trl = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny),
        args=TrlConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_train_epochs=2,
            learning_rate=0.01,
            warmup_steps=args.warmup_steps,
            seed=3,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "input_ids": [*row.prompt, *row.completion],
                    "labels": [-100] * len(row.prompt) + list(row.completion),
                }
                for row in rows
            ]
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trl.train()
    theirs = [entry["loss"] for entry in trl.state.log_history if "loss" in entry]
    assert len(theirs) == 6
    assert ours.losses == pytest.approx(theirs, rel=1e-3)
    assert ours.losses[-1] < ours.losses[0]


def test_prompt_and_end_of_turn_are_tokenised_as_served(tiny: Path, examples: list[TrainingExample]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    (row,) = tokenize(tokenizer, examples[0])
    assert tokenizer.decode(row.prompt) == "user w1 w2 w3 <end> assistant"
    assert tokenizer.decode(row.completion) == "w4 w5 <end>"


def test_every_turn_of_the_assistants_is_learned_and_no_result_of_a_tool(
    tiny: Path, examples: list[TrainingExample]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    turns = (Message(role="assistant", content="w6 w7"), Message(role="tool", content="w8"))
    first, last = tokenize(tokenizer, examples[0].model_copy(update={"turns": turns, "weight": 0.5}))
    assert tokenizer.decode(first.prompt) == "user w1 w2 w3 <end> assistant"
    assert tokenizer.decode(first.completion) == "w6 w7 <end>"
    before = "user w1 w2 w3 <end> assistant w6 w7 <end> tool w8 <end> assistant"
    assert tokenizer.decode(last.prompt).replace("<unk>", "tool") == before
    assert tokenizer.decode(last.completion) == "w4 w5 <end>"
    assert (first.weight, last.weight) == (0.5, 0.5)


def test_the_merged_model_is_the_trained_one(tiny: Path, tmp_path: Path, examples: list[TrainingExample]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    rows = [row for example in examples for row in tokenize(tokenizer, example)]
    trainer = build(tiny, rows, tmp_path)
    trainer.train()
    with torch.no_grad():
        adapted = trainer.compute_loss(trainer.model, vars(pack(rows)))
        model = merge(trainer.model)
        model.config._attn_implementation = "sdpa"
        torch.testing.assert_close(reference_loss(model, rows), adapted)
        assert adapted < reference_loss(AutoModelForCausalLM.from_pretrained(tiny), rows) - 0.05
    assert not [name for name, _ in model.named_parameters() if "lora" in name]


def test_training_is_repeatable(tiny: Path, examples: list[TrainingExample]) -> None:
    runs = [SFT(SETTINGS).train(tiny, examples, seed, lambda step: None).losses for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_training_stops_when_its_time_is_over(tiny: Path, examples: list[TrainingExample]) -> None:
    whole = SFT(SETTINGS).train(tiny, examples, 0, lambda step: None).losses
    cut = SFT({**SETTINGS, "seconds": 1e-6}).train(tiny, examples, 0, lambda step: None).losses
    assert len(whole) > 1 and cut == whole[:1]


def test_weights_that_moved_away_come_back_into_the_file(tiny: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.data = parameter.data.clone() + 1  # what a move to a GPU and training there does
    loaded.image.take(loaded.model)
    path = tmp_path / WEIGHTS
    path.touch()
    loaded.image.write(path)
    found = load_file(path)
    assert sha256_of_weights(tmp_path) == loaded.image.sha256()
    assert set(found) == set(load_file(tiny / WEIGHTS))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, loaded.model.state_dict()[name])


def test_rows_that_are_too_long_are_named(tiny: Path, examples: list[TrainingExample]) -> None:
    trained = SFT({**SETTINGS, "max_length": 10}).train(tiny, examples, 0, lambda step: None)
    assert trained.skipped
    assert trained.rows + len(trained.skipped) == len(examples)
    with pytest.raises(UsageError, match="nothing to train on"):
        SFT({**SETTINGS, "max_length": 2}).train(tiny, examples, 0, lambda step: None)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"ranks": 3}, {"learning_rate": -1.0}, {"scheduler": "magic"}])
def test_settings_that_cannot_work_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SFT(wrong)
