"""Where accepted skills are kept, as the toolsmith and people need it: a part of the memory's face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, Protocol

from autotelic.agents import memory_tools, skill_tool
from autotelic.core.errors import UsageError
from autotelic.memory import Memory
from autotelic.memory.items import Item, Skill
from autotelic.sandbox import Sandbox
from autotelic.tools import Tool, Toolbox

__all__ = ["Added", "SkillLibrary", "find_skill", "open_made", "pin_skill", "skills_of", "with_skills"]


class Added(Protocol):
    """What became of items that were to be added."""

    @property
    def added(self) -> Sequence[str]:
        """Ids that are new."""

    @property
    def merged(self) -> Mapping[str, str]:
        """Ids that went up in an item that was there, by its id."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Ids that were not taken, with the reason."""


class SkillLibrary(Protocol):
    """What is asked of a library of skills."""

    async def add(self, items: Sequence[Skill], /) -> Added:
        """Store skills."""
        ...

    async def in_sight(self, kind: Literal["skill"], /) -> Sequence[Item]:
        """Return the skills that are there and not retired."""
        ...

    async def replace(self, item: Skill, /) -> None:
        """Store another body under the same id."""
        ...

    async def retire(self, ids: Sequence[str], /, *, round: int, reason: str) -> Sequence[str]:
        """Take skills out of use, with the reason; they can be looked up and restored."""
        ...

    async def forget(self, ids: Sequence[str], /) -> Sequence[str]:
        """Delete skills for good."""
        ...


async def skills_of(library: SkillLibrary, scopes: Collection[str] | None = None) -> list[Skill]:
    """Return the skills in use, ordered by name and version.

    Args:
        library: where they are.
        scopes: only those of these scopes and below; `None` for any.
    """
    found = [item for item in await library.in_sight("skill") if isinstance(item, Skill)]
    seen = [one for one in found if scopes is None or any(f"{one.scope}/".startswith(f"{s}/") for s in scopes)]
    return sorted(seen, key=lambda skill: (skill.name, skill.version))


async def find_skill(library: SkillLibrary, id: str) -> Skill:
    """Return one skill by its id, or by its name.

    Raises:
        UsageError: there is none.
    """
    found = [skill for skill in await skills_of(library) if id in (skill.id, skill.name)]
    if not found:
        raise UsageError(f"there is no skill {id!r}. See: autotelic skills list RUN")
    return found[-1]


async def pin_skill(library: SkillLibrary, id: str, pinned: bool) -> Skill:
    """Have a skill kept whatever is measured, or no longer so.

    Raises:
        UsageError: there is none.
    """
    skill = (await find_skill(library, id)).model_copy(update={"pinned": pinned})
    await library.replace(skill)
    return skill


@asynccontextmanager
async def open_made(
    memory: Memory, use: Collection[str], *, scopes: tuple[str, ...], sandbox: str
) -> AsyncIterator[dict[str, Sequence[Tool]]]:
    """Open the tools that a run makes itself, by the name under which a config asks for them: `memory`, `skills`.

    Args:
        memory: of the run.
        use: what the config names; nothing is started for what is not in it.
        scopes: what `recall` sees, and of which skills are tools.
        sandbox: back end that skills run in.

    Raises:
        UsageError: a skill cannot be called.
        SandboxError: there are skills and no sandbox passes its self-test.
    """
    made: dict[str, Sequence[Tool]] = {"memory": memory_tools(memory, scopes=scopes), "skills": []}
    async with AsyncExitStack() as stack:
        if "skills" in use and (skills := await skills_of(memory, scopes)):
            box = await stack.enter_async_context(await Sandbox.open(sandbox))
            made["skills"] = [skill_tool(skill, box) for skill in skills]
        yield made


def with_skills(toolbox: Toolbox, skills: Sequence[Skill], sandbox: Sandbox) -> Toolbox:
    """Return a toolbox with the skills as tools besides.

    Raises:
        UsageError: a skill has the name of another tool, or cannot be called.
    """
    return toolbox.joined(skill_tool(skill, sandbox) for skill in skills)
