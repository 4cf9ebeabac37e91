"""The Chroma collection that finds items by meaning. It can always be thrown away and built again.

Chroma gets ids and vectors and nothing else. Its own embedding function would download a model; its own filters read
every row (167 ms at 100,000 rows, against 1.5 ms without one), so what a search may see is decided by the truth.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from autotelic.core.errors import MissingPackage, StoreError, UsageError
from autotelic.memory._truth import Truth

__all__ = ["Index"]

_CHUNK = 1000
_HNSW = {"space": "cosine", "ef_construction": 200, "ef_search": 256, "max_neighbors": 16, "num_threads": 1}


class Index:
    """A Chroma collection: in a directory of its own, or on a server. Synchronous; one thread and process at a time.

    Args:
        path: the directory; with `url` only the collection's name is made from it.
        url: a Chroma server, `http://host:port`. Keep it on this machine: it asks nobody for a key.

    Raises:
        MissingPackage: chromadb is not installed.
        UsageError: the URL is none, or nobody answers there.
        StoreError: Chroma cannot open the directory, though its file is a sound database.
    """

    def __init__(self, path: Path, url: str | None = None) -> None:
        if find_spec("chromadb") is None:
            raise MissingPackage("chromadb", "memory")
        self._path, self._url = path, url
        self._client: Any = None
        # Looked at first: a Chroma client that failed to open a path cannot open it again in the same process.
        if url is None and not _sound(path / "chroma.sqlite3"):
            shutil.rmtree(path)
        try:
            self._open()
        except UsageError:
            raise
        except Exception as error:
            raise StoreError(
                f"the index of the memory in {path} cannot be opened: {type(error).__name__}: {error}. "
                "Delete that directory: it is built again from what the memory holds."
            ) from error

    def close(self) -> None:
        """Let go of the files."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def put(self, vectors: dict[str, npt.NDArray[np.float32]]) -> None:
        """Add or replace vectors."""
        ids = list(vectors)
        for start in range(0, len(ids), _CHUNK):
            part = ids[start : start + _CHUNK]
            self._collection.upsert(ids=part, embeddings=np.stack([vectors[id_] for id_ in part]))

    def drop(self, ids: Sequence[str]) -> None:
        """Take vectors out; Chroma keeps remnants of them (see `rebuild_apart`)."""
        if ids:
            self._collection.delete(ids=list(ids))

    def count(self) -> int:
        """Return how many vectors there are."""
        return int(self._collection.count())

    def nearest(self, vectors: npt.NDArray[np.float32], n: int) -> list[list[tuple[float, str]]]:
        """Return for each vector up to `n` pairs (cosine distance rounded to 5 digits, id)."""
        found = self._collection.query(query_embeddings=vectors, n_results=n, include=["distances"])
        # Rounded, so that a vector computed in another batch does not change the order; ties go by id.
        return [
            sorted((round(float(distance), 5), id_) for distance, id_ in zip(distances, ids, strict=True))
            for distances, ids in zip(found["distances"], found["ids"], strict=True)
        ]

    def agrees(self, ids: Sequence[str], vectors: dict[str, npt.NDArray[np.float32]]) -> bool:
        """Say whether exactly these ids are in the index and (by these `vectors`, a sample) can be reached in it."""
        if sorted(self._collection.get(include=[])["ids"]) != list(ids):
            return False
        if not vectors:
            return True
        nearest = self.nearest(np.stack(list(vectors.values())), 1)
        # An equal text stored twice may answer for the other, so nearness counts and not the id; and the graph of a
        # healthy index misses one in a thousand.
        lost = sum(1 for found in nearest if not found or found[0][0] > 1e-3)
        return lost * 8 <= len(vectors)

    def rebuild(self, vectors: dict[str, npt.NDArray[np.float32]]) -> None:
        """Throw everything away and build the index from the truth."""
        self._clear()
        self._open()
        self.put(vectors)

    def rebuild_apart(self, truth: Path) -> None:
        """Do the same in a process of its own, from the file of the truth.

        Chroma writes the unused room of its files as its process' memory happens to be. What was just forgotten may
        still lie in ours, and has been found in such a file; the other process never saw it. (What this one adds
        afterwards may carry remnants again, until the next process rebuilds.)

        Raises:
            StoreError: that process failed. The index is gone; the next one to open it builds it.
        """
        self._clear()
        command = [sys.executable, "-P", "-m", "autotelic.memory._index", str(truth), str(self._path), self._url or ""]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StoreError(f"the index of the memory was not built again: {done.stderr[-500:].strip()}")
        self._open()

    def _clear(self) -> None:
        if self._url is not None:
            self._client.delete_collection(self._name)
        self.close()
        if self._url is None:
            shutil.rmtree(self._path, ignore_errors=True)

    @property
    def _name(self) -> str:
        if self._url is None:
            return "memory"
        return f"autotelic-{hashlib.sha256(str(self._path.resolve()).encode()).hexdigest()[:16]}"

    def _open(self) -> None:
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False, _env_file=None)
        if self._url is None:
            self._client = chromadb.PersistentClient(path=str(self._path), settings=settings)
        else:
            self._client = _connected(self._url, settings)
        self._collection: Any = self._client.get_or_create_collection(
            self._name, embedding_function=None, configuration={"hnsw": _HNSW}
        )


def _connected(url: str, settings: Any) -> Any:
    import chromadb

    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"memory.chroma is {url!r}; an address such as http://127.0.0.1:8000 was expected.")
    secure = parts.scheme == "https"
    try:
        return chromadb.HttpClient(
            parts.hostname, parts.port or (443 if secure else 8000), ssl=secure, settings=settings
        )
    except Exception as error:
        raise UsageError(
            f"no Chroma server answers at {url}: {error}. Start one (chroma run --host 127.0.0.1), or leave "
            "memory.chroma out."
        ) from error


def _sound(file: Path) -> bool:
    """Say whether a file is missing or a database without damage."""
    if not file.exists():
        return True
    connection = sqlite3.connect(file)
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    _truth, _index = Truth(Path(sys.argv[1])), Index(Path(sys.argv[2]), sys.argv[3] or None)
    _index.put(_truth.vectors(_truth.ids()))
    _index.close()
    _truth.close()
