"""What users ask of configurations, as potentials of 0 and -inf: `mrf.add` them to a utility.

`widths` are those of a search space's `width_table`, [layers choices] with 0 where a layer has fewer choices.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from jcw.mrf import ChainMRF

Widths = Int[np.ndarray, 'layers choices']


def multiples_of(widths: Widths, divisor: int) -> ChainMRF:
    """Allow only widths that are multiples of `divisor`, such as 8, 16 or 32.

    Raises:
      ValueError: a layer has none.
    """
    if divisor < 1:
        raise ValueError(f'divisor must be positive, got {divisor}')
    return _allow(widths, widths % divisor == 0, f'a multiple of {divisor}')


def at_least(widths: Widths, least: int | Int[np.ndarray, '...']) -> ChainMRF:
    """Allow only widths of `least` channels or more, one number for all layers or one each.

    Raises:
      ValueError: a layer has none, or `least` does not fit the layers.
    """
    if np.shape(least) not in ((), widths.shape[:1]):
        raise ValueError(f'least must be a number or {len(widths)} of them, got shape {np.shape(least)}')
    return _allow(widths, widths >= np.reshape(least, (-1, 1)), f'at least {least}')


def fixed(widths: Widths, layers: Mapping[int, int]) -> ChainMRF:
    """Give each layer in `layers` the width stated there.

    Raises:
      ValueError: there is no such layer, or it has no such width.
    """
    allowed = np.ones(widths.shape, bool)
    for layer, width in layers.items():
        if not 0 <= layer < len(widths):
            raise ValueError(f'layer must be from 0 to {len(widths) - 1}, got {layer}')
        allowed[layer] = widths[layer] == width
    return _allow(widths, allowed, f'among the fixed widths {dict(layers)}')


def non_decreasing(widths: Widths) -> ChainMRF:
    """Allow no layer to be narrower than the one before it."""
    return _allow_pairs(widths, widths[:-1, :, None] <= widths[1:, None, :])


def tied(widths: Widths, edges: list[int] | Int[np.ndarray, ' edges']) -> ChainMRF:
    """Give layers `e` and `e + 1` the same width, for each `e` in `edges`.

    Raises:
      ValueError: there is no such pair of layers, or it has no width in common.
    """
    allowed = np.ones((len(widths) - 1, *widths.shape[1:] * 2), bool)
    for edge in edges:
        if not 0 <= edge < len(allowed):
            raise ValueError(f'edges must be from 0 to {len(allowed) - 1}, got {edge}')
        allowed[edge] = widths[edge][:, None] == widths[edge + 1][None, :]
        if not allowed[edge][widths[edge] > 0].any():
            raise ValueError(f'layers {edge} and {edge + 1} have no width in common')
    return _allow_pairs(widths, allowed)


def no_part_above(cost: ChainMRF, limit: float) -> ChainMRF:
    """Allow only configurations none of whose single costs exceeds a limit: a maximum in place of a sum.

    Peak activation memory is such a cost: `no_part_above(activations_table(space).to_cost(), numbers)`.

    Raises:
      ValueError: a layer, or a pair of layers, has no part within the limit; it says the least that would do.
    """
    unary, pairwise = (np.asarray(leaf, np.float64) for leaf in cost)
    absent = np.isneginf(unary)
    beside = absent[:-1, :, None] | absent[1:, None, :]
    least = max(
        np.where(absent, np.inf, unary).min(1).max(),
        np.where(beside, np.inf, pairwise).min((1, 2)).max(initial=-np.inf),
    )
    if not limit >= least:
        raise ValueError(f'some layer has nothing within {limit:g}: the limit must be at least {least:g}')
    return ChainMRF(_potential((unary <= limit) | absent), _potential((pairwise <= limit) | beside))


def _allow(widths: Widths, allowed: Bool[np.ndarray, 'layers choices'], what: str) -> ChainMRF:
    present = widths > 0
    none = ~(allowed & present).any(1)
    if none.any():
        layer = int(none.argmax())
        raise ValueError(f'no width of layer {layer} is {what}: {widths[layer][present[layer]].tolist()}')
    pairwise = np.zeros((len(widths) - 1, *widths.shape[1:] * 2))
    return ChainMRF(_potential(allowed | ~present), pairwise)


def _allow_pairs(widths: Widths, allowed: Bool[np.ndarray, 'edges choices choices']) -> ChainMRF:
    present = (widths[:-1, :, None] > 0) & (widths[1:, None, :] > 0)
    return ChainMRF(np.zeros(widths.shape), _potential(allowed | ~present))


def _potential(allowed: Bool[np.ndarray, '...']) -> Float[np.ndarray, '...']:
    return np.where(allowed, 0.0, -np.inf)
