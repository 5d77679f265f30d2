"""Which widths the mutated networks of a step take: one site is redrawn, all others keep their greatest width.

Activations keep their scale, so that one set of batch statistics fits every example, and a reward is one site's effect.

  site     the same site for all examples of a step, each site in its turn. Up to that site the mutated networks are
           the largest, and are not computed again (`jcw.nets.segments`).
  example  a site for each example, drawn evenly: the method's first description.

Both rank networks alike, and a step of the former takes 0.74 to 0.8 of the latter's time (docs/benchmarks.md).
Redrawing all sites, groups of examples that share widths, and computing only live channels in training ranked no
better or cost
more, and are gone; docs/results/ranking keeps the table.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jcw.graph import Graph

MutationUnit = Literal['site', 'example']
Draw = Callable[[Key[Array, ' batch'], Any], Int[Array, 'batch sites']]
"""(a key per example, arrays that may change from step to step) -> choices."""


def draw_of(graph: Graph, mutation: MutationUnit) -> Draw:
    """Return the draw `(keys [batch], (probabilities [sites choices], site [])) -> choices [batch sites]`.

    The site is that of the step, as `turn` has it; where each example has its own it plays no part.

    Raises:
      ValueError: an unknown mutation.
    """
    if mutation not in ('site', 'example'):
        raise ValueError(f"mutation must be 'site' or 'example', got {mutation!r}")
    largest = jnp.asarray(graph.num_choices) - 1

    def draw(
        keys: Key[Array, ' batch'], inputs: tuple[Float[Array, 'sites choices'], Int[Array, '']]
    ) -> Int[Array, 'batch sites']:
        probabilities, turn = inputs

        def one(key: jax.Array) -> jax.Array:
            width_key, site_key = jax.random.split(key)
            drawn = jax.random.categorical(width_key, jnp.log(probabilities)).astype(jnp.int32)
            site = turn if mutation == 'site' else jax.random.randint(site_key, (), 0, graph.num_sites)
            return jnp.where(jnp.arange(graph.num_sites) == site, drawn, largest)

        return jax.vmap(one)(keys)

    return draw


def turn(seed: int, step: int, num_sites: int) -> int:
    """Return the site to mutate in a step: in every `num_sites` steps each once, in an order drawn anew."""
    order = np.random.default_rng((seed, step // num_sites)).permutation(num_sites)
    return int(order[step % num_sites])


def even_probabilities(graph: Graph) -> Float[Array, 'sites choices']:
    """Return even probabilities over each site's own choices."""
    present = jnp.asarray(graph.present)
    return present / present.sum(-1, keepdims=True)
