"""The optimiser: SGD with momentum, decay on kernels only, warm-up and cosine."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def sgd(
    learning_rate: float,
    num_steps: int,
    *,
    warmup_steps: int = 0,
    momentum: float = 0.9,
    weight_decay: float = 1e-5,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Return SGD whose rate rises linearly for `warmup_steps`, then falls to zero along a cosine.

    Weight decay is added to the gradient of kernels, not of biases and normalisation.

    Raises:
      ValueError: a rate that is not positive, or a warm-up as long as the run.
    """
    if learning_rate <= 0 or num_steps < 1 or not 0 <= warmup_steps < max(num_steps, 1):
        raise ValueError(
            'need learning_rate > 0 and 0 <= warmup_steps < num_steps, '
            f'got {learning_rate}, {warmup_steps} and {num_steps}'
        )
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else learning_rate,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=num_steps,
    )
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    return optax.chain(
        clip,
        optax.add_decayed_weights(weight_decay, mask=is_kernel),
        optax.sgd(schedule, momentum=momentum, nesterov=True),
    )


def is_kernel(params: Any) -> Any:
    """Mark the leaves that are kernels: all with more than one axis."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


class Averaged(NamedTuple):
    """State of an optimiser that keeps an average of the parameters."""

    inner: optax.OptState
    average: Any  # as the parameters


def with_average(optimiser: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """Keep `average = decay * average + (1 - decay) * params` beside an optimiser (Polyak and Juditsky, 1992).

    Batch statistics belong to the parameters they were taken with: recalibrate before evaluating the average.

    Raises:
      ValueError: a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f'decay must lie in [0, 1), got {decay}')

    def init(params: Any) -> Averaged:
        return Averaged(optimiser.init(params), jax.tree.map(jnp.copy, params))

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Averaged]:
        updates, inner = optimiser.update(gradients, state.inner, params)
        moved = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, moved)
        return updates, Averaged(inner, average)

    return optax.GradientTransformation(init, update)
