"""The network as two pure functions, at any widths: what training, evaluation and calibration apply.

Widths are traced: they mask channels of arrays that have the graph's largest widths, so new ones compile nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jcw.graph import NORMALISED, Graph, Operation
from jcw.nets import activations, axes, blocks, kernels, masking
from jcw.nets.axes import Variables

TracedWidths = Int[Array, 'sites'] | Int[Array, 'batch sites']


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      init: key -> variables.
      apply: (variables, images [batch height width channels], widths [sites] or [batch sites] or None, train)
        -> (logits [batch classes], batch_stats). In training the second result holds the batch's own moments (not a
        running average); in evaluation those of the variables, which it normalises by.
      pair: in training, (variables, images, widths [batch sites]) -> (logits of the largest network, its moments,
        logits of the mutated one), where the two are not to be computed apart.
    """

    init: Callable[[jax.Array], Variables]
    apply: Callable[..., tuple[jax.Array, dict[str, Any]]]
    pair: Callable[..., tuple[jax.Array, dict[str, Any], jax.Array]] | None = None


def functions_of(
    graph: Graph,
    *,
    dtype: Any = jnp.float32,
    implementation: kernels.Implementation = 'auto',
    axis_name: str | None = None,
) -> Network:
    """Build the network of a graph at its largest widths; those given to `apply` mask it further.

    Args:
      graph: the supernet's, or `graph.fixed(widths)` for a network of one configuration.
      dtype: of activations and products; parameters and statistics stay float32.
      implementation: of the convolutions, see `jcw.nets.kernels`.
      axis_name: mapped axis over whose devices batch statistics are taken; None for each device's own.
    """

    def apply(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: TracedWidths | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any]]:
        moments: dict[str, Any] = {}

        def normalise(op: Operation, x: jax.Array, mask: jax.Array) -> jax.Array:
            own = variables['params'][op.name]
            if not op.norm:
                return masking.biased(x, own['bias'], mask, op.activation)
            if train:
                y, seen = masking.normalise_train(
                    x, own['scale'], own['bias'], mask, axis_name, op.activation
                )
                moments[op.name] = {'mean': seen.mean, 'variance': seen.variance}
                return y
            return masking.normalise_eval(
                x,
                own['scale'],
                own['bias'],
                **variables['batch_stats'][op.name],
                mask=mask,
                activation=op.activation,
            )

        forms = Forms(graph, dtype, implementation, masks_of(graph, widths))
        logits = forms.walk(variables['params'], images, normalise)
        return logits, moments if train else variables['batch_stats']

    return Network(lambda key: axes.initial(key, graph), apply)


class Masks(NamedTuple):
    """Channel masks of a configuration."""

    sites: Mapping[str, jax.Array]  # [channels] or [batch channels], by site
    live: Mapping[str, jax.Array]  # [] or [batch], 0 where a site that may be 0 is


def masks_of(graph: Graph, widths: TracedWidths | None) -> Masks:
    """Return the masks of widths; of the largest where there are none."""
    if widths is None:
        return Masks({site.name: jnp.ones(site.choices[-1]) for site in graph.sites}, {})
    widths = jnp.asarray(widths)
    sites = {
        site.name: masking.channel_mask(widths[..., index], site.choices[-1])
        for index, site in enumerate(graph.sites)
    }
    live = {
        site.name: (widths[..., index] > 0).astype(jnp.float32)
        for index, site in enumerate(graph.sites)
        if site.choices[0] == 0
    }
    return Masks(sites, live)


def mask_of(graph: Graph, place: int, masks: Masks) -> jax.Array:
    """Return the mask of an operation's result: its channels, all of them dead where it is dropped."""
    out = graph.operations[place].out
    mask = masks.sites[out] if isinstance(out, str) else jnp.ones(out)
    for name in sorted(graph.drops[place]):
        if name in masks.live:
            mask = mask * masks.live[name][..., None]
    return mask


