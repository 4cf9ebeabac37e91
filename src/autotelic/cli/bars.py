"""Rich progress bars: rate and time left on everything that takes longer than a moment."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

__all__ = ["Bars"]


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None or task.total is None else f"{speed:.1f}/s", style="cyan")


class Bars:
    """Draws progress on standard error; where that is no terminal, prints one line when something ends."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._live = self.console.is_terminal
        self._bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, name: str, total: int | None = None, done: int = 0) -> None:
        """Begin a bar; beginning one that is there restarts it with the new total."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks[name])
        self._tasks[name] = self._bars.add_task(name, total=total, completed=done)

    def advance(self, name: str, by: int = 1) -> None:
        """Move a bar on."""
        if name in self._tasks:
            self._bars.advance(self._tasks[name], by)

    def stop(self, name: str) -> None:
        """Take the bar away and leave one line saying what it did."""
        task = self._tasks.pop(name, None)
        if task is None:
            return
        found = self._bars.tasks[self._bars.task_ids.index(task)]
        count = f" {found.completed:.0f}" if found.total is not None else ""
        self.say(f"  {name}:{count} in {found.elapsed or 0:.1f} s")
        self._bars.remove_task(task)

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
