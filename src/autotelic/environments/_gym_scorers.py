"""The package's scorers without the doors they leave open.

Four classes of `reasoning_gym` 0.1.25 pass a model's answer to `eval`, and five to sympy's `parse_expr`, which is
`eval` in a coat. Both run whatever the answer says, in the process that computes rewards. Here `eval` becomes
`literal_eval` inside those modules, and an answer for sympy has to be plain arithmetic of bounded size first. Refused
everywhere are exponents of four digits and, where they are not the answer, infinities and "nan" (`complex_arithmetic`
finds it at no distance from any number). Four families pass over what stands beside a right answer: theirs may have no
more words than the package's own. All else about a score is the package's.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import sys
from typing import Any

__all__ = ["Scorer", "is_arithmetic"]

_EVAL = re.compile(r"(?<![\w.])eval\(")
_SYMPY = re.compile(r"(?<!\w)(?:parse_expr|sympify)\(")
_DERIVES = re.compile(r"sympy\.diff\(")
_HUGE_EXPONENT = re.compile(r"[\d._][eE][+-]?(?:_?\d){4,}")
_NOT_FINITE = re.compile(r"(?<![^\W\d])(?:nan|inf|infinity)[ij]?(?![^\W\d])", re.IGNORECASE)
_WORD = re.compile(r"[^\s,]+")
_NOTHING_BESIDE = {"gsm_symbolic", "letter_jumble", "polynomial_equations", "time_intervals"}
_MAX_ANSWER = 20_000
_MAX_ARITHMETIC = 500
_MAX_POWER = 32
_MAX_NUMBER = 1e18
_MAX_ARGUMENT = 1000
_FUNCTIONS = {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs"}
_NODES = (
    *(ast.Expression, ast.Constant, ast.Load, ast.BinOp, ast.UnaryOp),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.BitXor, ast.UAdd, ast.USub),
)


class Scorer:
    """`dataset.score_answer`, safe to call on text that a model wrote.

    An answer that is refused is scored as an empty one, which is what the package gives for text it cannot read; it is
    never right.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        source = inspect.getsource(type(dataset))
        module = sys.modules[type(dataset).__module__]
        if _EVAL.search(source):
            vars(module)["eval"] = ast.literal_eval
        self._nothing_beside = module.__name__.rpartition(".")[2] in _NOTHING_BESIDE
        self._arithmetic = bool(_SYMPY.search(source)) and "sympy" in inspect.getsource(module)
        self.unbounded = self._arithmetic and bool(_DERIVES.search(source))
        """Whether sympy simplifies what the answer says, for which no rule about its text bounds the time."""

    def __call__(self, answer: str, entry: dict[str, Any]) -> float:
        """Score an answer to an entry in [0, 1]; only 1.0 is right, many scorers give partial credit."""
        if self._refuses(answer, entry):
            score = float(self._dataset.score_answer("", entry))
            return score if score < 1.0 else 0.0
        return float(self._dataset.score_answer(answer, entry))

    def _refuses(self, answer: str, entry: dict[str, Any]) -> bool:
        if len(answer) > _MAX_ANSWER or _HUGE_EXPONENT.search(answer):
            return True
        if _NOT_FINITE.search(answer) and not _NOT_FINITE.search(str(entry["answer"])):
            return True
        if self._nothing_beside and len(_WORD.findall(answer)) > len(_WORD.findall(str(entry["answer"]))):
            return True
        return self._arithmetic and not is_arithmetic(answer, symbols=self.unbounded)


def is_arithmetic(text: str, *, symbols: bool) -> bool:
    """Whether `text` is numbers, the four operations and small whole powers, and nothing else.

    Args:
        text: what the model wrote.
        symbols: whether roots, names of one letter and elementary functions are allowed too. A function of a function
            never is: `exp(exp(exp(9)))` has more digits than any computer holds.
    """
    if len(text) > _MAX_ARITHMETIC:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_harmless(node) and (symbols or _fraction(node)) for node in ast.walk(tree))


def _harmless(node: ast.AST) -> bool:
    match node:
        case ast.Constant():
            return _number(node) < _MAX_NUMBER
        case ast.Name(id=name):
            return not name.startswith("_") and (len(name) == 1 or name in _FUNCTIONS or name in ("pi", "theta"))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return name in _FUNCTIONS and _small_argument(argument)
        case ast.Call():
            return False
        case ast.BinOp(left=left, op=ast.Pow() | ast.BitXor(), right=right):
            return _small_power(left, right)
        case _:
            return isinstance(node, _NODES)


def _fraction(node: ast.AST) -> bool:
    """No name and no root, so that what comes out is a fraction; to compare roots sympy may compute without end."""
    match node:
        case ast.Name() | ast.Call():
            return False
        case ast.BinOp(op=ast.Pow() | ast.BitXor(), right=exponent):
            return not any(isinstance(n, ast.Div) or _is_float(n) for n in ast.walk(exponent))
        case _:
            return True


def _is_float(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float)


def _number(node: ast.Constant) -> float:
    """Size of a number, infinite for what is none."""
    value = node.value
    return abs(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.inf


def _small_argument(argument: ast.expr) -> bool:
    """No function of a function, and no large number."""
    nodes = list(ast.walk(argument))
    return not any(isinstance(n, ast.Call) for n in nodes) and all(
        _number(n) <= _MAX_ARGUMENT for n in nodes if isinstance(n, ast.Constant)
    )


def _small_power(base: ast.expr, exponent: ast.expr) -> bool:
    """A power of a power is refused, so that sizes cannot multiply; so is a large exponent."""
    powers = (ast.Pow, ast.BitXor)
    if any(isinstance(n, ast.BinOp) and isinstance(n.op, powers) for part in (base, exponent) for n in ast.walk(part)):
        return False
    return sum(_number(n) for n in ast.walk(exponent) if isinstance(n, ast.Constant)) <= _MAX_POWER
