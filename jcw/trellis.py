"""Recursions over a field: the best configuration, the sum over all of them, marginals and samples.

A trellis takes the sites of a field one a step. A state is the choices of the sites that later factors still need, and

    V_t(state) = reduce_choice gain_t(choice, state) + V_{t+1}(next_t(choice, state)),

where `gain_t` sums the potentials that step `t` completes and `reduce` is a maximum or a log-sum of exponentials.
On a chain the state is the last choice (Viterbi, 1967). Every reduction below is one such recursion, linear in the
sites. Each works on one field; `vmap` over the leaves for a batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key, Shaped, UInt32

from jcw.field import Field, Scopes, check_scopes
from jcw.order import find_order, frontier, neighbours, widest_frontier

MOST_REMEMBERED = 2

Scalar = Float[Array, ''] | Float[np.ndarray, ''] | float
PRNGKey = Key[Array, ''] | UInt32[Array, '2']


@dataclasses.dataclass(frozen=True)
class Trellis:
    """The order of the sites and what is remembered. A state has slots, each of which holds one site's choice.

    Attributes:
      order: the site of each step.
      held: for each step and once more at the end, the site that each slot holds before it, -1 for none.
      slot: where each step puts its choice; -1 where no slot is free and no later step needs it.
    """

    order: tuple[int, ...]
    held: tuple[tuple[int, ...], ...]
    slot: tuple[int, ...]

    @property
    def num_slots(self) -> int:
        """Return how many sites are remembered at most."""
        return len(self.held[0])

    @property
    def remembered(self) -> tuple[tuple[int, ...], ...]:
        """Return the sites remembered before each step."""
        return tuple(tuple(site for site in row if site >= 0) for row in self.held[:-1])

    @property
    def kinds(self) -> tuple[int, ...]:
        """Return which slots occur in `slot`."""
        return tuple(sorted(set(self.slot)))

    @property
    def slots(self) -> Int[np.ndarray, ' steps']:
        """Return `slot` as an array, a row of every step."""
        return np.array(self.slot, np.int32)

    @property
    def start(self) -> tuple[Int[Array, ''], ...]:
        """Return the state before the first step."""
        return (jnp.zeros((), jnp.int32),) * self.num_slots

    @property
    def position(self) -> Int[np.ndarray, ' sites']:
        """Return the step of each site."""
        return np.argsort(self.order).astype(np.int32)


class Steps(NamedTuple):
    """A field's potentials, step by step.

    Attributes:
      unary: potentials of a step's own choice.
      pairs: potentials with the choice in each slot, the step's own choice first.
    """

    unary: Float[Array, 'steps choices']
    pairs: Float[Array, 'steps slots choices choices']


def trellis(scopes: Scopes, num_sites: int, names: Sequence[str] | None = None) -> Trellis:
    """Order the sites of a graph so that at most two are remembered at any step; as few as can be.

    Raises:
      ValueError: more would have to be remembered; it says which sites, by `names` where they are given.
    """
    check_scopes(scopes, num_sites)
    found = _trellis(tuple(scopes), num_sites)
    if found is None:
        sites = widest_frontier(scopes, num_sites, MOST_REMEMBERED)
        shown = ', '.join(names[site] if names else str(site) for site in sites)
        raise ValueError(
            f'the graph needs more than {MOST_REMEMBERED} sites remembered at once: in the best order found, '
            f'sites {shown}. Give some of them one width, or leave out factors between them'
        )
    return found


def of(field: Field) -> Trellis:
    """Return the trellis of a field's graph."""
    return trellis(field.scopes, np.shape(field.unary)[0])


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
    places = _places(field.scopes, way)
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


def arrange(field: Field, way: Trellis) -> Steps:
    """Lay a field's potentials out by the steps of a trellis of its graph, or of a graph that contains it."""
    unary, tables = field.unary, field.tables
    choices, slots = unary.shape[1], way.num_slots
    order = np.array(way.order, np.int32)
    unary = unary if (order == np.arange(len(order))).all() else unary[order]
    both = jnp.concatenate([tables, tables.swapaxes(1, 2), jnp.zeros((1, choices, choices), tables.dtype)])
    rows = [both[index] for index in _cells(field.scopes, way)]  # [steps * slots choices choices] each
    return Steps(unary, sum(rows[1:], start=rows[0]).reshape(len(order), slots, choices, choices))


