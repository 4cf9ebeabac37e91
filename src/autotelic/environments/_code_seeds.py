"""Small functions written by hand: the real tasks of the code environment and its first demonstrations.

They are trusted code, so their outputs come from calling them; everything a model writes goes to the sandbox.
"""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotelic.environments._code_programs import Program, read_program

__all__ = ["Seed", "read_seeds"]

_HELD_OUT = 3
"""Of each level's programs every third, the first included, is for suites alone."""


@dataclass(frozen=True)
class Seed:
    """One program with arguments to vary."""

    call: Callable[..., Any]
    program: Program
    arguments: tuple[Any, ...]


def _add_seven(x: int) -> int:
    return x + 7


def _double_less_one(x: int) -> int:
    return 2 * x - 1


def _square_and_more(x: int) -> int:
    return x * x + 1


def _difference(a: int, b: int) -> int:
    return a - b


def _behind(a: str, b: str) -> str:
    return b + a


def _bracketed(s: str) -> str:
    return "[" + s + "]"


def _ends(s: str) -> str:
    return s[0] + s[-1]


def _exchanged(a: int, b: int) -> list[int]:
    return [b, a]


def _backwards(xs: list[int]) -> list[int]:
    return xs[::-1]


def _twice_the_sum(xs: list[int]) -> int:
    return 2 * sum(xs)


def _shouted(s: str) -> str:
    return s.upper() + "!"


def _lengths(words: list[str]) -> list[int]:
    return [len(w) for w in words]


def _half_or_triple(x: int) -> int:
    if x % 2 == 0:
        return x // 2
    return 3 * x


def _far_from_ten(x: int) -> int:
    if x > 10:
        return x - 10
    return 10 - x


def _spread(xs: list[int]) -> int:
    low = min(xs)
    return max(xs) - low


def _first_to_the_end(xs: list[int]) -> list[int]:
    head = xs[0]
    return [*xs[1:], head]


def _tens_and_ones(x: int) -> list[int]:
    tens = x // 10
    return [tens, x % 10]


def _with_length(s: str) -> str:
    size = len(s)
    return s + str(size)


def _sum_of_even(xs: list[int]) -> int:
    total = 0
    for x in xs:
        if x % 2 == 0:
            total += x
    return total


def _down_by_three(n: int) -> list[int]:
    out = []
    while n > 0:
        out.append(n)
        n -= 3
    return out


def _digit_sum(n: int) -> int:
    total = 0
    while n > 0:
        total += n % 10
        n //= 10
    return total


def _longest(words: list[str]) -> str:
    best = ""
    for word in words:
        if len(word) > len(best):
            best = word
    return best


def _running_totals(xs: list[int]) -> list[int]:
    total = 0
    out = []
    for x in xs:
        total += x
        if total > 50:
            total = 0
        out.append(total)
    return out


def _letter_counts(s: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for letter in s:
        if letter in counts:
            counts[letter] += 1
        else:
            counts[letter] = 1
    return counts


def _steps_to_one(n: int) -> int:
    steps = 0
    n = n + 1
    while n > 1:
        if n % 2 == 1:
            n = n + 1
        n = n // 2
        steps += 1
    return steps


def _no_repeats(s: str) -> str:
    out = ""
    last = ""
    for letter in s:
        if letter != last:
            out += letter
        last = letter
    return out


_EXAMPLES: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (_add_seven, (5,)),
    (_double_less_one, (4,)),
    (_square_and_more, (3,)),
    (_difference, (9, 4)),
    (_behind, ("sun", "red")),
    (_bracketed, ("tree",)),
    (_ends, ("stone",)),
    (_exchanged, (3, 8)),
    (_backwards, ([4, 1, 9],)),
    (_twice_the_sum, ([2, 5],)),
    (_shouted, ("hello",)),
    (_lengths, (["sea", "house"],)),
    (_half_or_triple, (14,)),
    (_far_from_ten, (6,)),
    (_spread, ([3, 11, 7],)),
    (_first_to_the_end, ([5, 2, 8],)),
    (_tens_and_ones, (47,)),
    (_with_length, ("lamp",)),
    (_sum_of_even, ([3, 8, 4, 5],)),
    (_down_by_three, (10,)),
    (_digit_sum, (352,)),
    (_longest, (["at", "home", "sea"],)),
    (_running_totals, ([20, 15, 9],)),
    (_letter_counts, ("noon",)),
    (_steps_to_one, (12,)),
    (_no_repeats, ("aabbc",)),
]


def read_seeds() -> tuple[list[Seed], list[Seed]]:
    """All seeds, each with its source as a program called `f`: those for everyone, and those for suites alone."""
    everyone: list[Seed] = []
    held_out: list[Seed] = []
    met: Counter[int] = Counter()
    for call, arguments in _EXAMPLES:
        seed = Seed(call=call, program=_program(call), arguments=arguments)
        (everyone if met[seed.program.level] % _HELD_OUT else held_out).append(seed)
        met[seed.program.level] += 1
    return everyone, held_out


def _program(call: Callable[..., Any]) -> Program:
    tree = ast.parse(inspect.getsource(call))
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        raise TypeError(f"{call} is not a plain function")
    function.name, function.returns = "f", None
    for parameter in function.args.args:
        parameter.annotation = None
    bare = _Bare().visit(tree)
    return read_program(ast.unparse(ast.fix_missing_locations(bare)))


class _Bare(ast.NodeTransformer):
    """Turns annotated assignments into plain ones: type hints are for this file, not for the exercise."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Drop the annotation."""
        return ast.Assign(targets=[node.target], value=node.value) if node.value else node
