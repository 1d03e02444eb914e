"""Progress of long work: a bar on a terminal, a line per minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeVar

from rich import progress as rich_progress
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from modiff.errors import printable
from modiff.terminal import console, safe_output

Progress = Callable[[float, float], None]
"""Is told how much is done, and of how much."""

_EVERY = 60.0  # seconds between lines
_Item = TypeVar("_Item")


@contextmanager
def progress_bar(
    text: str, unit: str = "", *, quiet: bool = False, note: Callable[[], str] | None = None
) -> Iterator[Progress]:
    """Shows on standard error how far work is, with the time left. quiet: shows nothing.

    On a terminal it is a bar; elsewhere the first line comes after a minute. unit: what is counted; without it a
    fraction is shown. note: asked for what stands behind it. Lines come from a thread: also while nobody reports.
    """
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        text, unit = printable(text), printable(unit)  # before the width of columns is measured
        shown = "{task.completed:,.0f}/{task.total:,.0f} " + unit if unit else "{task.percentage:.0f} %"
        said, counts, notes = (
            TextColumn(of, markup=False) for of in ("{task.description}", shown, "{task.fields[note]}")
        )
        columns = (said, BarColumn(), counts, notes, TimeElapsedColumn(), TextColumn("/"), TimeRemainingColumn())
        # While the bar is shown rich prints for others, and would take their control characters for its own.
        with rich_progress.Progress(*columns, console=console(stderr=True), refresh_per_second=2) as bar, safe_output():
            task, due = bar.add_task(text, total=1, note=""), 0.0

            def show(done: float, total: float) -> None:
                nonlocal due
                if (now := time.monotonic()) >= due or done >= total:
                    due = now + 0.5
                    bar.update(task, completed=done, total=total, note=printable(note()) if note else "")

            yield show
    else:
        with _lines(text, unit, note) as report:
            yield report


@contextmanager
def _lines(text: str, unit: str, note: Callable[[], str] | None) -> Iterator[Progress]:
    start, over, state = time.monotonic(), Event(), (0.0, 0.0)

    def show(done: float, total: float) -> None:
        nonlocal state
        state = done, total

    def tell() -> None:
        while not over.wait(_EVERY):
            line = progress_text(text, unit, *state, seconds=time.monotonic() - start, note=note() if note else "")
            print(line, file=sys.stderr, flush=True)

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield show
    finally:
        over.set()
        thread.join()


def progress_text(text: str, unit: str, done: float, total: float, *, seconds: float, note: str = "") -> str:
    """A line of a log: how much is done, for how long, and how long it takes from here on at that speed."""
    parts = [f"{done:,.0f} of {total:,.0f} {unit}"] if unit and total else []
    parts += [f"{done / total:.0%}"] if total else ["begun"]
    parts += [note] if note else []
    parts.append(f"{_clock(seconds)} so far")
    parts += [f"about {_clock(seconds * (total - done) / done)} left"] if 0 < done < total else []
    return f"{text}: {', '.join(parts)}"


def tracked(items: Iterable[_Item], text: str, total: int, unit: str, *, quiet: bool = False) -> Iterator[_Item]:
    """The items, with the progress of the work on them shown."""
    with progress_bar(text, unit, quiet=quiet) as show:
        for done, item in enumerate(items):
            show(done, total)
            yield item
        show(total, total)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
