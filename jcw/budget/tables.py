"""The chain as one table a layer: what entering each choice from each choice before it gains and spends."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.mrf import ChainMRF


class Tables(NamedTuple):
    """Gains and spends by (layer, choice before, choice); all rows of the first layer are alike.

    Attributes:
      gain: [layers choices choices], -inf where a choice is absent or a pair forbidden.
      spend: [costs layers choices choices], 0 where `gain` is -inf.
    """

    gain: Float[Array, 'layers choices choices']
    spend: Float[Array, 'costs layers choices choices']


def tabulate(utility: ChainMRF, costs: tuple[ChainMRF, ...]) -> Tables:
    """Merge unary and pairwise potentials; a cost of +inf forbids, costs of what is absent are ignored."""
    gain = _merge(utility)
    absent = jnp.isneginf(utility.unary)
    before = jnp.concatenate([jnp.zeros_like(absent[:1]), absent[:-1]])
    spend = jnp.stack([_merge(cost) for cost in costs])
    forbidden = jnp.isneginf(gain) | before[:, :, None] | (jnp.isposinf(spend) & ~absent[:, None, :]).any(0)
    return Tables(jnp.where(forbidden, -jnp.inf, gain), jnp.where(forbidden, 0, spend))


def evaluate(
    field: ChainMRF, choices: Int[np.ndarray, 'configurations layers']
) -> Float[np.ndarray, ' configurations']:
    """Sum the potentials of configurations on the host, in the fields' own precision."""
    layers, edges = np.arange(choices.shape[1]), np.arange(choices.shape[1] - 1)
    pairs = field.pairwise[edges, choices[:, :-1], choices[:, 1:]]
    return np.asarray(field.unary[layers, choices].sum(1) + pairs.sum(1))


def _merge(field: ChainMRF) -> Float[Array, 'layers choices choices']:
    first = jnp.broadcast_to(field.unary[:1, None, :], (1, *field.pairwise.shape[1:]))
    return jnp.concatenate([first, field.unary[1:, None, :] + field.pairwise])
