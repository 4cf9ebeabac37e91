"""One registry for everything third parties may add.

A plug-in is found in two ways: a decorator in the running program (`@register("environment", "name")`) or an entry
point in the group `autotelic.<kind>` of an installed package. Decorators only mark; nothing is imported until asked
for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, get_args

from autotelic.core.errors import MissingPackage, UsageError

__all__ = ["Kind", "available", "lookup", "register"]

Kind = Literal["environment", "tool", "strategy", "selector", "method", "metric", "graph", "embedder"]
T = TypeVar("T")

_registered: dict[tuple[str, str], Any] = {}
_builtin: dict[tuple[str, str], str] = {
    ("environment", "reasoning_gym"): "autotelic.environments.reasoning_gym:ReasoningGym",
    ("environment", "code"): "autotelic.environments.code:CodeEnvironment",
    ("method", "sft"): "autotelic.training.sft:SFT [train]",
    ("method", "dpo"): "autotelic.training.dpo:DPO [train]",
    ("graph", "solve"): "autotelic.graphs:build_ask",
    ("graph", "refine"): "autotelic.graphs:build_refine",
    ("embedder", "minilm"): "autotelic.memory.embedder:MiniLM",
    ("selector", "balanced"): "autotelic.selection:Balanced",
    ("strategy", "auto"): "autotelic.refinement:auto",
    ("strategy", "prompted"): "autotelic.refinement:prompted",
    ("strategy", "direct"): "autotelic.refinement:direct",
    ("strategy", "few_shot"): "autotelic.refinement:few_shot",
    ("strategy", "guided"): "autotelic.refinement:guided",
    ("strategy", "contrastive"): "autotelic.refinement:contrastive",
    ("strategy", "tool_loop"): "autotelic.refinement:tool_loop",
    ("strategy", "self_consistency"): "autotelic.refinement:self_consistency",
    ("strategy", "best_of"): "autotelic.refinement:best_of",
    ("strategy", "universal"): "autotelic.refinement:universal",
    ("strategy", "self_refine"): "autotelic.refinement:self_refine",
    ("strategy", "self_debug"): "autotelic.refinement:self_debug",
    ("strategy", "reflexion"): "autotelic.refinement:reflexion",
    ("strategy", "critic"): "autotelic.refinement:critic",
    ("strategy", "plan_and_solve"): "autotelic.refinement:plan_and_solve",
    ("strategy", "least_to_most"): "autotelic.refinement:least_to_most",
    ("strategy", "tree_of_thoughts"): "autotelic.refinement:tree_of_thoughts",
    ("strategy", "monte_carlo"): "autotelic.refinement:monte_carlo",
    ("strategy", "debate"): "autotelic.refinement:debate",
    ("strategy", "mixture"): "autotelic.refinement:mixture",
    ("strategy", "adapted"): "autotelic.refinement:adapted",
    ("strategy", "conversation"): "autotelic.refinement:conversation",
    ("tool", "calculator"): "autotelic.tools:calculator",
    ("tool", "documents"): "autotelic.tools:documents",
    ("tool", "sql"): "autotelic.tools:sql",
}


def register(kind: Kind, name: str) -> Callable[[T], T]:
    """Mark an object as the plug-in `name` of `kind`.

    Raises:
        UsageError: the kind is unknown, or another object already has this name.
    """
    _check(kind)

    def mark(thing: T) -> T:
        known = _registered.get((kind, name))
        if known is not None and known is not thing and _origin(known) != _origin(thing):
            raise UsageError(
                f"two {kind} plug-ins are called {name!r}: {_origin(known)} and {_origin(thing)}. Rename one of them."
            )
        _registered[(kind, name)] = thing
        return thing

    return mark


def lookup(kind: Kind, name: str) -> Any:
    """Return the plug-in `name` of `kind`: the program's own first, then entry points, then what is built in.

    Raises:
        UsageError: nothing has that name, two packages claim it, or it cannot be imported; the message says what was
            tried.
        MissingPackage: it is built in, and the extra it needs is not installed.
    """
    _check(kind)
    if (kind, name) in _registered:
        return _registered[(kind, name)]
    found = [point for point in _points(kind) if point.name == name]
    if len({point.value for point in found}) > 1:
        offers = " and ".join(map(_offer, found))
        raise UsageError(f"two {kind} plug-ins are called {name!r}: {offers}. Uninstall one of the packages.")
    if found:
        return _load(found[0])
    if (kind, name) in _builtin:
        return _load(EntryPoint(name, _builtin[(kind, name)], f"autotelic.{kind}"))
    raise UsageError(
        f"no {kind} is called {name!r}. There are: {', '.join(available(kind)) or 'none'}. Register one with "
        f"@autotelic.register({kind!r}, {name!r}) or through the entry point group autotelic.{kind}."
    )


def available(kind: Kind) -> list[str]:
    """Return the names of all plug-ins of `kind`, sorted, without importing them."""
    _check(kind)
    names = {n for k, n in [*_registered, *_builtin] if k == kind}
    return sorted(names | {p.name for p in _points(kind)})


def _points(kind: str) -> list[EntryPoint]:
    return list(entry_points(group=f"autotelic.{kind}"))


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except UsageError:
        raise
    except Exception as error:
        if point.dist is None and point.extras and isinstance(error, ModuleNotFoundError):
            raise MissingPackage(str(error.name), point.extras[0]) from error
        raise UsageError(
            f"the {point.group.removeprefix('autotelic.')} {point.name!r} cannot be loaded from {_offer(point)}: "
            f"{type(error).__name__}: {error}. Mend or uninstall the package that offers it."
        ) from error


def _offer(point: EntryPoint) -> str:
    return f"{point.value} (package {point.dist.name if point.dist else 'autotelic'})"


def _origin(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', thing)}"


def _check(kind: str) -> None:
    if kind not in get_args(Kind):
        raise UsageError(f"{kind!r} is not a kind of plug-in. Kinds: {', '.join(get_args(Kind))}.")
