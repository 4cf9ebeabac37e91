"""Supervised fine-tuning of LoRA adapters: TRL's SFTTrainer, subclassed where a CPU loses time.

The rows, their order, the loss and the optimiser are TRL's. What differs is what is computed on the way: a batch is a
trie of distinct tokens instead of a padded block (`packing`), LoRA, attention and the language-model head have hand-
written backward passes (`kernels`), the head sees only the positions that are learned, and there are no per-token
metrics, no autocast and no recomputation. `benchmarks/trainer.py` holds it to TRL's own losses.

LoRA: Hu et al., arXiv 2106.09685.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import LoraConfig
from pydantic import Field, ValidationError
from transformers import TrainerCallback
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from autotelic.core.errors import TrainingError, UsageError
from autotelic.core.faults import faults
from autotelic.core.words import Frozen, Message, TrainingExample
from autotelic.training.job import MAX_LENGTH, TrainingStep
from autotelic.training.kernels import head_loss
from autotelic.training.lora import PACKED, adapter_saver, merge, use_fast_layers
from autotelic.training.method import Report, Trained
from autotelic.training.packing import Row, pack
from autotelic.training.weights import Loaded, load_model

__all__ = ["SFT", "FastSFTTrainer", "SFTConfig", "tokenize"]


class SFTConfig(Frozen):
    """Settings of the method `sft`."""

    rank: int = Field(default=32, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(default=32.0, gt=0)
    """Adapters are scaled by alpha / rank."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW. LoRA wants about ten times the rate of full fine-tuning."""
    epochs: int = Field(default=3, ge=1)
    """Passes over the rows."""
    batch_size: int = Field(default=16, ge=1)
    """Rows an optimisation step."""
    max_length: int = Field(default=MAX_LENGTH, ge=2)
    """Longest row, tokens of prompt and completion; longer ones are left out, as a cut answer teaches not to end."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """How the learning rate goes on."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay on the adapters."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    seconds: float | None = Field(default=None, gt=0)
    """No step begins after so many seconds of training; the first always does."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""


def tokenize(tokenizer: Any, example: TrainingExample) -> list[Row]:
    """Return the tokens the server saw and generated, a row for each turn of the assistant's after the prompt.

    A row is the templated conversation up to the turn, then the turn and its end. Both are tokenised apart, as in
    serving, where generation starts from a finished prompt. Rows of one example share all but their ends, which costs
    nothing (`packing`).
    """
    talk = [*example.messages, *example.turns, Message(role="assistant", content=example.completion)]
    tools = list(example.tools) or None
    rows = []
    for at in range(len(example.messages), len(talk)):
        if talk[at].role != "assistant":
            continue
        before = [message.openai() for message in talk[:at]]
        text = tokenizer.apply_chat_template(before, tools=tools, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        # What was generated is text: a control token's name in it was spelled out, and must not end the turn it is in.
        said = tokenizer(talk[at].content, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        rows.append(Row(prompt, [*said, tokenizer.eos_token_id], example.weight))
    if example.rejected:
        worse = tokenizer(example.rejected, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        rows[-1] = rows[-1]._replace(rejected=[*worse, tokenizer.eos_token_id])
    return rows


class FastSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer on packed batches. Its dataset has the columns `prompt`, `completion` (token ids) and `weight`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(data_collator=self._collate, **kwargs)
        self.losses: list[float] = []
        """Loss of every step so far, nats a completion token."""
        self.tokens = 0
        """Tokens trained so far, padding not counted."""
        self.model.get_base_model().config._attn_implementation = PACKED
        use_fast_layers(self.model)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return vars(pack(Row(row["prompt_ids"], row["completion_ids"], row["weight"]) for row in rows))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the weighted negative log-likelihood, averaged over the batch's completion tokens."""
        del model, return_outputs, num_items_in_batch
        learned_M_D, head = self._predictions(inputs)
        loss = head_loss(learned_M_D, head, inputs["target_M"], inputs["weight_M"]) / inputs["learned"]
        self.losses.append(loss.detach().item())
        self.tokens += inputs["tokens"]
        return loss

    def _predictions(self, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.nn.Linear]:
        """Return the hidden states that predictions are made from, M x D, and the head that makes them."""
        causal = self.model.get_base_model()
        hidden = causal.base_model(
            input_ids=inputs["ids_N"][None],
            position_ids=inputs["positions_N"][None],
            use_cache=False,
            rows_B_T=inputs["rows_B_T"],
            read_N=inputs["read_N"],
        ).last_hidden_state[0]
        return hidden.index_select(0, inputs["at_M"]), causal.get_output_embeddings()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nobody reads the estimate, and packed batches would mislead it."""
        del inputs
        return 0


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Reports every step, remembers when the last one ended, and stops at a loss that is not finite."""

    def __init__(self, report: Report, seconds: float | None) -> None:
        self._report = report
        self._seconds = seconds
        self._began = time.time()
        self.finished_at = 0.0
        self.trainer: FastSFTTrainer | None = None

    def on_step_end(self, _args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Called by the training loop after the optimiser's step."""
        self.finished_at = time.time()
        assert self.trainer is not None
        loss = self.trainer.losses[-1]
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of step {state.global_step} is {loss}; the champion is untouched. Lower the learning rate."
            )
        self._report(
            TrainingStep(
                step=state.global_step,
                steps=state.max_steps,
                loss=loss,
                tokens=self.trainer.tokens,
                seconds=self.finished_at - self._began,
            )
        )
        if self._seconds is not None and self.finished_at - self._began >= self._seconds:
            control.should_training_stop = True


