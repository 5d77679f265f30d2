"""Shared segments against the largest and the mutated network computed apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw import zoo
from jcw.builder import build
from jcw.nets import gates, segments, training
from tests.tiny_graph import GRAPH, RESIDUAL, random_choices, random_graph, random_images, random_variables

SITES = GRAPH.num_sites


def mutated_from(site: int, seed: int = 0, batch: int = 6) -> np.ndarray:
    """Draw widths per example for a site and all after it; those before keep their largest."""
    widths = GRAPH.to_widths(random_choices(seed, batch))
    widths[:, :site] = GRAPH.largest[:site]
    return widths


def apart(net, variables, images, widths):
    logits, moments = net.apply(variables, images, None, True)
    return logits, moments, net.apply(variables, images, widths, True)[0]


def loss(both, params, stats, images, widths):
    logits, moments, mutated = both({'params': params, 'batch_stats': stats}, images, widths)
    return (logits**2).sum() + (jnp.sin(mutated) * logits).sum(), (logits, moments, mutated)


@functools.cache
def compiled(which: str):
    both = (
        segments.functions_of(GRAPH).pair
        if which == 'pair'
        else functools.partial(apart, training.functions_of(GRAPH))
    )
    return jax.jit(jax.value_and_grad(functools.partial(loss, both), has_aux=True))


@pytest.mark.parametrize('site', range(SITES + 1))
def test_sharing_changes_no_result_and_no_gradient(site):
    variables, images, widths = random_variables(0), random_images(1, 6), mutated_from(site)
    arguments = (variables['params'], variables['batch_stats'], images, widths)
    found, expected = (compiled(which)(*arguments) for which in ('pair', 'apart'))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_any_site_may_be_the_first_mutated_in_one_compilation():
    variables, images = random_variables(0), random_images(1, 6)
    for site in range(SITES + 1):
        compiled('pair')(variables['params'], variables['batch_stats'], images, mutated_from(site, site))
    assert compiled('pair')._cache_size() == 1


def in_jit(f):
    return jax.jit(f)


def in_checkpoint(f):
    return jax.checkpoint(f)


def in_scan(f):
    return lambda params, images, widths: jax.lax.scan(
        lambda total, _: (total + f(params, images, widths), None), 0.0, None, length=2
    )[0]


def in_vmap(f):
    return lambda params, images, widths: jax.vmap(f, (None, None, 0))(
        params, images, jnp.stack([widths, jnp.asarray(mutated_from(2, 5)), widths])
    ).sum()


@pytest.mark.parametrize('wrapped', [in_jit, in_checkpoint, in_scan, in_vmap])
def test_the_gradient_is_right_under_jaxs_transformations(wrapped):
    variables, images, widths = random_variables(0), random_images(1, 6), jnp.asarray(mutated_from(1))
    shared, plain = segments.functions_of(GRAPH).pair, functools.partial(apart, training.functions_of(GRAPH))

    def gradient(both):
        def value(params, images, widths):
            return loss(both, params, variables['batch_stats'], images, widths)[0]

        return jax.jit(jax.grad(wrapped(value), argnums=(0, 1)))(variables['params'], images, widths)

    for a, b in zip(jax.tree.leaves(gradient(shared)), jax.tree.leaves(gradient(plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_a_gate_computes_what_it_returns_and_nothing_else():
    def visible(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sin(x)

    calls: list[int] = []
    for run, expected in ((True, np.sin(2.0)), (False, 7.0)):
        calls.clear()
        value = jax.jit(lambda run, x: gates.once(run, lambda _: visible(x), jnp.array(7.0)))(run, 2.0)
        jax.effects_barrier()
        assert (float(value), len(calls)) == (pytest.approx(expected), int(run))


def whole_block_first(g):
    """Images are read twice: no cut lies before the first site's mask."""
    x = zoo.basic_block(g, g.images, g.site('out', 6, (2, 6)), g.site('inner', 4, (2, 4)), 1)
    return g.classify(x)


def maps_smaller_than_kernels(g):
    x = g.conv(g.images, g.site('stem', 6, (2, 6)), kernel=3, stride=2)
    x = g.conv(g.depthwise(x, kernel=5, stride=2), g.site('first', 8, (2, 8)))
    return g.classify(g.conv(g.depthwise(x, kernel=7), g.site('second', 8, (2, 8))))


GRAPHS = {
    'chain': GRAPH,
    'residual': RESIDUAL,
    'a block first': build(whole_block_first, (4, 3, 2), 5),
    'maps smaller than kernels': build(maps_smaller_than_kernels, (4, 3, 2), 5),
    **{f'random {seed}': random_graph(seed) for seed in range(3)},
}


@pytest.mark.parametrize('name', GRAPHS)
def test_any_graph_shares_its_segments(name):
    graph = GRAPHS[name]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        net = training.functions_of(graph, dtype=jnp.float64)
        variables = random_variables(0, np.float64, graph=graph)
        images = random_images(1, 4, np.float64, graph)
        both = segments.functions_of(graph, dtype=jnp.float64).pair, functools.partial(apart, net)
        ours, plain = (
            jax.jit(jax.value_and_grad(functools.partial(loss, each), has_aux=True)) for each in both
        )
        for first in range(graph.num_sites + 1):
            widths = np.tile(graph.largest, (4, 1))
            choices = (rng.random((3, graph.num_sites)) * graph.num_choices).astype(int)
            widths[1:, first : first + 1] = graph.to_widths(choices)[:, first : first + 1]
            arguments = (variables['params'], variables['batch_stats'], images, jnp.asarray(widths))
            found, expected = (f(*arguments) for f in (ours, plain))
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
        assert ours._cache_size() == 1


def test_a_gate_keeps_one_map_besides_its_input(monkeypatch):
    variables, images = random_variables(0), random_images(1, 6)
    maps, gated = [], gates.gated_vjp

    def seen(run, function, number, params, x, masks):
        y, pull = gated(run, function, number, params, x, masks)
        operands = [id(leaf) for leaf in jax.tree.leaves((params, x, masks))]
        maps.append(sum(leaf.ndim == 4 and id(leaf) not in operands for leaf in jax.tree.leaves(pull)))
        return y, pull

    monkeypatch.setattr(gates, 'gated_vjp', seen)
    pair = segments.functions_of(GRAPH, implementation='cpu').pair
    widths = jnp.tile(jnp.asarray(GRAPH.largest), (6, 1))
    jax.eval_shape(
        jax.grad(lambda params: pair({**variables, 'params': params}, images, widths)[2].sum()),
        variables['params'],
    )
    assert maps == [1] * (SITES - 1) + [0]
