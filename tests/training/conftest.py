"""A real model small enough for unit tests: two layers, random weights, a word-level tokenizer with a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autotelic.core.words import Message, Role, TrainingExample, content_id

WORDS = ["<pad>", "<unk>", "<end>", "user", "assistant", "system", *(f"w{n}" for n in range(90))]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny model, float32."""
    directory = tmp_path_factory.mktemp("tiny")
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>", pad_token="<pad>", unk_token="<unk>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def make_example(question: str, answer: str, weight: float = 1.0) -> TrainingExample:
    return TrainingExample(
        id=content_id(question, answer),
        role=Role.SOLVER,
        messages=(Message(role="user", content=question),),
        completion=answer,
        weight=weight,
    )


@pytest.fixture
def examples() -> list[TrainingExample]:
    """Ten rows, most with a shared beginning, two with the same prompt, one of a single-token answer."""
    rows = [("w1 w2 w3", "w4 w5"), ("w1 w2 w3", "w4 w6 w7"), ("w9", "w9")]
    rows += [(f"w1 w2 w{n} w{n + 1}", " ".join(f"w{n + k}" for k in range(n % 4 + 1))) for n in range(20, 27)]
    return [make_example(question, answer) for question, answer in rows]
