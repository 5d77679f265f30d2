"""Markov random fields on a chain: the best configuration, the sum over all of them, marginals and samples.

A configuration takes one choice per layer and its score is a sum of potentials,

    score(x) = sum_l unary[l, x_l] + sum_e pairwise[e, x_e, x_{e+1}].

Every reduction below is one recursion along the chain, linear in layers and quadratic in choices. Each works
on one field; `vmap` over the leaves for a batch. Layers with fewer choices are padded (`pad`).
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt32

Potential = Float[Array, '...'] | Float[np.ndarray, '...']
Scalar = Float[Array, ''] | Float[np.ndarray, ''] | float
Choices = Int[Array, ' layers'] | Int[np.ndarray, ' layers']
PRNGKey = Key[Array, ''] | UInt32[Array, '2']


class ChainMRF(NamedTuple):
    """Potentials of a chain, maximised.

    Attributes:
      unary: [layers choices], -inf where a layer has no such choice.
      pairwise: [edges choices choices] of successive layers, the earlier layer's choice first; 0 at absent
        choices; -inf forbids a pair.
    """

    unary: Potential
    pairwise: Potential


def pad(
    unary: Sequence[Float[np.ndarray, ' _']], pairwise: Sequence[Float[np.ndarray, '_ _']] | None = None
) -> ChainMRF:
    """Build a field from layers with different numbers of choices; without `pairwise` they are independent.

    Raises:
      ValueError: a pairwise potential does not fit its two layers.
    """
    sizes = [len(row) for row in unary]
    edges = list(itertools.pairwise(sizes))
    tables = [np.zeros(shape) for shape in edges] if pairwise is None else pairwise
    shapes = [np.shape(table) for table in tables]
    if shapes != edges:
        raise ValueError(
            f'layers of {sizes} choices need pairwise potentials of shapes {edges}, got {shapes}'
        )
    most = max(sizes)
    field = ChainMRF(np.full((len(sizes), most), -np.inf), np.zeros((len(edges), most, most)))
    for layer, row in enumerate(unary):
        field.unary[layer, : sizes[layer]] = row
    for edge, table in enumerate(tables):
        field.pairwise[edge, : sizes[edge], : sizes[edge + 1]] = table
    return field


def add(*fields: ChainMRF) -> ChainMRF:
    """Add the potentials of fields of one shape, as a utility and its constraints."""
    return ChainMRF(*(sum(leaves[1:], start=leaves[0]) for leaves in zip(*fields, strict=True)))


def score(mrf: ChainMRF, choices: Choices) -> Float[Array, '']:
    """Sum the potentials of one configuration."""
    unary, pairwise = _arrays(mrf)
    layers, edges = np.arange(unary.shape[0]), np.arange(pairwise.shape[0])
    return unary[layers, choices].sum() + pairwise[edges, choices[:-1], choices[1:]].sum()


def max_sum(mrf: ChainMRF) -> tuple[Float[Array, ''], Int[Array, ' layers']]:
    """Find the configuration of highest score and that score; the smaller choice wins a tie (Viterbi, 1967).

    `best_l(i) = max_j pairwise[l, i, j] + unary[l+1, j] + best_{l+1}(j)` runs from the last layer to the
    first and keeps the maximising `j`; the choices are then read off forwards.
    """
    unary, pairwise = _arrays(mrf)
    best, pointers = lax.scan(_best_onward, jnp.zeros_like(unary[0]), (unary[1:], pairwise), reverse=True)
    first = unary[0] + best
    start = first.argmax().astype(jnp.int32)
    _, rest = lax.scan(_follow, start, pointers)
    return first.max(), jnp.concatenate([start[None], rest])


def log_partition(mrf: ChainMRF, temperature: Scalar = 1.0) -> Float[Array, '']:
    """Return `log sum_x exp(score(x) / temperature)`; -inf where every configuration is forbidden."""
    field, offset = _tempered(mrf, temperature)
    return _log_partition(field) + offset


def marginals(mrf: ChainMRF, temperature: Scalar = 1.0) -> Float[Array, 'layers choices']:
    """Return the probability of each choice under `p(x) ~ exp(score(x) / temperature)`.

    It is the gradient of the log-partition in the unary potentials, all of them from one backward pass.
    """
    return jax.grad(_log_partition)(_tempered(mrf, temperature)[0]).unary


def pair_marginals(mrf: ChainMRF, temperature: Scalar = 1.0) -> Float[Array, 'edges choices choices']:
    """Return the joint probability of the choices of successive layers; see `marginals`."""
    return jax.grad(_log_partition)(_tempered(mrf, temperature)[0]).pairwise


def sample(key: PRNGKey, mrf: ChainMRF, temperature: Scalar = 1.0) -> Int[Array, ' layers']:
    """Draw one configuration from `p(x) ~ exp(score(x) / temperature)`: filter forwards, sample backwards."""
    (unary, pairwise), _ = _tempered(mrf, temperature)
    (last, _), filtered = lax.scan(_filter, (unary[0], jnp.zeros_like(unary[0, 0])), (unary[1:], pairwise))
    keys = jax.random.split(key, unary.shape[0])
    final = jax.random.categorical(keys[-1], last).astype(jnp.int32)
    _, rest = lax.scan(_draw_previous, final, (keys[:-1], filtered, pairwise), reverse=True)
    return jnp.concatenate([rest, final[None]])


# Steps are functions of the module, not closures: without jit, JAX then finds them compiled from the last call.


def _best_onward(best, potentials):
    onward, table = potentials
    value = table + (onward + best)[None, :]
    return value.max(1), value.argmax(1).astype(jnp.int32)


def _follow(choice, pointer):
    following = pointer[choice]
    return following, following


def _draw_previous(choice, step):
    key, reached, table = step
    previous = jax.random.categorical(key, reached + table[:, choice]).astype(jnp.int32)
    return previous, previous


def _log_partition(mrf: ChainMRF) -> Float[Array, '']:
    start = mrf.unary[0], jnp.zeros_like(mrf.unary[0, 0])
    (last, offset), _ = lax.scan(_filter, start, (mrf.unary[1:], mrf.pairwise))
    return _logsumexp(last) + offset


def _filter(carry, potentials):
    """Move the log-sum over all prefixes ending in each choice one layer on; also return where it came from.

    The greatest is kept near 0 and the rest in `offset`: rounding is that of differences, not of sums.
    """
    reached, offset = carry
    unary, table = potentials
    top = _finite(reached.max())
    reached = reached - top
    return (unary + _logsumexp(reached[:, None] + table), offset + top), reached


def _logsumexp(values):
    """Reduce the first axis; a column of -inf gives -inf, and a gradient of zero instead of NaN."""
    top = _finite(values.max(0))
    total = jnp.exp(values - top).sum(0)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)) + top, -jnp.inf)


def _finite(top):
    """Make a maximum safe to subtract; what is subtracted is added again, so it needs no gradient."""
    return lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))


def _tempered(mrf: ChainMRF, temperature: Scalar) -> tuple[ChainMRF, Float[Array, '']]:
    """Move each table's best potential to 0, then divide by the temperature; return the moved sum beside it.

    In this order two choices that differ by little still do so at a temperature of 1e-6.
    """
    unary, pairwise = _arrays(mrf)
    unary_top, pairwise_top = _finite(unary.max(1)), _finite(pairwise.max((1, 2)))
    field = ChainMRF(unary - unary_top[:, None], pairwise - pairwise_top[:, None, None])
    present = jax.tree.map(jnp.isfinite, field)  # so that a gradient in the temperature is not 0 * inf
    field = jax.tree.map(
        lambda leaf, ok: jnp.where(ok, jnp.where(ok, leaf, 0) / temperature, leaf), field, present
    )
    return field, (unary_top.sum() + pairwise_top.sum()) / temperature


def _arrays(mrf: ChainMRF) -> tuple[Float[Array, 'layers choices'], Float[Array, 'edges choices choices']]:
    return jnp.asarray(mrf.unary), jnp.asarray(mrf.pairwise)
