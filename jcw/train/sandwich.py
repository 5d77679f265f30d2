"""The sandwich rule with in-place distillation, and the random mutation of widths that explores the space.

One step trains the largest network on labels, and the smallest and a randomly mutated one on the largest's soft labels
(Yu and Huang, 2019). The mutated network's loss against the largest's on the same example is the example's reward.
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int

from jcw.graph import Graph
from jcw.nets.axes import Variables
from jcw.nets.training import Network
from jcw.train import losses


class Rewards(NamedTuple):
    """What one step says of the widths it tried."""

    choices: Int[Array, 'batch sites']
    rewards: Float[Array, ' batch']  # -(loss of the mutated network - loss of the largest), in nats


class SandwichMetrics(NamedTuple):
    """Means over the batch."""

    loss_largest: jax.Array  # on labels, in nats, as all four
    loss_smallest: jax.Array
    loss_random: jax.Array
    accuracy_largest: jax.Array
    accuracy_smallest: jax.Array
    accuracy_random: jax.Array


def sandwich_loss(
    variables: Variables,
    thin: Variables,
    images: Float[Array, 'batch height width channels'],
    targets: Float[Array, 'batch classes'],
    labels: Int[Array, ' batch'],
    choices: Int[Array, 'batch sites'],
    *,
    supernet: Network,
    smallest: Network,
    graph: Graph,
    distil: bool = True,
) -> tuple[jax.Array, tuple[dict[str, Any], Rewards, SandwichMetrics]]:
    """Return the sum of the three networks' mean losses; beside it the largest's moments, rewards and metrics.

    With `distil` the smallest and the mutated network learn from the largest's probabilities, else from the labels.
    `thin` are the smallest's variables, sliced from `variables`; apart, so that their gradient is as small as they are.
    """
    hard = losses.smooth_targets(labels, graph.num_classes)
    widths = graph.to_widths(choices)
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
