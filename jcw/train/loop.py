"""The loop around a step: progress, metrics, checkpoints, resumption, and a clean end on SIGTERM or divergence."""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from jcw.train.checkpoint import Checkpoints

Carry = TypeVar('Carry')


class Diverged(RuntimeError):
    """A loss that is no longer a number."""


class Interrupted(RuntimeError):
    """SIGTERM; the state has been saved."""


class Progress(NamedTuple):
    """What a progress display needs."""

    step: int
    num_steps: int
    images_per_second: float
    metrics: dict[str, float]


def run(
    carry: Carry,
    step: Callable[[Carry, int], tuple[Carry, Any]],
    num_steps: int,
    *,
    folder: str | Path,
    batch: int,
    save_every: int = 200,
    report_every: int = 10,
    report: Callable[[Progress], None] = lambda _: None,
) -> Carry:
    """Run a step until `num_steps` are taken, resuming from the folder's latest checkpoint.

    Metrics of a reported step are read while the next one runs, and appended to `metrics.jsonl`.

    Args:
      carry: what steps carry, before the first; a tree of arrays.
      step: (carry, index) -> (carry, named tuple of scalar metrics); must depend on nothing else.
      num_steps: in all, those before an interruption included.
      folder: for checkpoints and metrics.
      batch: images per step, for the rate.
      save_every: steps between checkpoints; the last is always saved.
      report_every: steps between metrics.
      report: called with each reported step's metrics.

    Raises:
      Diverged: a metric is not finite; the last checkpoint is from before.
      Interrupted: on SIGTERM, after saving.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder / 'checkpoints') as checkpoints, _sigterm() as stopping:
        start = checkpoints.latest_step or 0
        if start:
            carry, _ = checkpoints.restore(carry)
        pending: tuple[int, Any, float] | None = None
        began = time.perf_counter()
        for index in range(start, num_steps):
            carry, metrics = step(carry, index)
            done = index + 1
            if pending is not None:
                _emit(folder, *pending, num_steps, checkpoints.latest_step, report)
                pending = None
            if done % report_every == 0 or done == num_steps:
                pending = (done, metrics, batch * (done - start) / (time.perf_counter() - began))
            if stopping.is_set() or done % save_every == 0 or done == num_steps:
                if pending is not None:
                    _emit(folder, *pending, num_steps, checkpoints.latest_step, report)
                    pending = None
                checkpoints.save(done, jax.device_get(carry), {'step': done})
            if stopping.is_set() and done < num_steps:
                raise Interrupted(f'stopped by SIGTERM after step {done}, saved; the same command continues')
    return carry


def _emit(
    folder: Path,
    step: int,
    metrics: Any,
    rate: float,
    num_steps: int,
    saved: int | None,
    report: Callable[[Progress], None],
) -> None:
    values = {name: float(value) for name, value in metrics._asdict().items()}
    with (folder / 'metrics.jsonl').open('a') as file:
        file.write(json.dumps({'step': step, 'images_per_second': round(rate, 1), **values}) + '\n')
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise Diverged(
            f'{bad[0]} is {values[bad[0]]} at step {step}; the last good checkpoint is of step {saved or 0}. '
            'Try a lower learning rate, a longer warm-up, or gradient clipping.'
        )
    report(Progress(step, num_steps, rate, values))


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """Note SIGTERM instead of dying of it, where this thread may."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGTERM, previous)
