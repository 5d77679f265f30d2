"""Training steps, recalibration and evaluation as pure functions; `jcw.train.parallel` spreads them over devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, Key, UInt8

from jcw.graph import Graph
from jcw.nets.axes import Variables, add_slices, slice_variables
from jcw.nets.training import Network, TracedWidths
from jcw.train import losses
from jcw.train.augment import Augmentation, crop_and_flip, example_keys, mixup, normalise
from jcw.train.mutation import Draw
from jcw.train.sandwich import Rewards, SandwichMetrics, sandwich_loss
from jcw.train.state import TrainState

STATISTICS_MOMENTUM = 0.9


class Recipe(NamedTuple):
    """How images become a loss."""

    mean: tuple[float, ...]  # of each channel, in [0, 1]
    std: tuple[float, ...]
    augmentation: Augmentation = Augmentation()
    label_smoothing: float = 0.0


class PlainMetrics(NamedTuple):
    """Means over the batch."""

    loss: jax.Array  # in nats
    accuracy: jax.Array


def supernet_step(
    supernet: Network,
    smallest: Network,
    graph: Graph,
    optimiser: optax.GradientTransformation,
    recipe: Recipe,
    draw: Draw,
    axis_name: str | None = None,
    *,
    accumulate: int = 1,
    distil: bool = True,
) -> Callable[..., tuple[TrainState, SandwichMetrics, Rewards]]:
    """Return `step(state, key, images, labels, draw_inputs) -> (state, metrics, rewards)` for the sandwich rule.

    `draw(keys, draw_inputs)` chooses the mutated widths; `draw_inputs` are arrays (probabilities, for instance), so
    changing them compiles nothing. With `accumulate` parts, a device takes its share of the batch a part at a time,
    each with batch statistics of its own: memory for one part, one update for all.
    """

    def step(
        state: TrainState,
        key: Key[Array, ''],
        images: UInt8[Array, 'batch height width channels'],
        labels: Int[Array, ' batch'],
        draw_inputs: Any,
    ) -> tuple[TrainState, SandwichMetrics, Rewards]:
        x, targets, draw_keys = _prepare(key, images, labels, recipe, graph.num_classes, axis_name)
        choices = draw(draw_keys, draw_inputs)
        sliced = slice_variables(state.variables, graph, graph.smallest)

        def part(x: jax.Array, targets: jax.Array, labels: jax.Array, choices: jax.Array) -> tuple:
            def loss(params: dict[str, Any], thin: dict[str, Any]) -> tuple[jax.Array, tuple]:
                return sandwich_loss(
                    {'params': params, 'batch_stats': state.batch_stats},
                    {'params': thin, 'batch_stats': sliced['batch_stats']},
                    x,
                    targets,
                    labels,
                    choices,
                    supernet=supernet,
                    smallest=smallest,
                    graph=graph,
                    distil=distil,
                )

            gradients, (moments, rewards, metrics) = jax.grad(loss, argnums=(0, 1), has_aux=True)(
                state.params, sliced['params']
            )
            return (add_slices(*gradients), moments, metrics), rewards

        means, rewards = in_parts(part, accumulate, x, targets, labels, choices)
        gradients, moments, metrics = means
        state, metrics = update(state, gradients, moments, metrics, optimiser, axis_name)
        return state, metrics, rewards

    return step


def plain_step(
    network: Network,
    graph: Graph,
    optimiser: optax.GradientTransformation,
    recipe: Recipe,
    axis_name: str | None = None,
    *,
    accumulate: int = 1,
) -> Callable[..., tuple[TrainState, PlainMetrics]]:
    """Return `step(state, key, images, labels, widths) -> (state, metrics)` for a network of one configuration.

    `widths` mask the network to one; None for all of its channels. `accumulate` is that of `supernet_step`.
    """

    def step(
        state: TrainState,
        key: Key[Array, ''],
        images: UInt8[Array, 'batch height width channels'],
        labels: Int[Array, ' batch'],
        widths: Int[Array, ' sites'] | None = None,
    ) -> tuple[TrainState, PlainMetrics]:
        x, targets, _ = _prepare(key, images, labels, recipe, graph.num_classes, axis_name)

        def part(x: jax.Array, targets: jax.Array, labels: jax.Array) -> tuple:
            def loss(params: dict[str, Any]) -> tuple[jax.Array, tuple]:
                variables = {'params': params, 'batch_stats': state.batch_stats}
                logits, moments = network.apply(variables, x, widths, True)
                mean_loss = losses.cross_entropy(logits, targets).mean()
                return mean_loss, (moments, PlainMetrics(mean_loss, losses.correct(logits, labels).mean()))

            gradients, (moments, metrics) = jax.grad(loss, has_aux=True)(state.params)
            return (gradients, moments, metrics), ()

        (gradients, moments, metrics), _ = in_parts(part, accumulate, x, targets, labels)
        return update(state, gradients, moments, metrics, optimiser, axis_name)

    return step


def at_once(
    step: Callable[..., tuple[TrainState, PlainMetrics]], most: int
) -> Callable[..., tuple[TrainState, PlainMetrics]]:
    """Return `run(state, key, span, images, labels) -> (state, metrics of the last step)`: up to `most` plain steps.

    `span` holds the number of the first step and how many there are; images and labels are [batch most ...], the rest
    empty; a step's key is the given one with its number folded in. Where a step takes milliseconds, coming back for
    each takes as long as the arithmetic. One alone is no loop, in which XLA would make some operations slower.
    """

    def run(
        state: TrainState,
        key: Key[Array, ''],
        span: Int[Array, ' 2'],
        images: UInt8[Array, 'batch most height width channels'],
        labels: Int[Array, 'batch most'],
    ) -> tuple[TrainState, PlainMetrics]:
        def one(index: Any, state: TrainState) -> tuple[TrainState, PlainMetrics]:
            return step(state, jax.random.fold_in(key, span[0] + index), images[:, index], labels[:, index])

        if most == 1:
            return one(0, state)
        none = PlainMetrics(jnp.zeros(()), jnp.zeros(()))
        return jax.lax.fori_loop(0, span[1], lambda index, last: one(index, last[0]), (state, none))

    return run


def in_parts(function: Callable[..., tuple[Any, Any]], parts: int, *batch: Any) -> tuple[Any, Any]:
    """Apply a function to equal parts of a batch, one after another; average its first result, join its second.

    Raises:
      ValueError: the batch does not divide.
    """
    count = len(batch[0])
    if parts < 1 or count % parts:
        raise ValueError(f'a batch of {count} on each device does not divide into {parts} parts')
    if parts == 1:
        return function(*batch)
    split = jax.tree.map(lambda a: a.reshape(parts, count // parts, *a.shape[1:]), batch)
    shapes, _ = jax.eval_shape(function, *jax.tree.map(lambda a: a[0], split))

    def add(total: Any, part: Any) -> tuple[Any, Any]:
        mean, rows = function(*part)
        return jax.tree.map(jnp.add, total, mean), rows

    total, rows = jax.lax.scan(add, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), split)
    joined = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
    return jax.tree.map(lambda t: t / parts, total), joined


def _prepare(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    recipe: Recipe,
    num_classes: int,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return augmented images, targets, and a further key per example."""
    image_key, draw_key, mixup_key = jax.random.split(key, 3)
    x = normalise(images, recipe.mean, recipe.std)
    x = crop_and_flip(example_keys(image_key, len(labels), axis_name), x, recipe.augmentation)
    targets = losses.smooth_targets(labels, num_classes, recipe.label_smoothing)
    if recipe.augmentation.mixup:
        x, targets = mixup(mixup_key, x, targets, recipe.augmentation.mixup)
    return x, targets, example_keys(draw_key, len(labels), axis_name)


