"""What the name of a model means at the endpoint: whose weights, by which strategy, or which graph.

`champion`, `policy-3`, `champion:self-consistency-8`, `policy-3:reflexion(tries=2)`, `graph:solve`.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass

from autotelic.core.errors import UsageError
from autotelic.core.registry import lookup
from autotelic.refinement import build_strategy, fan_out

__all__ = ["Named", "read_name"]

_LONGEST = 200
_WIDEST = 10_000
_POLICY = re.compile(r"policy-(\d{1,9})")
_SHORT = re.compile(r"([a-z][a-z0-9]*(?:-[a-z]+)*)(?:-(\d{1,4}))?")


@dataclass(frozen=True)
class Named:
    """Who is asked."""

    policy: int | None = None
    """Number of a policy; `None` is the champion."""
    strategy: str | None = None
    """How it answers, as `build_strategy` reads it."""
    graph: str | None = None
    """Name of a graph that answers."""


def read_name(name: str) -> Named:
    """Read the name of a model.

    Raises:
        UsageError: it means nothing.
    """
    if len(name) > _LONGEST:
        raise UsageError(f"the name of a model has at most {_LONGEST} characters; this one has {len(name)}.")
    who, _, how = name.partition(":")
    if who == "graph" and how:
        return Named(graph=how)
    found = _POLICY.fullmatch(who)
    if who != "champion" and not found:
        raise UsageError(
            f"there is no model {name!r}. Ask for champion, policy-N, graph:NAME, or champion:STRATEGY such as "
            "champion:self-consistency-8."
        )
    return Named(int(found[1]) if found else None, _strategy(how) if how else None)


def _strategy(text: str) -> str:
    """Return a strategy as it is written in a config; `self-consistency-8` is short for `self_consistency(n=8)`."""
    said = _spelt_out(text)
    build_strategy(said)
    if (wide := fan_out(said)) > _WIDEST:
        raise UsageError(f"{said} may come to {wide} answers at once, more than {_WIDEST}. Ask for fewer.")
    return ast.unparse(ast.parse(said.strip(), mode="eval"))  # without comments, which would be counted apart


def _spelt_out(text: str) -> str:
    short = _SHORT.fullmatch(text)
    if short is None:
        return text
    name, number = short[1].replace("-", "_"), short[2]
    if number is None:
        return name
    counts = [
        one.name
        for one in inspect.signature(lookup("strategy", name)).parameters.values()
        if isinstance(one.default, int) and not isinstance(one.default, bool)
    ]
    if not counts:
        raise UsageError(f"the strategy {name} takes no number, so {text!r} means nothing. See: strategies show.")
    return f"{name}({counts[0]}={number})"
