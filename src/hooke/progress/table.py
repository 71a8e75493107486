"""The live table of a run on a terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hooke.base.formats import format_bytes, format_seconds
from hooke.journal.run_view import RunRow
from hooke.journal.task_view import TaskRow
from hooke.progress.display import TERMINAL, RunSnapshot, clock, most_telling
from hooke.progress.progress import TICK_S

__all__ = ["LiveTable", "Memory", "TerminalTaken", "picture"]

SAMPLE_S = 1.0
"""The interval between memory samples; one costs about 50 us per process."""

NUMBERS, TIME, RATE = 38, 12, 9
"""Characters for the counts, the time and the rate, including gaps."""

_STATES = {
    "waiting": (" ", "dim"),
    "running": ("▸", "bold cyan"),
    "partly": ("▸", "cyan"),
    "done": ("✓", "green"),
    "cached": ("=", "blue"),
    "failed": ("✗", "bold red"),
    "skipped": ("·", "dim"),
    "not needed": ("·", "dim"),
}
_PLAIN_MARKS = {"▸": ">", "✓": "+", "✗": "x", "·": "."}


class LiveTable:
    """Redraws a table at the end of a terminal, and leaves its final state. Raises TerminalTaken if there is one already."""

    every_s = TICK_S

    def __init__(self, out: TextIO) -> None:
        self._console = _Console(file=out, highlight=False)
        self._memory = Memory()
        # A line of another thread between the last frame and the end of Live would duplicate the frame.
        self._lock = threading.Lock()
        self._live = Live(
            Text("tracing ...", style="dim"),
            console=self._console,
            auto_refresh=False,  # the clock's thread draws
            redirect_stdout=False,  # stdout may be piped elsewhere
            vertical_overflow="crop",
        )
        if not TERMINAL.claim(self):
            raise TerminalTaken
        self._live.start(refresh=True)

    def draw(self, snapshot: RunSnapshot) -> None:
        """Replace the frame."""
        if snapshot.run.run:
            self._live.update(self._picture(snapshot), refresh=True)

    def close(self, snapshot: RunSnapshot) -> None:
        """Leave the last frame with a blank line below."""
        try:
            with self._lock:
                if snapshot.run.run:
                    self._live.update(self._picture(snapshot))
                self._live.stop()
                self._console.print()
        finally:
            TERMINAL.release(self)

    def above(self, line: str) -> None:
        """Print a line above the table."""
        with self._lock:
            self._console.print(Text(line), soft_wrap=True)

    def _picture(self, snapshot: RunSnapshot) -> RenderableType:
        run = snapshot.run
        going = run.status == "running"
        memory = self._memory.sample(snapshot.workers, snapshot.now) if going else None
        return picture(run, snapshot.tasks, memory=memory, stopping=snapshot.stopping, console=self._console)


class TerminalTaken(Exception):
    """The terminal already has a live table."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise, because Rich would end the process."""
        raise BrokenPipeError


class Memory:
    """Anonymous memory of this process and its workers; shared mapped results do not count."""

    def __init__(self) -> None:
        self._sampled_at = 0.0
        self._bytes = 0
        self._processes: dict[int, psutil.Process] = {}

    def sample(self, workers: Iterable[int], now: float) -> int:
        """The bytes, at most SAMPLE_S old."""
        if now - self._sampled_at >= SAMPLE_S:
            self._sampled_at = now
            own = psutil.Process().pid
            self._bytes = sum(self._of(pid) for pid in (own, *workers))
        return self._bytes

    def _of(self, pid: int) -> int:
        try:
            process = self._processes.setdefault(pid, psutil.Process(pid))
            usage = process.memory_info()
        except psutil.Error:  # the process has ended
            return 0
        return max(usage.rss - getattr(usage, "shared", 0), 0)


