"""Progress bars with the time left; plain lines where the output is not a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(markup=False)  # names of files and of classes, and what programs say, are shown as they are
if not console.is_terminal:
    console = Console(markup=False, width=150)

Update = Callable[[int, str], None]
"""(done so far, what to say beside the bar)"""

SECONDS_BETWEEN_LINES = 20


@contextmanager
def bar(title: str, total: int) -> Iterator[Update]:
    """Show how far a stage is and how long it will take still."""
    show = _bar if console.is_terminal else _lines
    with show(title, total) as update:
        yield update


@contextmanager
def _bar(title: str, total: int) -> Iterator[Update]:
    columns = (
        TextColumn('{task.description}', markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn('{task.fields[note]}', markup=False),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, note='')
        yield lambda done, note: progress.update(task, completed=done, note=note)


@contextmanager
def _lines(title: str, total: int) -> Iterator[Update]:
    began = last = time.monotonic()
    first: int | None = None

    def update(done: int, note: str) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if done < total and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = (done - first) / (now - began)
        left = f', {(total - done) / rate:.0f} s left' if rate > 0 and done < total else ''
        console.print(f'  {title}: {done} of {total}{left}  {note}', highlight=False)

    yield update