def values(graph: Graph, variables: Variables, images: jax.Array) -> list[jax.Array]:
    """Return the result of every operation at the largest widths, in evaluation and float32."""

    def normalise(op: Operation, x: jax.Array, mask: jax.Array) -> jax.Array:
        own, stats = variables['params'][op.name], variables['batch_stats'].get(op.name, {})
        if not op.norm:
            return masking.biased(x, own['bias'], mask, op.activation)
        return masking.normalise_eval(
            x, own['scale'], own['bias'], **stats, mask=mask, activation=op.activation
        )

    return Forms(graph, jnp.float32, 'native', masks_of(graph, None)).every(
        variables['params'], images, normalise
    )


Normalise = Callable[[Operation, jax.Array, jax.Array], jax.Array]
"""(operation, result of its convolution, mask) -> normalised, activated and masked."""


class Forms(NamedTuple):
    """What each kind of operation does in training and evaluation."""

    graph: Graph
    dtype: Any
    implementation: kernels.Implementation
    masks: Masks

    def walk(self, params: dict[str, Any], images: jax.Array, normalise: Normalise) -> jax.Array:
        """Return the result of the last operation."""
        return self.every(params, images, normalise)[-1]

    def every(self, params: dict[str, Any], images: jax.Array, normalise: Normalise) -> list[jax.Array]:
        """Return the results of all operations, in order."""
        values = [images.astype(self.dtype)]
        for place, op in enumerate(self.graph.operations[1:], 1):
            x = self.linear(op, params.get(op.name, {}), *(values[read] for read in op.reads))
            values.append(self.finish(place, x, normalise))
        return values

    def linear(self, op: Operation, own: dict[str, Any], *reads: jax.Array) -> jax.Array:
        """Return an operation's result before what masks it."""
        x = reads[0]
        if op.kind == 'conv':
            kernel = own['kernel'].astype(self.dtype)
            return kernels.conv(x, kernel, op.stride, self.implementation, op.pads)
        if op.kind == 'depthwise':
            kernel = own['kernel'].astype(self.dtype)
            return kernels.depthwise(x, kernel, op.stride, self.implementation, op.pads)
        return WHOLE[op.kind](self, op, own, *reads)

    def finish(self, place: int, x: jax.Array, normalise: Normalise) -> jax.Array:
        """Normalise and mask where the operation chooses or convolves channels."""
        op = self.graph.operations[place]
        if op.kind in NORMALISED:
            return normalise(op, x, mask_of(self.graph, place, self.masks))
        if op.kind == 'dense' and isinstance(op.out, str):
            return x * mask_of(self.graph, place, self.masks)
        return x


def _add(forms: Forms, op: Operation, own: dict[str, Any], *terms: jax.Array) -> jax.Array:
    return activations.BY_NAME[op.activation](sum(terms[1:], start=terms[0]))


def _max_pool(forms: Forms, op: Operation, own: dict[str, Any], x: jax.Array) -> jax.Array:
    return kernels.max_pool(x, op.kernel, op.stride, op.pads)


def _mean(forms: Forms, op: Operation, own: dict[str, Any], x: jax.Array) -> jax.Array:
    return x.mean((1, 2), dtype=blocks.accumulator(x))


def _dense(forms: Forms, op: Operation, own: dict[str, Any], x: jax.Array) -> jax.Array:
    return activations.BY_NAME[op.activation](x @ own['kernel'] + own['bias'])


def _gate(forms: Forms, op: Operation, own: dict[str, Any], x: jax.Array) -> jax.Array:
    squeezed = x.mean((1, 2), dtype=blocks.accumulator(x))
    inner = activations.BY_NAME[op.activation](squeezed @ own['reduce_kernel'] + own['reduce_bias'])
    if isinstance(op.inner, str):
        inner = inner * forms.masks.sites[op.inner]
    opened = activations.OPENINGS[op.opening](inner @ own['expand_kernel'] + own['expand_bias'])
    return (x * opened[:, None, None, :]).astype(x.dtype)


WHOLE: dict[str, Callable[..., jax.Array]] = {
    'add': _add,
    'max_pool': _max_pool,
    'mean': _mean,
    'dense': _dense,
    'gate': _gate,
}
"""The kinds that are not a convolution and its normalisation."""