def update(
    state: TrainState,
    gradients: dict[str, Any],
    moments: dict[str, Any],
    metrics: Any,
    optimiser: optax.GradientTransformation,
    axis_name: str | None,
) -> tuple[TrainState, Any]:
    """Return the state after a step of the optimiser, and the metrics; all are averaged over devices.

    Batch statistics follow the batch's moments with momentum `STATISTICS_MOMENTUM`.
    """
    if axis_name is not None:
        gradients, moments, metrics = jax.lax.pmean((gradients, moments, metrics), axis_name)
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    keep = STATISTICS_MOMENTUM
    batch_stats = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.batch_stats, moments)
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def recalibrate(
    network: Network,
    variables: Variables,
    widths: TracedWidths | None,
    images: UInt8[Array, 'batches batch height width channels'],
    mean: Sequence[float],
    std: Sequence[float],
) -> Variables:
    """Return the variables with batch statistics re-estimated for one configuration from whole batches.

    Means are averaged; variances are averaged and the variance of the means added, as if all were one batch.
    """

    def add(_: None, batch: jax.Array) -> tuple[None, dict[str, Any]]:
        return None, network.apply(variables, normalise(batch, mean, std), widths, True)[1]

    _, moments = jax.lax.scan(add, None, images)
    stats = {name: _pool(layer) for name, layer in moments.items()}
    return {'params': variables['params'], 'batch_stats': stats}


def _pool(layer: dict[str, Any]) -> dict[str, Any]:
    if 'mean' not in layer:
        return {name: _pool(value) for name, value in layer.items()}
    means, variances = layer['mean'], layer['variance']
    return {'mean': means.mean(0), 'variance': variances.mean(0) + means.var(0)}


class Evaluation(NamedTuple):
    """Means over a set, and what they come from."""

    loss: jax.Array  # in nats
    accuracy: jax.Array
    right: Bool[Array, ' examples'] | Bool[np.ndarray, ' examples']


def evaluate(
    network: Network,
    variables: Variables,
    widths: TracedWidths | None,
    images: UInt8[Array, 'examples height width channels'],
    labels: Int[Array, ' examples'],
    mean: Sequence[float],
    std: Sequence[float],
    batch: int = 250,
) -> Evaluation:
    """Return mean loss and accuracy of examples, `batch` of them at a time."""
    rows = len(labels)
    batch = min(batch, rows)
    chunks = -(-rows // batch)
    padding = chunks * batch - rows
    split = functools.partial(_split_padded, chunks=chunks, padding=padding)

    def add(totals: jax.Array, chunk: tuple) -> tuple[jax.Array, jax.Array]:
        x, y, weight = chunk
        logits, _ = network.apply(variables, normalise(x, mean, std), widths, False)
        loss = losses.cross_entropy(logits, losses.smooth_targets(y, logits.shape[-1]))
        right = losses.correct(logits, y)
        return totals + jnp.stack([(weight * loss).sum(), (weight * right).sum()]), right > 0

    chunked = (split(images), split(labels), split(jnp.ones(rows)))
    totals, right = jax.lax.scan(add, jnp.zeros(2), chunked)
    return Evaluation(totals[0] / rows, totals[1] / rows, right.reshape(-1)[:rows])


def _split_padded(values: Array, chunks: int, padding: int) -> Array:
    values = jnp.pad(values, [(0, padding)] + [(0, 0)] * (values.ndim - 1))
    return values.reshape(chunks, -1, *values.shape[1:])
