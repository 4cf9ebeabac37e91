"""Trained tokens per second: the method `sft` against TRL's SFTTrainer as its documentation shows it.

Both train the same rows with the same LoRA, batch, seed and schedule, bf16, one after the other in this process.
Tokens are those of prompt and completion, counted alike, padding left out. Step by step the losses have to agree: the
rows, their order and the adapters' start are the same, so a difference would mean that something else is computed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from autotelic.core.words import Message, Role, TrainingExample, content_id
from autotelic.serving.model import resolve_model
from autotelic.training.packing import pack
from autotelic.training.sft import SFT, tokenize
from autotelic.training.weights import load_model

TOLERANCE = 0.02
"""Largest relative difference of a step's loss that counts as equal: bf16 keeps 8 bits."""


@dataclass
class Clock(TrainerCallback):  # type: ignore[misc]
    """Time from the start of the loop to the end of the last step, and the losses that are logged."""

    began: float = 0.0
    ended: float = 0.0
    losses: list[float] = field(default_factory=list)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Read the clock."""
        self.ended = time.perf_counter()

    def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
        """Keep the loss."""
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))

    @property
    def seconds(self) -> float:
        """Seconds between the two readings."""
        return self.ended - self.began


def _gcd(draw: random.Random) -> tuple[str, str]:
    shared, left, right = draw.randint(2, 30), draw.randint(2, 40), draw.randint(2, 40)
    question = f"Find the Greatest Common Divisor (GCD) of these numbers: {shared * left}, {shared * right}."
    return question + " Explain how you found it, then give the GCD in answer tags.", (
        f"{shared * left} = {shared} x {left} and {shared * right} = {shared} x {right}. "
        f"<answer>{math.gcd(shared * left, shared * right)}</answer>"
    )


def _spell(draw: random.Random) -> tuple[str, str]:
    word = "".join(draw.choice("abcdefghijklmnoprstuvw") for _ in range(draw.randint(3, 6)))
    question = f"Spell this word backward (example: sun -> nus): {word}. Put only the word into answer tags."
    return question, f"<answer>{word[::-1]}</answer>"


def _sequence(draw: random.Random) -> tuple[str, str]:
    start, step, shown = draw.randint(1, 60), draw.randint(1, 25), draw.randint(4, 12)
    numbers = ", ".join(str(start + step * place) for place in range(shown))
    question = (
        f"What comes next in this sequence of numbers: {numbers}? Name the rule, then put the number into answer tags."
    )
    return question, f"The rule is to add {step}. <answer>{start + step * shown}</answer>"


def make_examples(count: int, seed: int = 0) -> list[TrainingExample]:
    """Draw chat rows of about 100 tokens from three families."""
    draw = random.Random(seed)
    families: list[Callable[[random.Random], tuple[str, str]]] = [_gcd, _spell, _sequence]
    examples = []
    for _ in range(count):
        question, answer = draw.choice(families)(draw)
        messages = (Message(role="user", content=question),)
        identity = content_id(question, answer)
        examples.append(TrainingExample(id=identity, role=Role.SOLVER, messages=messages, completion=answer))
    return examples


def run_ours(base: Path, examples: list[TrainingExample], method: SFT) -> Clock:
    """Train with the method `sft`."""
    clock = Clock()
    loaded = load_model(base)
    rows = [row for example in examples for row in tokenize(loaded.tokenizer, example)]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = method.trainer(loaded, rows, 0, scratch, clock)
        trainer.train()
    clock.losses = trainer.losses
    return clock


def run_trl(base: Path, examples: list[TrainingExample], method: SFT) -> Clock:
    """Train with TRL: a prompt-completion data set, LoRA by `peft_config`, what is not shared left at its default.

    But for gradient checkpointing, which TRL turns on: it computes every layer twice to save memory, and ours does not.
    """
    config = method.config
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [
        {
            "prompt": tokenizer.apply_chat_template(
                [m.model_dump() for m in example.messages], add_generation_prompt=True, tokenize=False
            ),
            "completion": example.completion,
        }
        for example in examples
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=str(base),
            args=TrlConfig(
                output_dir=scratch,
                model_init_kwargs={"dtype": "bfloat16"},
                bf16=True,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                seed=0,
                num_train_epochs=config.epochs,
                per_device_train_batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                lr_scheduler_type=config.scheduler,
                warmup_steps=config.warmup_ratio,
                weight_decay=config.weight_decay,
                max_grad_norm=config.max_grad_norm,
                gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(
                r=config.rank, lora_alpha=config.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[clock],
        )
        trainer.train()
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="directory of a model; the default model where left out")
    parser.add_argument("--rows", type=int, default=96)
    options = parser.parse_args()
    base = Path(options.model or resolve_model().path)
    examples = make_examples(options.rows)
    method = SFT({"epochs": 1})
    batch = method.config.batch_size
    # Each side trains one batch off the clock first: whoever begins pays for compiling kernels and touching memory.
    run_ours(base, examples[:batch], method)
    ours = run_ours(base, examples, method)
    run_trl(base, examples[:batch], method)
    theirs = run_trl(base, examples, method)

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [row for example in examples for row in tokenize(tokenizer, example)]
    tokens = sum(row.length for row in rows)
    distinct = sum(len(pack(rows[begin : begin + batch]).ids_N) for begin in range(0, len(rows), batch))
    ours_rate, theirs_rate = tokens / ours.seconds, tokens / theirs.seconds
    gaps = [abs(a - b) / b for a, b in zip(ours.losses, theirs.losses, strict=True)]
    print(f"\n{'':<14}{'seconds':>10}{'tokens/s':>12}{'first loss':>12}{'last loss':>12}")
    for name, run, rate, losses in (
        ("autotelic", ours, ours_rate, ours.losses),
        ("TRL", theirs, theirs_rate, theirs.losses),
    ):
        print(f"{name:<14}{run.seconds:>10.1f}{rate:>12.0f}{losses[0]:>12.4f}{losses[-1]:>12.4f}")
    print(f"losses of {len(gaps)} steps differ by {max(gaps):.2%} at most (allowed {TOLERANCE:.0%})")
    report = {
        "ratio": round(ours_rate / theirs_rate, 2),
        "compared": "trained tokens/s, method sft against trl.SFTTrainer, same rows, LoRA, batch, seed, bf16, "
        "no gradient checkpointing",
        "autotelic_tokens_per_second": round(ours_rate, 1),
        "trl_tokens_per_second": round(theirs_rate, 1),
        "tokens": tokens,
        "distinct_share": round(distinct / tokens, 3),
        "steps": len(gaps),
        "losses_equal": max(gaps) <= TOLERANCE,
        "largest_loss_difference": round(max(gaps), 5),
        "losses": [round(loss, 4) for loss in ours.losses],
        "trl_losses": [round(loss, 4) for loss in theirs.losses],
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
