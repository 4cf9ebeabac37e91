"""What the model may look up while it answers: solved examples, found again by the meaning of their question."""

from __future__ import annotations

from autotelic.memory.demonstrations import Demonstration, DemonstrationMemory, Query
from autotelic.memory.embedder import CachedEmbedder, Embedder, MiniLM

__all__ = ["CachedEmbedder", "Demonstration", "DemonstrationMemory", "Embedder", "MiniLM", "Query"]
