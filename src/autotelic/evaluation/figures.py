"""Charts as inline SVG, made by a few functions and nothing else: no script, no library, no network.

Line charts scale with their box; charts of rows have no view box and lengths in percent, so that their text keeps its
size on a phone. Colours are classes and CSS variables, so that the page decides about light and dark. Every text is
escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

__all__ = [
    "Bar",
    "Dumbbell",
    "Point",
    "Series",
    "Spot",
    "bar_rows",
    "dumbbell_rows",
    "line_chart",
    "nice_top",
    "scatter",
    "stacked_rows",
]


@dataclass(frozen=True)
class Point:
    """A value with its interval."""

    x: int
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One line of a line chart; `css` is the class that colours it."""

    name: str
    css: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Bar:
    """One bar: a length and the text that stands at its end."""

    label: str
    value: float
    text: str
    css: str = "bar"


@dataclass(frozen=True)
class Dumbbell:
    """One row of before and after, with the interval of the second and a mark to compare with."""

    label: str
    before: float
    after: float
    low: float
    high: float
    mark: float | None = None


@dataclass(frozen=True)
class Spot:
    """One point of a scatter: a price, and a share with its interval."""

    name: str
    x: float
    y: float
    low: float
    high: float


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 380, 220, 42, 46, 14, 24


def line_chart(
    label: str,
    series: Sequence[Series],
    *,
    percent: bool = True,
    top: float | None = None,
    reference: tuple[str, float] | None = None,
) -> str:
    """Return a line chart over rounds with interval whiskers.

    Args:
        label: what the chart shows, for screen readers.
        series: lines; a gap in `x` stays a gap in nothing but the axis.
        percent: whether values are shares shown as percent.
        top: upper end of the axis, the smallest round number above the data by default.
        reference: name and value of a dashed horizontal line.
    """
    rounds = sorted({p.x for s in series for p in s.points})
    if not rounds:
        return ""
    values = [p.y if p.high is None else p.high for s in series for p in s.points]
    upper = top or nice_top(max([*values, reference[1] if reference else 0.0]), percent=percent)
    plot = _Plot(rounds[0], rounds[-1], upper)
    parts = [_grid(plot, percent), _round_ticks(plot, rounds)]
    if reference is not None:
        y = plot.y(reference[1])
        parts.append(
            f'<line class="reference" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}">'
            f"<title>{escape(reference[0])}: {_value(reference[1], percent)}</title></line>"
        )
    shift = min(5.0, plot.step / 6)
    for index, one in enumerate(series):
        offset = (index - (len(series) - 1) / 2) * 2 * shift if len(series) > 1 else 0.0
        parts.append(_line(plot, one, offset, percent))
    parts.append(_last_values(plot, series, percent))
    return (
        f'<svg class="lines" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def scatter(label: str, spots: Sequence[Spot], *, x_name: str) -> str:
    """Return shares over a price on a logarithmic axis, numbered in their order, with interval whiskers."""
    if not spots:
        return ""
    width, height, bottom = 760, 320, 40
    low, high = (math.log10(max(1.0, f(spot.x for spot in spots))) for f in (min, max))
    first, last = math.floor(low), max(math.floor(low) + 1, math.ceil(high))
    top = nice_top(max(spot.high for spot in spots), percent=True)

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(max(1.0, x)) - first) / (last - first)
        return _LEFT + share * (width - _LEFT - 24), height - bottom - y / top * (height - bottom - _TOP)

    parts = []
    for i in range(_divisions(top) + 1):
        value = top * i / _divisions(top)
        _, y = at(1, value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{width - 24}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_value(value, True)}</text>'
        )
    for power in range(first, last + 1):
        x, _ = at(10**power, 0)
        tick = f"{10**power:,}"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - bottom + 17}" text-anchor="middle">{tick}</text>')
    parts.append(f'<text class="tick" x="{width - 24}" y="{height - 6}" text-anchor="end">{escape(x_name)}</text>')
    for spot in spots:
        x, y = at(spot.x, spot.y)
        below, above = at(spot.x, spot.low)[1], at(spot.x, spot.high)[1]
        said = f"{escape(spot.name)}: {_value(spot.y, True)} [{_value(spot.low, True)}, {_value(spot.high, True)}]"
        parts.append(
            f'<path class="whisker candidate" d="M{x:.1f} {below:.1f}V{above:.1f}"/>'
            f'<circle class="dot candidate" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{said}</title></circle>'
        )
    for x, y, numbers in _labels([at(spot.x, spot.y) for spot in spots]):
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y:.1f}">{numbers}</text>')
    said = escape(label)
    return f'<svg class="wide" viewBox="0 0 {width} {height}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def _labels(places: Sequence[tuple[float, float]]) -> list[tuple[float, float, str]]:
    """Number places in their order, from 1: where each number goes, so that none lies on another or on a place.

    Places that can hardly be told apart share one label.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for number, (x, y) in enumerate(places, 1):
        alike.setdefault((round(x / 5), round(y / 5)), []).append(number)
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    labels = []
    for numbers in alike.values():
        x, y = places[numbers[0] - 1]
        said = ", ".join(map(str, numbers))
        wide = 6.5 * len(said)
        for step in range(24):
            left = x + 8 if step % 2 == 0 else x - 8 - wide
            base = y + 4 - 12 * (step // 2)
            box = (left - 2, base - 9, left + wide + 2, base + 1)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                break
        taken.append(box)
        labels.append((left, base, said))
    return labels


def bar_rows(label: str, bars: Sequence[Bar]) -> str:
    """Return horizontal bars, each under its label; lengths are relative to the longest."""
    longest = max((b.value for b in bars), default=0.0)
    rows = []
    for i, bar in enumerate(bars):
        y = 36 * i
        width = 100 * bar.value / longest if longest else 0.0
        rows.append(
            f'<text class="rowname" x="0" y="{y + 13}">{escape(bar.label)}</text>'
            f'<text class="rowvalue" x="100%" y="{y + 13}">{escape(bar.text)}</text>'
            f'<rect class="track" x="0" y="{y + 19}" width="100%" height="8" rx="4"/>'
            f'<rect class="{bar.css}" x="0" y="{y + 19}" width="{width:.2f}%" height="8" rx="4">'
            f"<title>{escape(bar.label)}: {escape(bar.text)}</title></rect>"
        )
    return _rows_svg(label, 36 * len(bars), rows)


def stacked_rows(label: str, rows: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Return one stacked bar a row; lengths are relative to the longest row, the row's text is the sum of its bars."""
    longest = max((sum(b.value for b in bars) for _, bars in rows), default=0.0)
    parts = []
    for i, (name, bars) in enumerate(rows):
        y, x = 44 * i, 0.0
        parts.append(f'<text class="rowname" x="0" y="{y + 13}">{escape(name)}</text>')
        for bar in bars:
            width = 100 * bar.value / longest if longest else 0.0
            parts.append(
                f'<rect class="{bar.css}" x="{x:.3f}%" y="{y + 19}" width="{width:.3f}%" height="16">'
                f"<title>{escape(name)}, {escape(bar.label)}: {escape(bar.text)}</title></rect>"
            )
            x += width
    return _rows_svg(label, 44 * len(rows), parts)


