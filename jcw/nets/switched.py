"""The switched form: widths are traced, yet only live channels are computed, by `lax.switch` over a width index.

For evaluating many subnets of one supernet without compiling any. A branch for every (input width, output width) of
every operation would take minutes to compile. So each site has a few extents, the last its greatest width; a branch
computes the least extent that holds the width asked for, and masks do the rest: results are those of the masked form
at any widths. A matrix product switches over pairs of extents, what follows it over one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jcw.graph import Graph, Operation, Width
from jcw.nets import axes, kernels, masking, training
from jcw.nets.axes import Variables
from jcw.nets.training import Forms, Network

EXTENTS = 4  # per site: 16 branches for a product


def functions_of(
    graph: Graph,
    *,
    extents: int = EXTENTS,
    dtype: Any = jnp.float32,
    implementation: kernels.Implementation = 'auto',
) -> Network:
    """Build the supernet in switched form; its variables are those of `training.functions_of(graph)`.

    Args:
      graph: of the supernet.
      extents: how many widths of each site have a branch; more waste less and compile longer.
      dtype: of activations and products.
      implementation: of the convolutions, see `jcw.nets.kernels`.

    Raises:
      ValueError: `extents` below 1; in `apply`, widths of each example's own.
    """
    if extents < 1:
        raise ValueError(f'extents must be positive, got {extents}')
    branches = {site.name: site_extents(site.choices, extents) for site in graph.sites}

    def apply(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Int[Array, ' sites'] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any]]:
        chosen = jnp.asarray(graph.largest) if widths is None else jnp.asarray(widths)
        if chosen.ndim != 1:
            raise ValueError(f'all examples share one configuration, got widths of shape {chosen.shape}')
        masks = training.masks_of(graph, chosen)
        switches = {
            name: (chosen[index] > jnp.array(branches[name][:-1], jnp.int32)).sum(dtype=jnp.int32)
            for index, name in enumerate(graph.site_names)
        }
        walk = _Walk(graph, branches, switches, Forms(graph, dtype, implementation, masks), train)
        return walk.run(variables, images)

    return Network(lambda key: axes.initial(key, graph), apply)


def site_extents(choices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return up to `count` of the widths, evenly placed, the last among them; a dropped block computes the least."""
    choices = [width for width in choices if width]
    steps = min(count, len(choices))
    return tuple(choices[-(-len(choices) * (k + 1) // steps) - 1] for k in range(steps))


class _Walk(NamedTuple):
    """A configuration, and for each site the extents of its branches and the branch to take."""

    graph: Graph
    extents: dict[str, tuple[int, ...]]
    switches: dict[str, jax.Array]
    forms: Forms
    train: bool

    def run(self, variables: Variables, images: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Return logits and, in training, the moments of every normalisation."""
        params, stats = variables['params'], variables['batch_stats']
        moments: dict[str, Any] = {}
        values = [images.astype(self.forms.dtype)]
        for place, op in enumerate(self.graph.operations[1:], 1):
            own, reads = params.get(op.name, {}), [values[read] for read in op.reads]
            if op.kind == 'conv':
                x = self._product(op, reads[0], own)
                x, seen = self._finish(place, x, own, stats.get(op.name, {}))
            elif op.kind == 'depthwise':
                x, seen = self._finish(place, reads[0], own, stats.get(op.name, {}), own['kernel'])
            else:
                x, seen = self.forms.finish(place, self.forms.linear(op, own, *reads), _never), {}
            if seen:
                moments[op.name] = seen
            values.append(x)
        return values[-1], moments if self.train else stats

    def _product(self, op: Operation, x: jax.Array, own: dict[str, Any]) -> jax.Array:
        """Convolve from the live channels of one width to those of another: a branch for every pair of extents."""
        read = self.graph.operations[op.reads[0]].out
        first, second = self._of(read), self._of(op.out)

        def branch(inputs: int, outputs: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
            def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
                y = self.forms.linear(op, {'kernel': kernel[..., :inputs, :outputs]}, x[..., :inputs])
                return _widen(y, second[-1])

            return product

        pairs = [branch(a, b) for a in first for b in second]
        return jax.lax.switch(self._index(read) * len(second) + self._index(op.out), pairs, x, own['kernel'])

    def _finish(
        self,
        place: int,
        x: jax.Array,
        own: dict[str, Any],
        stats: dict[str, Any],
        kernel: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Normalise live channels, convolved depthwise before if there is a kernel: a branch for every extent."""
        op = self.graph.operations[place]
        mask = training.mask_of(self.graph, place, self.forms.masks)
        norm = {name: own[name] for name in ('scale', 'bias') if name in own}

        def branch(extent: int) -> Callable[..., tuple[jax.Array, dict[str, Any]]]:
            def stage(*given: Any) -> tuple[jax.Array, dict[str, Any]]:
                x, norm, stats, mask, kernel = jax.tree.map(lambda leaf: leaf[..., :extent], given)
                if kernel is not None:
                    x = self.forms.linear(op, {'kernel': kernel}, x)
                if not op.norm:
                    x = masking.biased(x, norm['bias'], mask, op.activation)
                elif self.train:
                    x, seen = masking.normalise_train(x, **norm, mask=mask, activation=op.activation)
                    stats = {'mean': seen.mean, 'variance': seen.variance}
                else:
                    x = masking.normalise_eval(x, **norm, **stats, mask=mask, activation=op.activation)
                return jax.tree.map(lambda leaf: _widen(leaf, len(own['bias'])), (x, stats))

            return stage

        branches = [branch(extent) for extent in self._of(op.out)]
        return jax.lax.switch(self._index(op.out), branches, x, norm, stats, mask, kernel)

    def _of(self, out: Width) -> tuple[int, ...]:
        return self.extents[out] if isinstance(out, str) else (out,)

    def _index(self, out: Width) -> jax.Array:
        return self.switches[out] if isinstance(out, str) else jnp.zeros((), jnp.int32)


def _widen(x: jax.Array, channels: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, channels - x.shape[-1])])


def _never(op: Operation, x: jax.Array, mask: jax.Array) -> jax.Array:
    raise AssertionError(f'{op.name} is normalised in its branch')