class SFT:
    """The method `sft`."""

    name = "sft"
    """What it is registered as."""
    settings = SFTConfig
    """What it takes."""
    trainer_class = FastSFTTrainer
    """What trains."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Check the settings.

        Raises:
            UsageError: one is unknown or out of range.
        """
        try:
            self.config = self.settings(**settings)
        except ValidationError as error:
            raise UsageError(
                f"the settings of the method {self.name} cannot work: {faults(error)}. There are: "
                f"{', '.join(self.settings.model_fields)}."
            ) from None

    def train(self, base: Path, examples: Sequence[TrainingExample], seed: int, report: Report) -> Trained:
        """See `Method.train`."""
        began = time.time()
        loaded = load_model(base)
        rows, skipped = self._rows(loaded.tokenizer, examples)
        steps = _Steps(report, self.config.seconds)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = self.trainer(loaded, rows, seed, scratch, steps)
            steps.trainer = trainer
            ready = time.time()
            trainer.train()
        save_adapter = adapter_saver(trainer.model, base)
        merging = time.time()
        model = merge(trainer.model)
        model.config._attn_implementation = "sdpa"
        loaded.image.take(model)
        merged = time.time()
        return Trained(
            model=model.eval(),
            image=loaded.image,
            finished_at=steps.finished_at,
            losses=trainer.losses,
            tokens=trainer.tokens,
            rows=len(rows),
            save_adapter=save_adapter,
            skipped=skipped,
            seconds={"load": ready - began, "train": steps.finished_at - ready, "merge": merged - merging},
        )

    def _rows(self, tokenizer: Any, examples: Sequence[TrainingExample]) -> tuple[list[Row], list[str]]:
        rows: list[Row] = []
        skipped: list[str] = []
        for example in examples:
            own = tokenize(tokenizer, example)
            if any(max(row.length, len(row.prompt) + len(row.rejected)) > self.config.max_length for row in own):
                skipped.append(example.id)
            else:
                rows += own
        if not rows:
            raise UsageError(
                f"nothing to train on: of {len(examples)} examples {len(skipped)} are longer than max_length "
                f"({self.config.max_length} tokens). Curate more data or raise max_length."
            )
        return rows, skipped

    def trainer(
        self, loaded: Loaded, rows: Sequence[Row], seed: int, scratch: str, *callbacks: TrainerCallback
    ) -> FastSFTTrainer:
        """Build the trainer of these settings, for whoever wants to drive it by hand."""
        config = self.config
        return self.trainer_class(
            model=loaded.model,
            args=self._arguments(seed, scratch),
            train_dataset=Dataset.from_dict(self._columns(rows)),
            processing_class=loaded.tokenizer,
            peft_config=LoraConfig(
                r=config.rank, lora_alpha=config.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=list(callbacks),
        )

    def _columns(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        """Return what the trainer's dataset holds."""
        return {
            "prompt_ids": [list(row.prompt) for row in rows],
            "completion_ids": [list(row.completion) for row in rows],
            "weight": [row.weight for row in rows],
        }

    def _arguments(self, seed: int, scratch: str) -> TrlConfig:
        config = self.config
        return TrlConfig(
            output_dir=scratch,
            per_device_train_batch_size=config.batch_size,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.scheduler,
            warmup_steps=config.warmup_ratio,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            gradient_checkpointing=config.gradient_checkpointing,
            seed=seed,
            # The model is bf16 already: autocast would only cast the adapters again at every use.
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
