"""Small pieces that the page is put together from: escaped text, tables, cards, numbers in words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

__all__ = [
    "card",
    "document",
    "duration",
    "folded",
    "legend",
    "num",
    "pct",
    "pill",
    "points",
    "section",
    "span",
    "table",
]

Json = dict[str, Any]
DASH = "–"


def num(value: float | None, digits: int = 3) -> str:
    """A plain number, a dash for `None`."""
    return DASH if value is None else f"{value:.{digits}g}"


def pct(value: float | None) -> str:
    """A share as percent."""
    return DASH if value is None else f"{value * 100:.1f}%"


def points(value: float | None) -> str:
    """A signed difference of shares in points."""
    return DASH if value is None else f"{value * 100:+.1f}".replace("-", "−")


def span(found: Json | None) -> str:
    """An estimate with its interval."""
    return DASH if not found else f"{pct(found['mean'])} [{pct(found['low'])}, {pct(found['high'])}]"


def duration(seconds: float | None) -> str:
    """Seconds in the unit a person would use."""
    if seconds is None:
        return DASH
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, css: Sequence[str] = (), kind: str = ""
) -> str:
    """An accessible table of plain texts; the first column is the row's header, `css` has a class for each row."""
    body = "".join(
        f"<tr{f' class={css[i]!r}' if i < len(css) and css[i] else ''}>"
        f'<th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for i, row in enumerate(rows)
    )
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def folded(summary: str, body: str) -> str:
    """Something that a click opens."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def card(title: str, body: str, *, note: str = "", css: str = "") -> str:
    """A titled box; `body` is markup, the rest is text."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<div class="card {css}">{heading}{said}{body}</div>'


def section(name: str, title: str, body: str, *, lead: str = "") -> str:
    """A section that the navigation can reach; without a body it says that nothing was measured."""
    said = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    content = body or '<p class="empty">Nothing was measured here yet.</p>'
    return f'<section id="{name}"><h2>{escape(title)}</h2>{said}{content}</section>'


def legend(items: Sequence[tuple[str, str]]) -> str:
    """A legend: class of the swatch and its name."""
    return (
        '<ul class="legend">'
        + "".join(f'<li><i class="{css}"></i><span class="name">{escape(name)}</span></li>' for css, name in items)
        + "</ul>"
    )


def document(title: str, body: str) -> str:
    """A whole page: styled, without a script, forbidden to fetch anything. `body` is markup."""
    css = files("autotelic.core").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{css}</style></head><body>{body}</body></html>\n"
    )


def pill(text: str, css: str) -> str:
    """A small coloured word."""
    return f'<span class="pill {css}">{escape(text)}</span>'