def picture(
    run: RunRow, tasks: list[TaskRow], *, memory: int | None, stopping: str | None, console: Console
) -> RenderableType:
    """One frame, with fewer columns and rows on a small terminal."""
    # The terminal appends ^C to the last line; if that wrapped, a redraw would miss a line.
    width, height = console.size.width - 2, console.size.height
    columns = _Columns.fitting(width, max((len(task.task) for task in tasks), default=0))
    table = columns.table()
    going, plain = run.status == "running", console.options.ascii_only
    trouble = [Text(f"  {run.message}", style="yellow")] if going and run.message else []
    lines = sum(1 + len(each) // max(width, 1) for each in trouble)
    shown = most_telling(tasks, max(3, height - 4 - lines))
    for task in shown:
        cells = _cells(task, bar=columns.bar, plain=plain, going=going)
        style = "dim" if task.state in ("waiting", "skipped", "not needed") else ""
        table.add_row(*cells[: len(table.columns)], style=style)
    below = (
        [Text(f"  and {len(tasks) - len(shown)} more tasks", style="dim")] if len(shown) < len(tasks) else []
    )
    return Group(_title(run, width, memory=memory, stopping=stopping), table, *below, *trouble)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Widths of the optional columns; 0 if left out."""

    task: int
    time: int
    rate: int
    bar: int

    @classmethod
    def fitting(cls, width: int, longest: int) -> _Columns:
        """The columns for a screen of `width`; the longest task name has `longest` characters."""
        room = width - NUMBERS - 20
        time = TIME if room >= TIME else 0
        rate = RATE if room >= TIME + RATE else 0
        task = max(12, width - NUMBERS - time - rate)
        bar = min(task - min(longest, 40) - 1, 30)
        return cls(task=task, time=time, rate=rate, bar=bar if bar >= 8 else 0)

    def table(self) -> Table:
        """An empty table with these columns."""
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("", width=1)
        table.add_column("task", overflow="ellipsis", no_wrap=True, max_width=self.task)
        if self.bar:
            table.add_column("", width=self.bar)
        for name in ("done", "running", "cached", "failed", "of"):
            table.add_column(name, justify="right", no_wrap=True, min_width=max(5, len(name)))
        for name, width in (("time", self.time), ("rate", self.rate)):
            if width:
                table.add_column(name, justify="right", no_wrap=True, min_width=width - 1)
        return table


def _title(run: RunRow, console_width: int, *, memory: int | None, stopping: str | None) -> Text:
    colour = {"running": "cyan", "finished": "green", "failed": "red"}.get(run.status, "yellow")
    status = f"stopping ({stopping})" if stopping and run.status == "running" else run.ended_as
    name = run.run if console_width >= 90 else run.pipeline
    title = Text.assemble((name, "bold"), " ", (status, f"bold {colour}"), f" {clock(run.seconds)}")
    if run.status == "running":
        title.append(f"  {run.busy} of {max(run.slots, run.workers)} workers busy")
        if memory:
            title.append(f"  {format_bytes(memory)}")
        title.append(_left(run), style="dim")
    else:
        title.append(f"  {run.done} done, {run.cached} cached, {run.failed} failed")
    title.no_wrap, title.overflow = True, "ellipsis"
    return title


def _left(run: RunRow) -> str:
    if run.remaining is None or not run.remaining.seconds:
        return ""
    how = "at least" if run.remaining.untimed else "about"
    return f"  {how} {clock(run.remaining.seconds)} left"


def _cells(task: TaskRow, *, bar: int, plain: bool, going: bool) -> list[RenderableType]:
    mark, style = _STATES.get(task.state, (" ", ""))
    cells: list[RenderableType] = [
        Text(_PLAIN_MARKS.get(mark, mark) if plain else mark, style=style),
        Text(task.task),
    ]
    if bar:
        cells.append(_bar(task, bar, plain=plain))
    cells += [
        Text(_count(task.done), style="green" if task.done else "dim"),
        Text(_count(task.running), style="cyan" if task.running else "dim"),
        Text(_count(task.cached), style="blue" if task.cached else "dim"),
        Text(_count(task.failed), style="bold red" if task.failed else "dim"),
        Text("?" if task.items is None else _count(task.items, zero="0")),
        Text(_time(task, going=going), style="dim"),
        Text(_rate(task.rate if task.kind == "map" else None)),
    ]
    return cells


def _bar(task: TaskRow, width: int, *, plain: bool) -> Text:
    total = task.items or max(task.done + task.cached + task.running, 1)
    full, empty = ("#", ".") if plain else ("━", "╌")
    bar, drawn, seen = Text(), 0, 0
    for count, style in (
        (task.cached, "blue"),
        (task.done, "green"),
        (task.failed, "red"),
        (task.running, "cyan"),
    ):
        seen += count
        end = width * seen // total
        bar.append(full * (end - drawn), style=style)
        drawn = end
    # A task that need not run has no empty bar.
    rest = empty if task.waiting or task.items is None else " "
    bar.append(rest * (width - drawn), style="dim")
    return bar


def _count(count: int, *, zero: str = "") -> str:
    return str(count) if count else zero


def _rate(rate: float | None) -> str:
    if rate is None:
        return ""
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s" if rate >= 1 else f"{rate * 60:.3g}/m"


def _time(task: TaskRow, *, going: bool) -> str:
    """The remaining time of a running task if known, else its work so far."""
    if going and task.state in ("running", "partly", "waiting"):
        return f"{clock(task.remaining_s + 0.5)} left" if task.remaining_s else ""
    return format_seconds(task.seconds) if task.seconds else ""
