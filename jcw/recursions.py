"""Recursions over a field: the best configuration, the sum over all of them, marginals and samples.

Every reduction here is one recursion over the field's trellis, linear in the sites (`jcw.trellis`): a maximum on a
chain is Viterbi's (1967). Each works on one field; `vmap` over the leaves for a batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt32

from jcw.field import Field
from jcw.trellis import Steps, Trellis, advance, arrange, gain, of, onward, places_of

Scalar = Float[Array, ''] | Float[np.ndarray, ''] | float
PRNGKey = Key[Array, ''] | UInt32[Array, '2']


def max_sum(field: Field) -> tuple[Float[Array, ''], Int[Array, ' sites']]:
    """Find the configuration of highest score and that score.

    Where several are best, it is the first of them in the order of the trellis: its smaller choice wins a tie.
    """
    way = of(field)
    steps = arrange(_arrays(field), way)
    state = (field.unary.shape[1],) * way.num_slots
    best, pointers = lax.scan(
        _step(_max, way.kinds), jnp.zeros(state, steps.unary.dtype), (*steps, way.slots), reverse=True
    )
    return best[way.start], follow(way, pointers)


def log_partition(field: Field, temperature: Scalar = 1.0) -> Float[Array, '']:
    """Return `log sum_x exp(score(x) / temperature)`; -inf where every configuration is forbidden."""
    field, offset = _tempered(field, temperature)
    way = of(field)
    return _log_partition(arrange(field, way), way) + offset


def marginals(field: Field, temperature: Scalar = 1.0) -> Float[Array, 'sites choices']:
    """Return the probability of each choice under `p(x) ~ exp(score(x) / temperature)`.

    It is the gradient of the log-partition in the unary potentials, all of them from one backward pass.
    """
    way, slopes = _slopes(field, temperature)
    return slopes.unary[way.position]


def pair_marginals(field: Field, temperature: Scalar = 1.0) -> Float[Array, 'factors choices choices']:
    """Return the joint probability of the choices of each factor's sites; see `marginals`."""
    way, slopes = _slopes(field, temperature)
    places = places_of(field.scopes, way)
    steps, slots, flipped = (np.array(column) for column in zip(*places, strict=True)) if places else [[]] * 3
    joint = slopes.pairs[np.array(steps, int), np.array(slots, int)] if places else jnp.asarray(field.tables)
    return jnp.where(np.array(flipped, bool)[:, None, None], joint.swapaxes(1, 2), joint)


def sample(key: PRNGKey, field: Field, temperature: Scalar = 1.0) -> Int[Array, ' sites']:
    """Draw one configuration from `p(x) ~ exp(score(x) / temperature)`: filter backwards, sample forwards."""
    field, _ = _tempered(field, temperature)
    way = of(field)
    _, totals = _filter(arrange(field, way), way)
    keys = jax.random.split(key, len(way.order))
    _, choices = lax.scan(_draw, way.start, (keys, totals, way.slots))
    return choices[way.position]


# Steps are functions of the module or kept, not closures: without jit, JAX then finds them compiled from the last call.


@functools.cache
def _step(reduce, kinds):
    """Return one step of the recursion, from later to earlier."""

    def step(carry, row):
        unary, pairs, slot = row
        return reduce(carry, lambda value: gain(unary, pairs) + onward(value, slot, kinds))

    return step


def _max(value, through):
    total = through(value)
    return total.max(0), total.argmax(0).astype(jnp.int32)


def _log_sum(carry, through):
    """Keep the greatest value near 0 and the rest in an offset: rounding is that of differences, not of sums."""
    value, offset = carry
    top = _finite(value.max())
    total = through(value - top)
    return (_logsumexp(total), offset + top), total


def follow(way: Trellis, pointers: Int[Array, ' steps *state']) -> Int[Array, ' sites']:
    """Read a configuration off the choices to take in each state."""
    return lax.scan(_follow, way.start, (pointers, way.slots))[1][way.position]


def _follow(state, row):
    pointer, slot = row
    choice = pointer[state]
    return advance(state, choice, slot), choice


def _draw(state, row):
    key, total, slot = row
    choice = jax.random.categorical(key, total[(slice(None), *state)]).astype(jnp.int32)
    return advance(state, choice, slot), choice


def _filter(steps: Steps, way: Trellis):
    """Return the log-sums of all ways on from the start, and the totals of every step, [steps choices *state]."""
    nothing = jnp.zeros((steps.unary.shape[1],) * way.num_slots, steps.unary.dtype)
    start = nothing, jnp.zeros((), steps.unary.dtype)
    return lax.scan(_step(_log_sum, way.kinds), start, (*steps, way.slots), reverse=True)


def _log_partition(steps: Steps, way: Trellis) -> Float[Array, '']:
    (value, offset), _ = _filter(steps, way)
    return value[way.start] + offset


def _slopes(field: Field, temperature: Scalar) -> tuple[Trellis, Steps]:
    field, _ = _tempered(field, temperature)
    way = of(field)
    return way, jax.grad(_log_partition)(arrange(field, way), way)


def _logsumexp(values):
    """Reduce the first axis; a column of -inf gives -inf, and a gradient of zero instead of NaN."""
    top = _finite(values.max(0))
    total = jnp.exp(values - top).sum(0)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)) + top, -jnp.inf)


def _finite(top):
    """Make a maximum safe to subtract; what is subtracted is added again, so it needs no gradient."""
    return lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))


def _tempered(field: Field, temperature: Scalar) -> tuple[Field, Float[Array, '']]:
    """Move each table's best potential to 0, then divide by the temperature; return the moved sum beside it.

    In this order two choices that differ by little still do so at a temperature of 1e-6.
    """
    field = _arrays(field)
    tops = jax.tree.map(lambda leaf: _finite(leaf.max(tuple(range(1, leaf.ndim)), keepdims=True)), field)

    def divided(leaf, top):
        present = jnp.isfinite(leaf)  # so that a gradient in the temperature is not 0 * inf
        return jnp.where(present, jnp.where(present, leaf - top, 0) / temperature, leaf)

    total = sum(top.sum() for top in jax.tree.leaves(tops))
    return jax.tree.map(divided, field, tops), total / temperature


def _arrays(field: Field) -> Field:
    for name in ('unary', 'tables'):
        if np.issubdtype(jnp.result_type(getattr(field, name)), np.complexfloating):
            raise ValueError(f'potentials must be real numbers, got complex {name}')
    return jax.tree.map(jnp.asarray, field)
