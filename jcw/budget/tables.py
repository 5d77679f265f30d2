"""The trellis as one table a step: what each choice gains and spends in each state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.field import Field
from jcw.trellis import Steps, Trellis, arrange, gain, trellis


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tables:
    """Gains and spends by (step, choice, state). A state is a choice for each slot; free slots make no difference.

    Attributes:
      gain: [steps choices *state], -inf where a choice is absent or a pair forbidden.
      spend: [costs steps choices *state], 0 where `gain` is -inf.
      way: the order of sites, and which of them each slot holds.
    """

    gain: Any  # leaves are anything while a tree is mapped
    spend: Any
    way: Trellis = dataclasses.field(metadata={'static': True})

    @property
    def rows(self) -> tuple[Array, Array, Int[np.ndarray, ' steps']]:
        """Return (gain, spend, slot) with steps first."""
        return self.gain, jnp.moveaxis(self.spend, 1, 0), self.way.slots

    @property
    def greatest(self) -> Float[Array, ' costs']:
        """Return, for each cost, what no configuration exceeds in size."""
        return jnp.abs(self.spend).max(tuple(range(2, self.spend.ndim))).sum(1)


def tabulate(utility: Field, costs: tuple[Field, ...]) -> Tables:
    """Merge potentials on a trellis of all the fields' scopes; a cost of +inf forbids, costs of the absent are ignored.

    Raises:
      ValueError: the scopes together need a larger state than a trellis may have.
    """
    fields = (utility, *costs)
    scopes = sorted({(min(scope), max(scope)) for field in fields for scope in field.scopes})
    way = trellis(tuple(scopes), len(utility.unary))
    steps = [arrange(jax.tree.map(jnp.asarray, field), way) for field in fields]
    gained, *spent = (jax.vmap(gain)(*each) for each in steps)
    spend = jnp.stack(spent)
    forbidden = jnp.isneginf(gained) | jnp.isposinf(spend).any(0) | _absent(utility, way, steps[0])
    return Tables(jnp.where(forbidden, -jnp.inf, gained), jnp.where(forbidden, 0, spend), way)


def states_of(way: Trellis, choices: Int[Array, ' steps']) -> tuple[Int[Array, ' steps'], ...]:
    """Return the state before each step on the way of a configuration, 0 in free slots."""
    held = np.array(way.held[:-1], np.int32)
    before = way.position[held]
    return tuple(jnp.where(held[:, slot] >= 0, choices[before[:, slot]], 0) for slot in range(way.num_slots))


def sums(tables: Tables, choices: Int[Array, ' sites']) -> tuple[Float[Array, ''], Float[Array, ' costs']]:
    """Return the utility and the costs of a configuration."""
    choices = choices[np.array(tables.way.order, np.int32)]
    entry = (np.arange(len(choices)), choices, *states_of(tables.way, choices))
    return tables.gain[entry].sum(), tables.spend[(slice(None), *entry)].sum(1)


def _absent(utility: Field, way: Trellis, steps: Steps) -> Array:
    """Say where a choice, or a remembered one, is absent: its costs may be anything."""
    held = np.array(way.held[:-1], np.int32)
    absent = jnp.isneginf(steps.unary)
    remembered = jnp.isneginf(jnp.asarray(utility.unary))[held] & (held >= 0)[:, :, None]
    return jax.vmap(gain)(absent, jnp.broadcast_to(remembered[:, :, None], steps.pairs.shape)) > 0
