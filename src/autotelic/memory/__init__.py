"""What the model may look up while it answers: solved examples, lessons and skills, found by meaning and by words."""

from __future__ import annotations

from autotelic.memory.embedder import CachedEmbedder, Embedder, MiniLM
from autotelic.memory.glance import Row, glance
from autotelic.memory.items import Demonstration, Item, Kind, Lesson, Record, Skill, read_item
from autotelic.memory.langchain import LangChainEmbedder, open_embedder
from autotelic.memory.memory import KINDS, Added, Memory, Query
from autotelic.memory.store import MemoryStore
from autotelic.memory.usefulness import Attempted, Usefulness, usefulness

__all__ = [
    "KINDS",
    "Added",
    "Attempted",
    "CachedEmbedder",
    "Demonstration",
    "Embedder",
    "Item",
    "Kind",
    "LangChainEmbedder",
    "Lesson",
    "Memory",
    "MemoryStore",
    "MiniLM",
    "Query",
    "Record",
    "Row",
    "Skill",
    "Usefulness",
    "glance",
    "open_embedder",
    "read_item",
    "usefulness",
]