def dumbbell_rows(label: str, rows: Sequence[Dumbbell]) -> str:
    """Return before (hollow), after (filled, with whiskers) and a mark (diamond) of each row, as shares of 1."""
    top = nice_top(max((max(r.high, r.before, r.mark or 0.0) for r in rows), default=0.0), percent=True)
    parts = []
    for i, row in enumerate(rows):
        y = 44 * i + 28
        at = {k: f"{2 + 96 * v / top:.2f}%" for k, v in vars(row).items() if isinstance(v, float)}
        said = f"{_value(row.before, True)} → {_value(row.after, True)}"
        parts.append(
            f'<text class="rowname" x="0" y="{y - 15}">{escape(row.label)}</text>'
            f'<text class="rowvalue" x="100%" y="{y - 15}">{said}</text>'
            f'<line class="rail" x1="2%" x2="98%" y1="{y}" y2="{y}"/>'
            f'<line class="change" x1="{at["before"]}" x2="{at["after"]}" y1="{y}" y2="{y}"/>'
            f'<line class="whisker candidate" x1="{at["low"]}" x2="{at["high"]}" y1="{y}" y2="{y}"/>'
        )
        if row.mark is not None:
            parts.append(
                f'<line class="mark" x1="{at["mark"]}" x2="{at["mark"]}" y1="{y - 8}" y2="{y + 8}">'
                f"<title>best constant answer: {_value(row.mark, True)}</title></line>"
            )
        parts.append(
            f'<circle class="dot champion" cx="{at["before"]}" cy="{y}" r="5"><title>before: '
            f"{_value(row.before, True)}</title></circle>"
            f'<circle class="dot candidate" cx="{at["after"]}" cy="{y}" r="5.5"><title>after: '
            f"{_value(row.after, True)} [{_value(row.low, True)}, {_value(row.high, True)}]</title></circle>"
        )
    return _rows_svg(label, 44 * len(rows), parts)


