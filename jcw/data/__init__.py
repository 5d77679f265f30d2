"""Image classification sets, in memory or decoded as they are needed, and the order in which training visits them."""

from jcw.data.batches import Batches, batch_rows, in_chunks, share_of
from jcw.data.checks import Check, check
from jcw.data.examples import Dataset, Examples, Source
from jcw.data.sets import VALIDATION_FRACTION, Outline, load, outline
from jcw.data.streaming import Streamed

__all__ = [
    'VALIDATION_FRACTION',
    'Batches',
    'Check',
    'Dataset',
    'Examples',
    'Outline',
    'Source',
    'Streamed',
    'batch_rows',
    'check',
    'in_chunks',
    'load',
    'outline',
    'share_of',
]
