"""How examples are split: every class keeps its share of each part."""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def even_order(
    labels: Int[np.ndarray, ' examples'], rng: np.random.Generator
) -> Int[np.ndarray, ' examples']:
    """Return a random order every beginning of which holds of each class its share, to within two examples.

    The examples of a class of n stand, in random order, at (0 + u) / n, (1 + u) / n, ..., u uniform in [0, 1); the only
    example of a class stands last.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        place[own] = (np.arange(len(own)) + rng.random()) / len(own) if len(own) > 1 else 1.0
    return np.argsort(place, kind='stable')


def split(labels: Int[np.ndarray, ' examples'], fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a part, of at least one example, and those of the rest, each in an even order.

    Raises:
      ValueError: nothing is left for the rest.
    """
    rng = np.random.default_rng(seed)
    held = max(1, round(fraction * len(labels)))
    if held >= len(labels):
        raise ValueError(f'{len(labels)} images cannot be split: {held} set aside leave none for training')
    order = even_order(labels, rng)
    rest = order[held:]
    return order[:held], rest[even_order(labels[rest], rng)]


def name_missing(part: str, labels: Int[np.ndarray, ' examples'], class_names: Sequence[str]) -> None:
    """Warn of classes of which a part has no image."""
    missing = [name for label, name in enumerate(class_names) if not (labels == label).any()]
    if missing:
        more = f' and {len(missing) - 5} more' if len(missing) > 5 else ''
        warnings.warn(f'no {part} image of {", ".join(missing[:5])}{more}', stacklevel=3)
