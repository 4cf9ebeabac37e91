"""Which programs make good exercises: a gate on style, read off the syntax tree, with a reason for each refusal.

The gate keeps exercises small, deterministic and about their input. It is not a defence: a clever program gets past any
such list, and only the sandbox decides what code can do.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

__all__ = ["ALLOWED_IMPORTS", "Program", "Refused", "find_program", "read_program"]

ALLOWED_IMPORTS = frozenset(
    {"bisect", "collections", "functools", "heapq", "itertools", "math", "operator", "re", "string"}
)
"""Modules that are deterministic and touch nothing outside the program."""
_BANNED = frozenset(
    [
        *("open", "input", "print", "breakpoint", "exit", "quit", "help"),
        *("eval", "exec", "compile", "globals", "locals", "vars", "dir", "getattr", "setattr", "delattr"),
        *("id", "hash", "object", "type", "super", "memoryview", "callable"),
    ]
)
_MAX_CHARACTERS = 1200
_MAX_PARAMETERS = 4
_LEVEL_STATEMENTS = (2, 4, 7)


class Refused(Exception):
    """A proposal breaks a rule. `reason` is for machines, the message for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Program:
    """A program that passed the gate."""

    source: str
    """Normalised: no comments, no docstrings, one layout."""
    parameters: int
    """How many arguments `f` takes."""

    @property
    def level(self) -> int:
        """Difficulty by the number of statements, 0 (`def` and `return`) to 3."""
        statements = sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(self.source)))
        return sum(statements > bound for bound in _LEVEL_STATEMENTS)


def read_program(text: str) -> Program:
    """Parse, judge and normalise a program.

    Raises:
        Refused: with reason `too_long`, `does_not_parse`, `not_a_function`, `no_function`, `bad_signature`,
            `banned_import`, `banned_name`, `ignores_input` or `no_return`.
    """
    if len(text) > _MAX_CHARACTERS:
        raise Refused("too_long", f"{len(text)} characters, at most {_MAX_CHARACTERS}")
    tree = _parse(text)
    for statement in tree.body:
        if not isinstance(statement, ast.FunctionDef | ast.Import | ast.ImportFrom):
            raise Refused("not_a_function", f"{type(statement).__name__} outside of a function")
    function = _function(tree)
    if function is None:
        raise Refused("no_function", "no function called f")
    for node in ast.walk(tree):
        _judge(node)
    names = _parameters(function)
    read = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    unused = [name for name in names if name not in read]
    if unused:
        raise Refused("ignores_input", f"never reads {', '.join(unused)}")
    if not any(isinstance(n, ast.Return) and n.value is not None for n in ast.walk(function)):
        raise Refused("no_return", "f returns nothing")
    try:
        return Program(source=ast.unparse(_without_docstrings(tree)), parameters=len(names))
    except RecursionError as error:
        raise Refused("too_long", "nested too deeply") from error


def find_program(text: str) -> str | None:
    """Take an answer as a program if it parses and defines `f` exactly once: several would be several guesses."""
    try:
        tree = _parse(text)
    except Refused:
        return None
    return text if sum(isinstance(n, ast.FunctionDef) and n.name == "f" for n in ast.walk(tree)) == 1 else None


def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused("does_not_parse", f"{type(error).__name__}: {error}") from error


def _function(tree: ast.Module) -> ast.FunctionDef | None:
    found = [s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == "f"]
    return found[-1] if found else None


def _parameters(function: ast.FunctionDef) -> list[str]:
    a = function.args
    if a.vararg or a.kwarg or a.kwonlyargs or a.posonlyargs or a.defaults or function.decorator_list:
        raise Refused("bad_signature", "f takes plain positional parameters only, and no decorator")
    if not 1 <= len(a.args) <= _MAX_PARAMETERS:
        raise Refused("bad_signature", f"f takes {len(a.args)} parameters; expected 1 to {_MAX_PARAMETERS}")
    return [p.arg for p in a.args]


def _judge(node: ast.AST) -> None:
    if isinstance(node, ast.Import):
        _judge_modules([alias.name for alias in node.names])
    elif isinstance(node, ast.ImportFrom):
        _judge_modules([node.module or "." * node.level])
    elif isinstance(node, ast.Global | ast.AsyncFunctionDef | ast.ClassDef | ast.Await | ast.Yield | ast.YieldFrom):
        raise Refused("banned_name", f"{type(node).__name__} is not allowed")
    elif isinstance(node, ast.Name) and (node.id in _BANNED or node.id.startswith("__")):
        raise Refused("banned_name", f"{node.id} is not allowed")
    elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        raise Refused("banned_name", f".{node.attr} is not allowed")


def _judge_modules(modules: list[str]) -> None:
    for module in modules:
        if module not in ALLOWED_IMPORTS:
            raise Refused("banned_import", f"{module} is none of {', '.join(sorted(ALLOWED_IMPORTS))}")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and len(node.body) > 1 and ast.get_docstring(node) is not None:
            del node.body[0]
    return tree