def gain(
    unary: Shaped[Array, ' choices'], pairs: Shaped[Array, 'slots choices choices']
) -> Shaped[Array, ' choices *state']:
    """Sum the potentials that one step completes."""
    slots, choices = pairs.shape[:2]
    total = unary.reshape(-1, *[1] * slots)
    for slot, table in enumerate(pairs):
        total = total + table.reshape(-1, *(choices if other == slot else 1 for other in range(slots)))
    return total


def onward(value: Array, slot: Int[Array, ''], kinds: tuple[int, ...]) -> Array:
    """Look up the value of the next state by choice and state, [*state rest] -> [choices *state rest] or 1 for some.

    No gather is needed: a choice that goes to a slot exchanges its axis for a new one, and another adds an axis.
    """

    def look(kind):
        return value[None] if kind < 0 else jnp.expand_dims(jnp.moveaxis(value, kind, 0), kind + 1)

    return _of_kind(look, slot, kinds)


def onward_at(value: Array, choice: Int[Array, ''], slot: Int[Array, ''], kinds: tuple[int, ...]) -> Array:
    """Look up the value of the next state for one choice, [*state rest] -> [*state rest] or 1 for some."""
    return _of_kind(
        lambda kind: value if kind < 0 else lax.dynamic_index_in_dim(value, choice, kind), slot, kinds
    )


def onward_from(
    value: Array, state: tuple[Array, ...], slot: Int[Array, ''], kinds: tuple[int, ...]
) -> Array:
    """Look up the value of the next state for some states, [*state rest] -> [choices states rest] or 1 for some."""

    def look(kind):
        if kind < 0:
            return value[state][None]
        others = state[:kind] + state[kind + 1 :]
        moved = jnp.moveaxis(value, kind, 0)
        return moved[(slice(None), *others)] if others else moved[:, None]

    return _of_kind(look, slot, kinds)


def advance(state: tuple[Array, ...], choice: Array, slot: Int[Array, '']) -> tuple[Array, ...]:
    """Return the next state."""
    return tuple(jnp.where(slot == place, choice, held) for place, held in enumerate(state))


def _of_kind(look: Callable[[int], Array], slot: Int[Array, ''], kinds: tuple[int, ...]) -> Array:
    """Return what `look` finds where the step's choice goes; kinds that no step has are not looked up."""
    found = look(kinds[0])
    for kind in kinds[1:]:
        found = jnp.where(slot == kind, look(kind), found)
    return found


@functools.lru_cache(maxsize=1024)
def _trellis(scopes: Scopes, num_sites: int) -> Trellis | None:
    near = neighbours(scopes, num_sites)
    for width in range(1, MOST_REMEMBERED + 1):  # a state has a slot even where nothing is remembered
        order = find_order(scopes, num_sites, width)
        if order is None:
            continue
        held, slot = [(-1,) * width], []
        for step, site in enumerate(order):
            needed = frontier(order[: step + 1], near)
            row = [other if other in needed else -1 for other in held[-1]]
            slot.append(row.index(-1) if -1 in row else -1)
            if site in needed:
                row[slot[-1]] = site
            held.append(tuple(row))
        return Trellis(order, tuple(held), tuple(slot))
    return None


@functools.lru_cache(maxsize=1024)
def _places(scopes: Scopes, way: Trellis) -> list[tuple[int, int, bool]]:
    """Return each factor's step, its slot there, and whether the step's site is the second of its scope."""
    position = way.position
    places = []
    for i, j in scopes:
        later, earlier = (i, j) if position[i] > position[j] else (j, i)
        step = int(position[later])
        places.append((step, way.held[step].index(earlier), later == j))
    return places


@functools.lru_cache(maxsize=1024)
def _cells(scopes: Scopes, way: Trellis) -> list[Int[np.ndarray, ' cells']]:
    """Return, for each step and slot, which table to take of (tables, transposed tables, zeros); again for the rest."""
    layers: list[np.ndarray] = []
    none = np.full(len(way.order) * way.num_slots, 2 * len(scopes), np.int32)
    for factor, (step, slot, flipped) in enumerate(_places(scopes, way)):
        cell = step * way.num_slots + slot
        free = next((layer for layer in layers if layer[cell] == none[cell]), None)
        if free is None:
            layers.append(free := none.copy())
        free[cell] = factor + flipped * len(scopes)
    return layers or [none]


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
