"""Two tools that every agent can have: exact arithmetic, and Python behind the sandbox's walls.

The calculator walks a small syntax tree over fractions, so `0.1 + 0.2` is `0.3`. Every intermediate number is bounded
*before* it is computed: nothing a model writes can keep it busy.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from fractions import Fraction

from autotelic.core.errors import ModelRetry
from autotelic.core.registry import register
from autotelic.sandbox import Sandbox
from autotelic.tools._tool import Tool, ToolResult, tool

__all__ = ["calculator", "python_tool"]

_MAX_CHARS, _MAX_BITS, _MAX_DECIMALS = 500, 4096, 50


@register("tool", "calculator")
@tool(seconds=5.0)
def calculator(expression: str) -> str:
    """Compute an arithmetic expression exactly, e.g. `(17 * 3 - 1) / 8`.

    Knows + - * / // % ** and abs, gcd, max, min, round.
    """
    if len(expression) > _MAX_CHARS:
        raise ModelRetry(f"the expression has {len(expression)} characters, at most {_MAX_CHARS} are allowed")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ModelRetry(f"not an arithmetic expression: {expression[:100]!r}") from None
    return _show(_value(tree.body, expression.strip()))


def python_tool(sandbox: Sandbox, *, name: str = "python") -> Tool:
    """Return the tool that runs Python in `sandbox`: no network, no files, standard library only, nothing is kept."""

    async def python(code: str) -> ToolResult:
        """Run a Python program. Returns what it printed and the value of its last expression."""
        outcome = await sandbox.run(code)
        value = outcome.value if outcome.value not in {None, "None"} else None
        parts = [outcome.stdout.rstrip("\n"), value, outcome.error]
        text = "\n".join(part for part in parts if part)
        if outcome.status == "ok":
            return ToolResult(ok=True, content=text)
        return ToolResult(ok=False, content=text, reason="timeout" if outcome.status == "timeout" else "failed")

    # The sandbox keeps the time; this only has to outlast it and the wait for a free worker.
    return tool(name=name, seconds=sandbox.limits.seconds * 10 + 30, permission="pure", here=True)(python)


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() as number):
            return _bounded(Fraction(number))
        case ast.Constant(value=float() as number):
            return _decimal(number, ast.get_source_segment(text, node) or repr(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, text)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _operators:
            return _bounded(_operators[type(op)](_value(left, text), _value(right, text)))
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]) if name in _functions:
            return _bounded(_functions[name]([_value(argument, text) for argument in args]))
    raise ModelRetry(
        f"{ast.unparse(node)[:60]!r} is not arithmetic. Use numbers, + - * / // % ** and {', '.join(_functions)}."
    )


def _bounded(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > _MAX_BITS:
        raise ModelRetry(f"a number has more than {_MAX_BITS} bits")
    return number


def _decimal(number: float, text: str) -> Fraction:
    if not math.isfinite(number) or (number != 0 and not 1e-300 < abs(number) < 1e300):
        raise ModelRetry(f"{text[:60]} is out of range")
    if number == 0:  # `1e-99999999` is 0.0 as a float and would be a gigantic fraction
        return Fraction(0)
    return _bounded(Fraction(text.replace("_", "")))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ModelRetry(f"the exponent {exponent} is not a whole number")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > _MAX_BITS or bits * abs(exponent) > 2 * _MAX_BITS:
        raise ModelRetry(f"{bits}-bit number to the power {exponent}: the result is too large")
    return base ** int(exponent)


def _whole(numbers: list[Fraction]) -> list[int]:
    if any(number.denominator != 1 for number in numbers):
        raise ModelRetry("gcd takes whole numbers only")
    return [int(number) for number in numbers]


def _round(numbers: list[Fraction]) -> Fraction:
    digits = int(numbers[1]) if len(numbers) == 2 else 0
    if len(numbers) > 2 or abs(digits) > _MAX_DECIMALS:
        raise ModelRetry(f"round takes a number and at most {_MAX_DECIMALS} digits")
    return Fraction(round(numbers[0], digits))


def _absolute(numbers: list[Fraction]) -> Fraction:
    if len(numbers) != 1:
        raise ModelRetry("abs takes one number")
    return abs(numbers[0])


_operators: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _power,
}
_functions: dict[str, Callable[[list[Fraction]], Fraction]] = {
    "abs": _absolute,
    "gcd": lambda numbers: Fraction(math.gcd(*_whole(numbers))),
    "max": max,
    "min": min,
    "round": _round,
}


def _show(number: Fraction) -> str:
    """Return an integer or a terminating decimal exactly, anything else as a fraction with its approximate value."""
    if number.denominator == 1:
        return str(number.numerator)
    for digits in range(1, _MAX_DECIMALS + 1):
        scaled = number * 10**digits
        if scaled.denominator == 1:
            sign, text = "-" * (number < 0), str(abs(scaled.numerator)).rjust(digits + 1, "0")
            return f"{sign}{text[:-digits]}.{text[-digits:]}"
    try:
        return f"{number} (about {float(number):.12g})"
    except OverflowError:
        return str(number)
