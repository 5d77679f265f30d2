"""Which widths the mutated networks of a step take, and which examples share a configuration.

Three choices, each with its cost and its effect.

Which layers (`independent`), all with the given probabilities as the marginals of every layer redrawn:

  one       one layer, chosen evenly; the others keep their largest width (the method's first form). Activations keep
            their scale, so that one set of batch statistics fits every example, and a reward is one layer's effect. But
            each layer is seen in a fraction 1 / layers of the examples, and small networks are trained by the smallest
            alone.
  layer     one layer as well, but the same for all examples of a step; each layer has its turn. Up to that layer the
            mutated networks are the largest, and are not computed again (`jcw.nets.trunk`): the cheapest of all.
  all       every layer on its own. Each example tells of every layer, though through the noise of all others, and the
            networks trained are of middling size. Needs groups: with a configuration for each example, batch statistics
            fit none of them and the mutated networks do not train.
  together  every layer, and all are wide or narrow at once: the range of sizes is trained, not the middle. Needs
            groups; choices of different layers are correlated, so that the regression tells them apart less well.

Which examples share a configuration:

  each its own     `batch` configurations a step; masks per example, so that the mutated network costs what the largest
                   does (`mobilenet.network`), or two fifths of it where `layer` is mutated (`trunk.network`).
  groups, masked   `batch / size` configurations, each with batch statistics of its own, as if a group were a batch; the
                   same arithmetic (`per_group` and `grouped`).
  groups, switched the same result; of every layer little more than the live channels is computed, so that a step's cost
                   follows the widths drawn. Groups run one after another, which wants groups large enough to fill the
                   device, and the branches take longer to compile (`mutated_by`, `jcw.nets.switching`).

Which probabilities: even (`sandwich.uniform_probabilities`), or any `[layers choices]`, such as an adaptive search's.
They are inputs of the step and cost nothing; uneven ones move training towards what is likely, away from the rest.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jcw.nets.mobilenet import Network, Variables, Widths
from jcw.space import SearchSpace
from jcw.train import sandwich
from jcw.train.sandwich import Draw

Mutation = Literal['one', 'layer', 'all', 'together']


def independent(space: SearchSpace, mutation: Mutation) -> Draw:
    """Return the draw `(keys [batch], probabilities [layers choices]) -> choices [batch layers]` of a mutation.

    For 'layer' its second argument is `(probabilities, layer [])`, the layer as `turn` has it.

    Raises:
      ValueError: an unknown mutation.
    """
    if mutation not in ('one', 'layer', 'all', 'together'):
        raise ValueError(f"mutation must be 'one', 'layer', 'all' or 'together', got {mutation!r}")
    if mutation == 'layer':
        return lambda keys, inputs: sandwich.mutate(keys, inputs[0], space, 'one', inputs[1])
    if mutation == 'together':
        return together
    return lambda keys, probabilities: sandwich.mutate(keys, probabilities, space, mutation)


def turn(seed: int, step: int, num_layers: int) -> int:
    """Return the layer to mutate in a step: in every `num_layers` steps each once, in an order drawn anew."""
    order = np.random.default_rng((seed, step // num_layers)).permutation(num_layers)
    return int(order[step % num_layers])


def together(
    keys: Key[Array, 'batch'], probabilities: Float[Array, 'layers choices'], jitter: float = 0.25
) -> Int[Array, 'batch layers']:
    """Draw every layer's width at its quantile `reflect(level + jitter * noise_l)`, the level shared by all layers.

    Level is even on [0, 1] and noise on [-1, 1]; reflected at the ends the quantile is even on [0, 1] too, so that
    every layer's marginal is exactly its probabilities.
    """
    ends = jnp.cumsum(probabilities, 1)

    def one(key: jax.Array) -> jax.Array:
        level_key, noise_key = jax.random.split(key)
        noise = jax.random.uniform(noise_key, ends.shape[:1], minval=-1, maxval=1)
        quantile = jnp.abs(jax.random.uniform(level_key) + jitter * noise)
        quantile = jnp.minimum(quantile, 2 - quantile)
        # The last choice ends at 1 up to rounding; quantiles beyond it stay on the last that has any probability.
        return (quantile[:, None] * ends[:, -1:] > ends).sum(1).astype(jnp.int32)

    return jax.vmap(one)(keys)


def per_group(draw: Draw, size: int) -> Draw:
    """Let `size` successive examples share the configuration drawn with the key of the first."""
    if size == 1:
        return draw
    return lambda keys, inputs: jnp.repeat(draw(keys[::size], inputs), size, axis=0)


def grouped(whole: Network, part: Network, size: int) -> Network:
    """Return a network that takes widths per example in groups of `size` equal ones, each group its own batch.

    Args:
      whole: applied where all examples share widths, and in evaluation.
      part: applied to a group; its batch statistics must not reach over devices.
      size: examples per group; a device's share of the batch must divide by it.
    """

    def apply(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Int[Array, 'batch layers'],
        train: bool = True,
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any]]:
        if len(images) % size:
            raise ValueError(f'a batch of {len(images)} on each device does not divide into groups of {size}')
        groups = images.reshape(-1, size, *images.shape[1:])
        one = jax.vmap(lambda x, w: part.apply(variables, x, w, train))
        logits, moments = one(groups, widths[::size])
        return logits.reshape(len(images), -1), jax.tree.map(lambda leaf: leaf.mean(0), moments)

    return whole if size == 1 else mutated_by(whole, Network(whole.init, apply))


def mutated_by(whole: Network, mutated: Network) -> Network:
    """Return a network that trains on widths of each example's own by `mutated`, and does all else by `whole`."""

    def apply(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Widths | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any]]:
        net = mutated if train and widths is not None and widths.ndim == 2 else whole
        return net.apply(variables, images, widths, train)

    return Network(whole.init, apply)
