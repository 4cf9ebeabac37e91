"""MiniLM itself: right vectors, one worker, no orphan."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autotelic.memory import CachedEmbedder, Demonstration, Memory, MiniLM, Query

pytestmark = pytest.mark.e2e

TEXTS = [
    "A cat sits on the mat.",
    "A kitten is sitting on a rug.",
    "Interest rates rose by half a percent.",
    "word " * 400,
    *(f"Find the greatest common divisor of {i} and {i * i + 1}." for i in range(40)),
]

# A process that starts a worker, says its id, and waits to be killed.
PARENT = """
import asyncio
from autotelic.memory import MiniLM
async def main():
    embedder = MiniLM()
    await embedder.embed(["hello"])
    print(embedder.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def reference(texts: list[str]) -> np.ndarray:
    """One text at a time, as the model's card writes it down."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    path = str(MiniLM()._model)
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path)
    rows = []
    for text in texts:
        tokens = tokenizer([text], truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**tokens)[0]
        mask = tokens["attention_mask"].unsqueeze(-1).expand(hidden.size()).float()
        mean = torch.sum(hidden * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
        rows.append(torch.nn.functional.normalize(mean, p=2, dim=1)[0].numpy())
    return np.stack(rows)


async def test_vectors_are_those_of_the_reference_and_a_dead_worker_is_replaced() -> None:
    embedder = MiniLM()
    assert (await embedder.embed([])).shape == (0, 384) and embedder.pid is None
    vectors = await embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.dimension) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors, reference(TEXTS), atol=2e-5)
    assert vectors[0] @ vectors[1] > 0.5 > 0.2 > vectors[0] @ vectors[2]
    first = embedder.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    both = await asyncio.gather(embedder.embed(TEXTS[:2]), embedder.embed(TEXTS[2:4]))
    np.testing.assert_allclose(np.concatenate(both), vectors[:4], atol=2e-5)
    assert embedder.pid not in (None, first)
    await embedder.aclose()
    await embedder.aclose()
    assert embedder.pid is None


def test_the_worker_does_not_outlive_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    waiting = os.pidfd_open(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert select.select([waiting], [], [], 30)[0] == [waiting]
    os.close(waiting)


async def test_the_memory_finds_by_meaning(tmp_path: Path) -> None:
    embedder = CachedEmbedder(MiniLM(), tmp_path / "embeddings.sqlite")
    memory = await Memory.open(tmp_path, embedder)
    questions = ["How do I bake bread?", "Which planet is the largest?", "What is 12 divided by 4?"]
    common = {
        "environment": "e",
        "family": "f",
        "answer": "a",
        "score": 1.0,
        "policy": 0,
        "round": 0,
        "trajectory_id": "",
    }
    await memory.add(
        [
            Demonstration.model_validate({"id": f"{i}", "task_id": f"{i}", "question": q} | common)
            for i, q in enumerate(questions)
        ]
    )
    found = await memory.retrieve(
        [Query("Name the biggest planet."), Query("Baking a loaf"), Query("Compute 20 / 5")], 1
    )
    assert [one[0].id for one in found] == ["1", "0", "2"]
    await memory.aclose()
    await embedder.aclose()
