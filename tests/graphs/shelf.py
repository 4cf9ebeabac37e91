"""A small library of skills in memory, with the face of a run's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from autotelic.memory.items import Item, Skill

__all__ = ["Added", "Shelf"]


@dataclass(frozen=True)
class Added:
    """What became of items that were to be added."""

    added: list[str] = field(default_factory=list)
    merged: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


class Shelf:
    """Skills by id; those that are retired lie apart, with round and reason."""

    def __init__(self, *skills: Skill, refuse: str = "") -> None:
        self.kept = {skill.id: skill for skill in skills}
        self.retired: dict[str, tuple[int, str]] = {}
        self.refuse = refuse

    async def add(self, items: Sequence[Skill]) -> Added:
        known = {item.id: "it is there already" for item in items if item.id in self.kept}
        faults = {item.id: known.get(item.id, self.refuse or item.fault) for item in items}
        new = [item for item in items if not faults[item.id]]
        self.kept |= {item.id: item for item in new}
        return Added([item.id for item in new], refused={id_: why for id_, why in faults.items() if why})

    async def in_sight(self, kind: Literal["skill"] = "skill") -> list[Item]:
        return [item for item in self.kept.values() if item.id not in self.retired]

    async def replace(self, item: Skill) -> None:
        assert item.id in self.kept
        self.kept[item.id] = item

    async def retire(self, ids: Sequence[str], *, round: int, reason: str) -> list[str]:
        self.retired |= dict.fromkeys(ids, (round, reason))
        return list(ids)

    async def forget(self, ids: Sequence[str]) -> list[str]:
        return [id_ for id_ in ids if self.kept.pop(id_, None)]
