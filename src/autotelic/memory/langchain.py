"""Any LangChain `Embeddings` as an embedder, named in a config as `package.module:Name`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from autotelic.core.errors import UsageError
from autotelic.core.registry import lookup
from autotelic.memory.embedder import Embedder, Vectors

__all__ = ["LangChainEmbedder", "open_embedder"]

# Arguments that say which model answers and what it makes of a text, by their names; and names that may hide a secret.
_TELLING = re.compile(
    r"model|repo|deployment|engine|revision|dim|^size$|_size$|task|pool|prefix|suffix|instruction|prompt"
    r"|normali[sz]e|truncat|quanti|precision|dtype|encoding_format|input_type",
    re.IGNORECASE,
)
_SILENT = re.compile(
    r"key|token|secret|passw|auth|header|credential|cookie|cert|url|session|user|chunk_size|batch_size|cache",
    re.IGNORECASE,
)


class LangChainEmbedder:
    """Embeds with LangChain's `Embeddings`; vectors are scaled to unit length.

    Args:
        embeddings: who embeds.
        name: says which model it is; vectors of another name are made anew.
    """

    def __init__(self, embeddings: Embeddings, name: str) -> None:
        self._embeddings = embeddings
        self._name = name
        self._dimension = 0

    @property
    def name(self) -> str:
        """What it was opened as."""
        return self._name

    @property
    def dimension(self) -> int:
        """Length of a vector, 0 until the first is made."""
        return self._dimension

    async def embed(self, texts: list[str]) -> Vectors:
        """Return float32 `[len(texts), dimension]`, each row of length 1.

        Raises:
            UsageError: what came back are not as many vectors of numbers.
        """
        if not texts:
            return np.zeros((0, self._dimension), dtype=np.float32)
        rows = np.asarray(await self._embeddings.aembed_documents(texts), dtype=np.float32)
        if rows.ndim != 2 or len(rows) != len(texts) or not np.isfinite(rows).all():
            raise UsageError(
                f"{self._name} gave {rows.shape} for {len(texts)} texts; a finite vector each was expected."
            )
        self._dimension = rows.shape[1]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows /= np.where(lengths > 0, lengths, 1)
        return rows

    async def aclose(self) -> None:
        """Nothing is held."""


def open_embedder(spec: str, arguments: Mapping[str, Any] | None = None) -> Embedder:
    """Make an embedder: a registered one by its name, or LangChain's by `package.module:Name` and its arguments.

    Raises:
        UsageError: there is none under that name, or it cannot be made; or arguments for one that takes none.
    """
    arguments = dict(arguments or {})
    if ":" not in spec:
        if arguments:
            raise UsageError(
                f"memory.embedder_args are for LangChain's embeddings; {spec!r} takes none. Leave them out."
            )
        made: Embedder = lookup("embedder", spec)()
        return made
    module, _, name = spec.partition(":")
    try:
        embeddings = getattr(import_module(module), name)(**arguments)
    except Exception as error:
        raise UsageError(
            f"memory.embedder {spec!r} cannot be made: {type(error).__name__}: {error}. Expected "
            "package.module:Name of a LangChain Embeddings class; its arguments go into memory.embedder_args."
        ) from None
    if not isinstance(embeddings, Embeddings):
        raise UsageError(f"memory.embedder {spec!r} is a {type(embeddings).__name__}, not LangChain's Embeddings.")
    return LangChainEmbedder(embeddings, f"{spec} {json.dumps(_telling(arguments), sort_keys=True)}")


def _telling(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that tell models apart.

    The name made of them is written into files, so nothing goes into it that may be a secret, and nothing that changes
    without the vectors changing. An argument that is not known to tell models apart is left out.
    """
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        if _SILENT.search(name):
            continue
        if isinstance(value, Mapping):
            if inner := _telling(value):
                kept[name] = inner
        elif _TELLING.search(name) and isinstance(value, str | int | float | None):
            kept[name] = value
    return kept
