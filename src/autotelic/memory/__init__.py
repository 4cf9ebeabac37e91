"""What the model may look up while it answers: solved examples, lessons and skills, found by meaning and by words."""

from __future__ import annotations

from autotelic.memory.embedder import CachedEmbedder, Embedder, MiniLM
from autotelic.memory.glance import Row, glance
from autotelic.memory.items import (
    HARMFUL,
    NOTES,
    Demonstration,
    Item,
    Kind,
    Lesson,
    Record,
    Skill,
    read_item,
    record_scope,
)
from autotelic.memory.langchain import LangChainEmbedder, open_embedder
from autotelic.memory.memory import KINDS, Added, Memory, Query
from autotelic.memory.portable import Held, dump, load, read_dump
from autotelic.memory.store import MemoryStore
from autotelic.memory.usefulness import Attempted, Usefulness, usefulness

__all__ = [
    "HARMFUL",
    "KINDS",
    "NOTES",
    "Added",
    "Attempted",
    "CachedEmbedder",
    "Demonstration",
    "Embedder",
    "Held",
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
    "dump",
    "glance",
    "load",
    "open_embedder",
    "read_dump",
    "read_item",
    "record_scope",
    "usefulness",
]
