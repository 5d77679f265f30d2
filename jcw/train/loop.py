"""The loop around a step: progress, metrics, checkpoints, resumption, and a clean end on SIGTERM or divergence."""

import json
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jcw import records
from jcw.train.checkpoint import Checkpoints
from jcw.train.watchdog import Watchdog, end

Carry = TypeVar('Carry')


class Diverged(RuntimeError):
    """A loss that is no longer a number, or beyond all bounds."""


class Interrupted(RuntimeError):
    """SIGTERM or Ctrl-C; the state has been saved."""


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
    at_once: int = 1,
    score: Callable[[Carry], float] | None = None,
    keep: int = 2,
    keep_best: int = 0,
    loss_limit: float = 1e3,
    hang_seconds: float | None = None,
) -> Carry:
    """Run a step until `num_steps` are taken, resuming from the folder's latest checkpoint.

    Metrics of a reported step are read when the next one was started, and appended to `metrics.jsonl`; where
    tensorboardX is installed, also to event files in `tensorboard`. What was written past the checkpoint resumed from
    is taken back.

    Args:
      carry: what steps carry, before the first; a tree of arrays.
      step: (carry, index) -> (carry, named tuple of scalar metrics); must depend on nothing else. It takes `at_once`
        steps, or as many as are left, and the metrics are the last one's.
      num_steps: in all, those before an interruption included.
      folder: for checkpoints and metrics.
      batch: images per step, for the rate.
      save_every: steps between checkpoints; the last is always saved.
      report_every: steps between metrics.
      report: called with each reported step's metrics.
      at_once: steps that a call takes; what is saved or reported in between is so after them.
      score: called with what is about to be saved; the `keep_best` checkpoints of highest score are kept besides.
      keep: how many of the last checkpoints are kept.
      keep_best: how many of the best.
      loss_limit: a metric whose name begins with `loss` has diverged beyond this.
      hang_seconds: end the process, with `watchdog.EXIT_CODE`, if no step finishes for so long (ten times as long
        for the first, which compiles); by default 600 in a run of several processes, else never.

    Raises:
      Diverged: a metric is not finite, a loss beyond the limit, or what is about to be saved has gained values that are
        not finite; the last checkpoint is from before.
      Interrupted: on SIGTERM or Ctrl-C, after saving; a second Ctrl-C does not wait for it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    together = jax.process_count() > 1
    if together and hang_seconds is None:
        hang_seconds = 600.0
    with (
        Watchdog(hang_seconds) as watchdog,
        Checkpoints(folder / 'checkpoints', keep=keep, keep_best=keep_best) as checkpoints,
        stop_signals(listen=not together) as stopping,
        _Recorder(folder, num_steps, batch, report, loss_limit) as recorder,
    ):
        start = 0
        if checkpoints.any():
            carry, meta = checkpoints.restore(carry)
            start = meta['step']
        recorder.begin(start)
        unfinite = _unfinite(carry)
        pending: tuple[int, Any] | None = None
        for first in range(start, num_steps, at_once):
            done = min(first + at_once, num_steps)
            try:
                carry, metrics = step(carry, first)
                if first == start:
                    recorder.start_clock(done, metrics)
                if pending is not None:
                    recorder.emit(*pending, checkpoints.latest_step)
                    pending = None
                stop = stopping.is_set() or checkpoints.preempted(done)
                if stop or _passed(first, done, save_every) or done == num_steps:
                    # Checked before it is saved, so that the last checkpoint is always a good one.
                    recorder.emit(done, metrics, checkpoints.latest_step)
                    held = jax.device_get(carry)
                    if _unfinite(held) > unfinite:
                        raise Diverged(_diverged('the state is not finite', done, checkpoints.latest_step))
                    checkpoints.save(done, held, {'step': done}, score(carry) if score else None)
                elif _passed(first, done, report_every):
                    pending = (done, metrics)
            except jax.errors.JaxRuntimeError as error:
                if together:
                    end(f'a peer was lost at step {done}; {_advice(checkpoints.latest_step)} ({error})')
                raise
            watchdog.beat(_advice(checkpoints.latest_step))
            if stop and done < num_steps:
                raise Interrupted(f'stopped after step {done}, saved; the same command goes on from there')
    return carry


def _passed(first: int, done: int, every: int) -> bool:
    """Return whether steps after the first, up to those done, have a multiple."""
    return done // every > first // every


def _advice(saved: int | None) -> str:
    return f'the last checkpoint is of step {saved or 0}: start all processes again to continue from it'


def _diverged(what: str, step: int, saved: int | None) -> str:
    return (
        f'{what} at step {step}; the last good checkpoint is of step {saved or 0}. '
        'Try a lower learning rate, a longer warm-up, or gradient clipping.'
    )


def _unfinite(tree: Any) -> int:
    """Count values that are not finite; some may be meant so from the start, such as scores of absent choices."""
    floats = [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(leaf.size - int(np.isfinite(leaf).sum()) for leaf in floats)


class _Recorder:
    """Writes metrics, and raises where they have diverged; only the first process of a run writes."""

    def __init__(
        self,
        folder: Path,
        num_steps: int,
        batch: int,
        report: Callable[[Progress], None],
        limit: float,
    ) -> None:
        self._folder, self._num_steps, self._batch = folder, num_steps, batch
        self._report, self._limit = report, limit
        self._writes = jax.process_index() == 0
        self._events: Any = None

    def __enter__(self) -> '_Recorder':
        return self

    def __exit__(self, *_: Any) -> None:
        if self._events is not None:
            self._events.close()

    def begin(self, start: int) -> None:
        """Open the files, without what an earlier run wrote after the step that this one starts from."""
        if not self._writes:
            return
        path = self._folder / 'metrics.jsonl'
        if path.exists():
            partial = path.with_name(path.name + '.partial')
            partial.write_text(''.join(_lines_until(path, start)))
            os.replace(partial, path)
        self._events = _event_writer(self._folder / 'tensorboard', start)

    def start_clock(self, step: int, metrics: Any) -> None:
        """Count images from the end of this step, the first, which compiled."""
        jax.block_until_ready(metrics)
        self._start, self._began = step, time.perf_counter()

    def emit(self, step: int, metrics: Any, saved: int | None) -> None:
        values = {name: float(value) for name, value in metrics._asdict().items()}
        rate = self._batch * (step - self._start) / (time.perf_counter() - self._began)
        if self._writes:
            with (self._folder / 'metrics.jsonl').open('a') as file:
                file.write(json.dumps({'step': step, 'images_per_second': round(rate, 1), **values}) + '\n')
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f'train/{name}', value, step)
        for name, value in values.items():
            if not math.isfinite(value) or (name.startswith('loss') and value > self._limit):
                raise Diverged(_diverged(f'{name} is {value}', step, saved))
        self._report(Progress(step, self._num_steps, rate, values))


def _lines_until(path: Path, step: int) -> Iterator[str]:
    """Yield a file's lines up to a step, less a last one whose writing was cut off; a damaged line is left out."""
    for number, line in enumerate(records.read(path).splitlines(keepends=True), 1):
        if not line.endswith(b'\n'):
            return
        try:
            if records.parse(line, finite=False)['step'] <= step:
                yield line.decode()
        except (ValueError, TypeError, KeyError):
            warnings.warn(f'{path}, line {number} is damaged and left out: {line[:60]!r}', stacklevel=2)


def _event_writer(folder: Path, start: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)


@contextmanager
def stop_signals(listen: bool) -> Iterator[threading.Event]:
    """Note SIGTERM and Ctrl-C instead of dying of them, where this thread may; a second Ctrl-C is not only noted.

    JAX itself listens in a distributed run. What a process was started to ignore, as those in the background are, it
    still ignores.
    """
    stopping = threading.Event()
    if not listen or threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: Any) -> None:
        stopping.set()
        if number == signal.SIGINT:
            signal.signal(number, previous[signal.SIGINT])

    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
