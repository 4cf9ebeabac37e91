"""A picture of a graph, drawn here: LangGraph's own ways to a PNG need a web service or a system library."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotelic.core.errors import MissingPackage, UsageError

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph

__all__ = ["draw_png"]

_HIGH, _GAP, _LAYER, _MARGIN, _FONT = 44, 48, 104, 40, 18
_INK, _SOFT, _FILL = "#1f2430", "#8a93a6", "#eef1f8"

Box = tuple[float, float, float]  # centre x, centre y, width


def draw_png(graph: Graph, path: Path) -> None:
    """Write a drawable graph as PNG: nodes in layers from the start down, conditional edges dashed.

    Raises:
        MissingPackage: pillow is not installed.
        UsageError: the picture cannot be written there.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ModuleNotFoundError:
        raise MissingPackage("pillow", "draw") from None
    font = ImageFont.load_default(_FONT)
    layers = _layers(graph)
    widths = {node: font.getlength(_name(node)) + 36 for row in layers for node in row}
    rows = [sum(widths[node] for node in row) + _GAP * (len(row) - 1) for row in layers]
    back = [edge for edge in graph.edges if _depth(layers, edge.target) <= _depth(layers, edge.source)]
    width = int(max(rows) + 2 * _MARGIN + 60 * len(back))
    image = Image.new("RGB", (width, len(layers) * _LAYER + 2 * _MARGIN - (_LAYER - _HIGH)), "white")
    draw = ImageDraw.Draw(image)
    boxes: dict[str, Box] = {}
    for depth, row in enumerate(layers):
        x = _MARGIN + (max(rows) - rows[depth]) / 2
        for node in row:
            boxes[node] = (x + widths[node] / 2, _MARGIN + depth * _LAYER + _HIGH / 2, widths[node])
            x += widths[node] + _GAP
    for edge in graph.edges:
        start, end = boxes[edge.source], boxes[edge.target]
        if edge in back:
            side = max(rows) + _MARGIN + 30 + 40 * back.index(edge)
            points = _round(start, end, side)
        else:
            points = _straight(start, end, list(boxes.values()))
        _line(draw, points, dashed=edge.conditional)
        if edge.data:
            x, y = points[len(points) // 2]
            draw.text((x + 6, y - 8), str(edge.data), fill=_SOFT, font=ImageFont.load_default(13))
    for node, (x, y, wide) in boxes.items():
        end_point = node.startswith("__")
        corners = (x - wide / 2, y - _HIGH / 2, x + wide / 2, y + _HIGH / 2)
        draw.rounded_rectangle(corners, 22 if end_point else 8, "white" if end_point else _FILL, _INK, 2)
        draw.text((x, y), _name(node), fill=_INK, font=font, anchor="mm")
    try:
        image.save(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the picture cannot be written to {path}: {error}. Give the path of a .png file in a folder that is there."
        ) from None


def _name(node: str) -> str:
    return node.strip("_")


def _layers(graph: Graph) -> list[list[str]]:
    """Nodes by their distance from the start; ends come last."""
    after: dict[str, list[str]] = defaultdict(list)
    for edge in graph.edges:
        after[edge.source].append(edge.target)
    targets = {edge.target for edge in graph.edges}
    found: dict[str, int] = {}
    wave = [node for node in graph.nodes if node not in targets] or list(graph.nodes)[:1]
    depth = 0
    while wave:
        found |= dict.fromkeys(wave, depth)
        wave = [node for node in dict.fromkeys(n for w in wave for n in after[w]) if node not in found]
        depth += 1
    ends = [node for node in graph.nodes if not after[node] and len(graph.nodes) > 1]
    found |= dict.fromkeys(ends, depth)
    rows: dict[int, list[str]] = defaultdict(list)
    for node in graph.nodes:
        rows[found.get(node, depth)].append(node)
    return [rows[at] for at in sorted(rows)]


def _depth(layers: list[list[str]], node: str) -> int:
    return next(depth for depth, row in enumerate(layers) if node in row)


def _straight(start: Box, end: Box, boxes: list[Box]) -> list[tuple[float, float]]:
    (x0, y0, _), (x1, y1, wide) = start, end
    points = [(x0, y0 + _HIGH / 2), ((x0 + x1) / 2, (y0 + y1) / 2), (x1, y1 - _HIGH / 2)]
    crossed = [box for box in boxes if y0 < box[1] < y1 and abs(box[0] - (x0 + x1) / 2) < box[2] / 2 + 8]
    if crossed:  # around what stands between
        side = min(box[0] - box[2] / 2 for box in crossed) - 18
        bent = [(side, y0 + _HIGH), (side, y1 - _HIGH)]
        points = [(x0 - 12, y0 + _HIGH / 2), *bent, (x1 - min(wide / 4, 24), y1 - _HIGH / 2)]
    return points


def _round(start: Box, end: Box, side: float) -> list[tuple[float, float]]:
    (x0, y0, w0), (x1, y1, w1) = start, end
    return [(x0 + w0 / 2, y0), (side, y0), (side, y1), (x1 + w1 / 2, y1)]


def _line(draw: Any, points: list[tuple[float, float]], *, dashed: bool) -> None:
    for (x0, y0), (x1, y1) in pairwise(points):
        length = math.hypot(x1 - x0, y1 - y0)
        steps = max(1, int(length // 6)) if dashed else 1
        for step in range(0, steps, 2):
            a, b = step / steps, min(1.0, (step + 1) / steps)
            at = [x0 + (x1 - x0) * a, y0 + (y1 - y0) * a, x0 + (x1 - x0) * b, y0 + (y1 - y0) * b]
            draw.line(at, fill=_SOFT, width=2)
    (x0, y0), (x1, y1) = points[-2:]
    turn = math.atan2(y1 - y0, x1 - x0)
    wings = [(x1 - 11 * math.cos(turn + spread), y1 - 11 * math.sin(turn + spread)) for spread in (-0.45, 0.45)]
    draw.polygon([(x1, y1), *wings], fill=_SOFT)
