"""The order in which training visits examples, and batches made ready before they are asked for."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jcw.data.examples import Examples, Source
from jcw.data.streaming import Streamed


def batch_rows(step: int, examples: int, batch: int, seed: int) -> np.ndarray:
    """Return the rows of the batch at `step`: a pure function, so that a step number is the whole data position.

    Every epoch visits a new permutation; its last examples that do not fill a batch wait for another epoch.

    Raises:
      ValueError: a batch larger than the set.
    """
    if not 0 < batch <= examples:
        raise ValueError(f'batch must be between 1 and the {examples} training examples, got {batch}')
    epoch, position = divmod(step, examples // batch)
    order = _permutation(examples, seed, epoch)
    return order[position * batch : (position + 1) * batch]


@functools.lru_cache(maxsize=2)
def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return an epoch's order; kept, since a large set takes longer to shuffle than a step may wait."""
    order = np.random.default_rng([seed, epoch]).permutation(examples)
    order.flags.writeable = False
    return order


def share_of(batch: int, process: int, processes: int) -> slice:
    """Return which positions of a batch belong to a process: an even part, in the order of processes.

    Raises:
      ValueError: the batch does not divide.
    """
    if batch % processes:
        raise ValueError(f'a batch of {batch} does not divide by {processes} processes')
    size = batch // processes
    return slice(size * process, size * (process + 1))


def in_chunks(source: Source, size: int = 5000) -> Iterator[Examples]:
    """Yield all examples in their order, few enough at a time for memory where they are streamed."""
    for start in range(0, len(source), size):
        yield source.take(slice(start, start + size))


class Batches:
    """A process's part of the batch of any step: `batches(step)`; a context, which ends its threads.

    From memory it is taken at once. Streamed images are decoded by threads (Grain's, extra `grain`) ahead of the
    step, in the order of steps; asked for another step than the next, they begin anew from there. So nothing but the
    step needs to be kept to go on.

    Args:
      source: training examples.
      batch: examples per step, of all processes together.
      seed: of the order, and of random crops where images are streamed.
      share: positions of a batch that are this process's; by default all.
      threads: that decode.
      ahead: batches that they may be ahead.
    """

    def __init__(
        self,
        source: Source,
        batch: int,
        seed: int,
        *,
        share: slice = slice(None),
        threads: int = 16,
        ahead: int = 2,
    ) -> None:
        self._source, self._batch, self._seed, self._share = source, batch, seed, share
        self._threads, self._ahead = threads, ahead
        self._coming: Any = None  # Grain's iterator, whose `close` ends its threads
        self._next = -1

    def __enter__(self) -> 'Batches':
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, step: int) -> Examples:
        if not isinstance(self._source, Streamed):
            return self._source.take(self._rows(step))
        if self._coming is None or step != self._next:
            self._stop()
            self._coming = self._stream(self._source, step)
        self._next = step + 1
        return next(self._coming)

    def _rows(self, step: int) -> np.ndarray:
        return batch_rows(step, len(self._source), self._batch, self._seed)[self._share]

    def _stream(self, source: Streamed, first: int) -> Any:
        try:
            import grain
        except ImportError as error:
            raise ValueError('streaming needs Grain: pip install grain') from error
        size = len(self._rows(first))

        def example(index: int) -> tuple[np.ndarray, int]:
            step, position = divmod(index, size)
            return source.cropped(int(self._rows(step)[position]), (self._seed, step))

        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._ahead * size)
        numbers = grain.MapDataset.range(first * size, 2**62)
        return iter(numbers.map(example).to_iter_dataset(options).batch(size, batch_fn=_stack))

    def _stop(self) -> None:
        if self._coming is not None:
            self._coming.close()
            self._coming = None


def _stack(examples: list[tuple[np.ndarray, int]]) -> Examples:
    images, labels = zip(*examples, strict=True)
    return Examples(np.stack(images), np.array(labels, np.int32))