def nice_top(value: float, *, percent: bool) -> float:
    """Return the smallest round number that is not below `value`: the top of an axis."""
    steps = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0] if percent else []
    for step in steps:
        if value <= step:
            return step
    if percent:
        return value
    scale = 1e-6
    while value > scale * 10:
        scale *= 10
    return next(scale * m for m in (1, 2, 3, 4, 5, 6, 8, 10, 20) if value <= scale * m)


class _Plot:
    """Maps rounds and values to the coordinates of a line chart."""

    def __init__(self, first: int, last: int, top: float) -> None:
        self.first, self.top = first, top
        self.step = (_WIDTH - _LEFT - _RIGHT - 36) / max(1, last - first)
        self.centre = first == last

    def x(self, value: float) -> float:
        if self.centre:
            return (_LEFT + _WIDTH - _RIGHT) / 2
        return _LEFT + 18 + (value - self.first) * self.step

    def y(self, value: float) -> float:
        share = min(1.0, max(0.0, value / self.top))
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(plot: _Plot, percent: bool) -> str:
    lines = []
    parts = _divisions(plot.top)
    for i in range(parts + 1):
        value = plot.top * i / parts
        y = plot.y(value)
        lines.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_value(value, percent)}</text>'
        )
    return "".join(lines)


def _divisions(top: float) -> int:
    """Return how many steps of the grid give round numbers at its lines."""
    lead = round(top / 10 ** math.floor(math.log10(top) + 1e-9), 6)
    return {1.0: 4, 2.0: 4, 3.0: 3, 4.0: 4, 5.0: 5, 6.0: 3, 8.0: 4}.get(lead, 4)


def _round_ticks(plot: _Plot, rounds: Sequence[int]) -> str:
    every = max(1, -(-len(rounds) // 8))
    y = _HEIGHT - _BOTTOM + 17
    return (
        "".join(
            f'<text class="tick" x="{plot.x(r):.1f}" y="{y}" text-anchor="middle">{r}</text>' for r in rounds[::every]
        )
        + f'<text class="tick" x="{_LEFT - 7}" y="{y}" text-anchor="end">round</text>'
    )


def _last_values(plot: _Plot, series: Sequence[Series], percent: bool) -> str:
    """Write each line's last value at the right, pushed apart where two would overlap."""
    ends = sorted(
        (plot.y(last.y), last, s.css) for s in series if (last := max(s.points, key=lambda p: p.x, default=None))
    )
    parts, floor = [], 0.0
    for y, point, css in ends:
        floor = max(y, floor)
        text = _value(point.y, percent)
        parts.append(f'<text class="value {escape(css)}" x="{_WIDTH - 2}" y="{floor + 4:.1f}">{text}</text>')
        floor += 13
    return "".join(parts)


def _line(plot: _Plot, series: Series, offset: float, percent: bool) -> str:
    css = escape(series.css)
    points = sorted(series.points, key=lambda p: p.x)
    radius = 4 if len(points) <= 12 else 2.5
    xy = [(plot.x(p.x) + offset, plot.y(p.y)) for p in points]
    parts = [
        f'<line class="line {css}" x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"/>'
        for a, b in pairwise(xy)
    ]
    for point, (x, y) in zip(points, xy, strict=True):
        interval = ""
        if point.low is not None and point.high is not None:
            low, high = plot.y(point.low), plot.y(point.high)
            interval = f" [{_value(point.low, percent)}, {_value(point.high, percent)}]"
            parts.append(
                f'<path class="whisker {css}" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} '
                f'{high:.1f}h6"/>'
            )
        parts.append(
            f'<circle class="dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
            f"<title>{escape(series.name)}, round {point.x}: "
            f"{_value(point.y, percent)}{interval}</title></circle>"
        )
    return "".join(parts)


def _rows_svg(label: str, height: int, parts: Sequence[str]) -> str:
    if not parts:
        return ""
    said = escape(label)
    return f'<svg class="rows" width="100%" height="{height}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def _value(value: float, percent: bool) -> str:
    if not percent:
        return f"{value:.3g}"
    text = f"{value * 100:.1f}"
    return f"{text.removesuffix('.0')}%"
