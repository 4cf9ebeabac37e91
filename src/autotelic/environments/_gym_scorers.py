"""The package's scorers without the doors they leave open.

Four classes of `reasoning_gym` 0.1.25 pass a model's answer to `eval`, and five to sympy's `parse_expr`, which is
`eval` in a coat. Both run whatever the answer says, in the process that computes rewards. Here `eval` becomes
`literal_eval` inside those modules, and an answer for sympy has to be plain arithmetic of bounded size first. All else
about a score is the package's own, weak spots included (`puzzle24` accepts any four numbers in range that make 24).
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from typing import Any

__all__ = ["Scorer", "is_arithmetic"]

_EVAL = re.compile(r"(?<![\w.])eval\(")
_SYMPY = re.compile(r"(?<!\w)(?:parse_expr|sympify)\(")
_HUGE_EXPONENT = re.compile(r"[\d.][eE][+-]?\d{4,}")
_MAX_ANSWER = 20_000
_MAX_ARITHMETIC = 500
_MAX_POWER = 32
_FUNCTIONS = {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs"}
_NODES = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.Call),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.BitXor, ast.UAdd, ast.USub),
)


class Scorer:
    """`dataset.score_answer`, safe to call on text that a model wrote.

    An answer that is refused is scored as an empty one, which is what the package gives for text it cannot read.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        source = inspect.getsource(type(dataset))
        module = sys.modules[type(dataset).__module__]
        if _EVAL.search(source):
            vars(module)["eval"] = ast.literal_eval
        self._arithmetic = bool(_SYMPY.search(source)) and "sympy" in inspect.getsource(module)

    def __call__(self, answer: str, entry: dict[str, Any]) -> float:
        """Score an answer to an entry in [0, 1]; only 1.0 is right, many scorers give partial credit."""
        refused = len(answer) > _MAX_ANSWER or _HUGE_EXPONENT.search(answer)
        if refused or (self._arithmetic and not is_arithmetic(answer)):
            answer = ""
        return float(self._dataset.score_answer(answer, entry))


def is_arithmetic(text: str) -> bool:
    """Whether `text` is numbers, names, the four operations, small powers, elementary functions and nothing else."""
    if len(text) > _MAX_ARITHMETIC:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_harmless(node) for node in ast.walk(tree))


def _harmless(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
        case ast.Name(id=name):
            return not name.startswith("_") and (len(name) == 1 or name in _FUNCTIONS or name in ("pi", "theta"))
        case ast.Call(func=ast.Name(id=name), args=[_], keywords=[]):
            return name in _FUNCTIONS
        case ast.Call():
            return False
        case ast.BinOp(left=left, op=ast.Pow() | ast.BitXor(), right=right):
            return _small_power(left, right)
        case _:
            return isinstance(node, _NODES)


def _small_power(base: ast.expr, exponent: ast.expr) -> bool:
    """A power of a power is refused, so that sizes cannot multiply; so is a large exponent."""
    powers = (ast.Pow, ast.BitXor)
    if any(isinstance(n, ast.BinOp) and isinstance(n.op, powers) for part in (base, exponent) for n in ast.walk(part)):
        return False
    numbers = [n.value for n in ast.walk(exponent) if isinstance(n, ast.Constant)]
    return sum(abs(v) for v in numbers if isinstance(v, int | float)) <= _MAX_POWER
