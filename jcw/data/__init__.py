"""Image classification sets, in memory or decoded as they are needed, and the order in which training visits them."""

from jcw.data.batches import Batches, batch_rows, in_chunks, share_of
from jcw.data.examples import Dataset, Examples, Source
from jcw.data.sets import VALIDATION_FRACTION, load
from jcw.data.streaming import Streamed

__all__ = [
    'VALIDATION_FRACTION',
    'Batches',
    'Dataset',
    'Examples',
    'Source',
    'Streamed',
    'batch_rows',
    'in_chunks',
    'load',
    'share_of',
]
