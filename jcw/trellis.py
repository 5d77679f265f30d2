"""A field unrolled for the recursions over it (`jcw.recursions`): an order of its sites, and what is remembered.

A trellis takes the sites of a field one a step. A state is the choices of the sites that later factors still need, and

    V_t(state) = reduce_choice gain_t(choice, state) + V_{t+1}(next_t(choice, state)),

where `gain_t` sums the potentials that step `t` completes and `reduce` is a maximum or a log-sum of exponentials.
On a chain the state is the last choice.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from jcw.field import Field, Scopes, check_scopes
from jcw.order import find_order, frontier, neighbours, widest_frontier

MOST_REMEMBERED = 2


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
def places_of(scopes: Scopes, way: Trellis) -> list[tuple[int, int, bool]]:
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
    for factor, (step, slot, flipped) in enumerate(places_of(scopes, way)):
        cell = step * way.num_slots + slot
        free = next((layer for layer in layers if layer[cell] == none[cell]), None)
        if free is None:
            layers.append(free := none.copy())
        free[cell] = factor + flipped * len(scopes)
    return layers or [none]
