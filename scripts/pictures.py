"""Makes the pictures of the README from a real run: `python scripts/pictures.py runs/seed1`.

The report, the browser app and the terminal chat as they are, the chat asked a real question. Needs Chromium, and the
packages of the extras `chat`, `endpoint` and `dev`.
"""

from __future__ import annotations

import argparse
import html
import os
import pty
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyte
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parents[1] / "docs"
WIDTH, LINES = 92, 26
QUESTION = "A rope of 40 metres is cut into 5 equal pieces. How long is each piece?"
ACTS = (f"{QUESTION}\r", "/wrong give the unit\r", "/edit 8 metres\r")
_COLOURS = {"red": "#c0392b", "green": "#2e8b57", "cyan": "#2980b9", "brown": "#b9770e", "blue": "#2471a3"}


def terminal(run: Path, threads: Path) -> pyte.Screen:
    """Talk in a real terminal; return its screen."""
    screen = pyte.Screen(WIDTH, LINES)
    stream = pyte.ByteStream(screen)
    pid, line = pty.fork()
    if pid == 0:
        size = {"LINES": str(LINES), "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
        command = [sys.executable, "-m", "autotelic", "chat", "--run", str(run), "--threads", str(threads)]
        os.execve(sys.executable, command, {**os.environ, **size})

    def until(quiet: float) -> None:
        """Read until nothing comes for some seconds and it waits to be told something."""
        last = time.monotonic()
        while time.monotonic() - last < quiet or not any("you:" in row for row in screen.display):
            if select.select([line], [], [], 0.2)[0]:
                data = os.read(line, 65536)
                stream.feed(data)
                if b"\x1b[6n" in data:
                    os.write(line, b"\x1b[%d;%dR" % (screen.cursor.y + 1, screen.cursor.x + 1))
                last = time.monotonic()

    until(2)
    for act in ACTS:
        os.write(line, act.encode())
        until(4)
    os.write(line, b"\x04")
    os.waitpid(pid, 0)
    return screen


def drawn(screen: pyte.Screen) -> str:
    """Return a screen as a page."""
    rows = []
    for y in range(max((y for y, row in enumerate(screen.display) if row.strip()), default=0) + 1):
        cells = (screen.buffer[y][x] for x in range(WIDTH))
        rows.append("".join(_cell(cell) for cell in cells).rstrip())
    style = "margin:0;padding:18px;background:#1c1f24;color:#d8dee9;font:15px/1.45 monospace;display:inline-block"
    return f'<body style="margin:0"><pre style="{style}">{"<br>".join(rows)}</pre>'


def _cell(cell: Any) -> str:
    style = f"color:{_COLOURS[cell.fg]};" if cell.fg in _COLOURS else ""
    style += "font-weight:bold;color:#fff;" if cell.bold else ""
    return f'<span style="{style}">{html.escape(cell.data)}</span>' if style else html.escape(cell.data)


@contextmanager
def browsing(runs: Path) -> Iterator[str]:
    """Serve the browser app; gives its address."""
    command = [sys.executable, "-m", "autotelic", "ui", str(runs), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("open ").strip()
        finally:
            process.terminate()


def shoot(page: Page, url: str, name: str, height: int) -> None:
    """Take the picture of a page's beginning."""
    page.set_viewport_size({"width": 1100, "height": height})
    page.goto(url)
    page.screenshot(path=DOCS / f"{name}.png")


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    run = parser.parse_args().run.absolute()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        chat = Path(scratch) / "chat.html"
        chat.write_text(drawn(terminal(run, Path(scratch) / "threads.sqlite")))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page()
        shoot(page, (run / "report.html").as_uri(), "report", 1130)
        page.goto(chat.as_uri())
        page.locator("pre").screenshot(path=DOCS / "chat.png")
        with browsing(run.parent) as url:
            page.goto(url)
            shoot(page, f"{url.partition('/?')[0]}/runs/{run.name}/", "session", 900)
        browser.close()


if __name__ == "__main__":
    main()
