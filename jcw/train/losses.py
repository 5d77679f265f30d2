"""Losses, one per example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Logits = Float[Array, 'batch classes']
PerExample = Float[Array, ' batch']


def smooth_targets(labels: Int[Array, ' batch'], num_classes: int, smoothing: float = 0.0) -> Logits:
    """Return `1 - smoothing` on the label plus `smoothing / classes` everywhere."""
    return (1 - smoothing) * jax.nn.one_hot(labels, num_classes) + smoothing / num_classes


def cross_entropy(logits: Logits, targets: Logits) -> PerExample:
    """Return `-sum_c targets_c log softmax(logits)_c`."""
    return -(targets * jax.nn.log_softmax(logits)).sum(-1)


def distillation(logits: Logits, teacher_logits: Logits) -> PerExample:
    """Return the cross-entropy against the teacher's probabilities; no gradient reaches the teacher."""
    return cross_entropy(logits, jax.lax.stop_gradient(jax.nn.softmax(teacher_logits)))


def correct(logits: Logits, labels: Int[Array, ' batch']) -> PerExample:
    """Return 1 where the label has the greatest logit, else 0."""
    return (logits.argmax(-1) == labels).astype(jnp.float32)
