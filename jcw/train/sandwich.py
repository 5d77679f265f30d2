"""The sandwich rule with in-place distillation, and the random mutation of widths that explores the space.

One step trains the largest network on labels, and the smallest and a randomly mutated one on the largest's soft labels
(Yu and Huang, 2019). The mutated network's loss against the largest's on the same example is the example's reward.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jcw.nets.mobilenet import Network, Variables
from jcw.space import SearchSpace
from jcw.train import losses

Mutation = Literal['one', 'all']


class Rewards(NamedTuple):
    """What one step says of the widths it tried."""

    choices: Int[Array, 'batch layers']
    rewards: Float[Array, 'batch']  # -(loss of the mutated network - loss of the largest), in nats


class SandwichMetrics(NamedTuple):
    """Means over the batch."""

    loss_largest: jax.Array  # on labels, in nats, as all four
    loss_smallest: jax.Array
    loss_random: jax.Array
    accuracy_largest: jax.Array
    accuracy_smallest: jax.Array
    accuracy_random: jax.Array


def mutate(
    keys: Key[Array, 'batch'],
    probabilities: Float[Array, 'layers choices'],
    space: SearchSpace,
    mutation: Mutation,
    layer: Int[Array, ''] | None = None,
) -> Int[Array, 'batch layers']:
    """Draw a configuration per example.

    'one' redraws one layer, chosen evenly or given, and leaves the others at their largest: batch statistics stay
    close to the largest network's, so that it trains steadily, and rewards isolate a layer. 'all' redraws every layer:
    rewards see layers in combination, at the price of noisier statistics.
    """
    largest = jnp.asarray(space.num_choices) - 1

    def one(key: jax.Array) -> jax.Array:
        width_key, layer_key = jax.random.split(key)
        drawn = jax.random.categorical(width_key, jnp.log(probabilities)).astype(jnp.int32)
        if mutation == 'all':
            return drawn
        chosen = jax.random.randint(layer_key, (), 0, space.num_layers) if layer is None else layer
        return jnp.where(jnp.arange(space.num_layers) == chosen, drawn, largest)

    return jax.vmap(one)(keys)


def uniform_probabilities(space: SearchSpace) -> Float[Array, 'layers choices']:
    """Return even probabilities over each layer's own choices."""
    present = jnp.asarray(space.width_table > 0)
    return present / present.sum(-1, keepdims=True)


def sandwich_loss(
    variables: Variables,
    thin: Variables,
    images: Float[Array, 'batch height width channels'],
    targets: Float[Array, 'batch classes'],
    labels: Int[Array, 'batch'],
    choices: Int[Array, 'batch layers'],
    *,
    supernet: Network,
    smallest: Network,
    space: SearchSpace,
    distil: bool = True,
) -> tuple[jax.Array, tuple[dict[str, Any], Rewards, SandwichMetrics]]:
    """Return the sum of the three networks' mean losses; beside it the largest's moments, rewards and metrics.

    With `distil` the smallest and the mutated network learn from the largest's probabilities, else from the labels.
    `thin` are the smallest's variables, sliced from `variables`; apart, so that their gradient is as small as they are.
    """
    hard = losses.smooth_targets(labels, space.num_classes)
    widths = space.to_widths(choices)
    if supernet.pair is not None:
        logits, moments, mutated_logits = supernet.pair(variables, images, widths)
    else:
        logits, moments = supernet.apply(variables, images, None, True)
        mutated_logits, _ = supernet.apply(variables, images, widths, True)
    thin_logits, _ = smallest.apply(thin, images, None, True)

    def follow(student: jax.Array) -> jax.Array:
        return losses.distillation(student, logits) if distil else losses.cross_entropy(student, targets)

    loss = (losses.cross_entropy(logits, targets) + follow(thin_logits) + follow(mutated_logits)).mean()
    three = (logits, thin_logits, mutated_logits)
    on_labels = [losses.cross_entropy(each, hard) for each in three]
    rewards = Rewards(choices, jax.lax.stop_gradient(on_labels[0] - on_labels[2]))
    metrics = SandwichMetrics(
        *(each.mean() for each in on_labels), *(losses.correct(each, labels).mean() for each in three)
    )
    return loss, (moments, rewards, metrics)


Draw = Callable[[Key[Array, 'batch'], Any], Int[Array, 'batch layers']]
"""(a key per example, arrays that may change from step to step) -> choices."""
