"""Draws of widths, and groups of examples that share them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from jcw.nets import mobilenet, switching
from jcw.train import mutation, sandwich
from tests.tiny_graph import GRAPH, random_choices, random_images, random_variables

KEYS = jax.random.split(jax.random.key(0), 20000)
UNIFORM = np.asarray(sandwich.uniform_probabilities(GRAPH), np.float64)
LARGEST = GRAPH.num_choices - 1


def uneven():
    """Return probabilities that differ by choice and layer, one of them zero."""
    weights = np.random.default_rng(0).uniform(0.2, 1, UNIFORM.shape) * (UNIFORM > 0)
    weights[3, 1] = 0
    return weights / weights.sum(1, keepdims=True)


def drawn(name, probabilities, keys=KEYS):
    draw = mutation.independent(GRAPH, name)
    return np.asarray(jax.jit(draw)(keys, jnp.asarray(probabilities, jnp.float32)))


def expected_marginals(name, probabilities):
    if name != 'one':
        return probabilities
    kept = np.eye(UNIFORM.shape[1])[LARGEST]
    return probabilities / GRAPH.num_sites + kept * (1 - 1 / GRAPH.num_sites)


@pytest.mark.parametrize('name', ['one', 'all', 'together'])
@pytest.mark.parametrize('probabilities', [UNIFORM, uneven()], ids=['even', 'given'])
def test_marginals_of_every_layer_are_the_given_probabilities(name, probabilities):
    choices = drawn(name, probabilities)
    for layer, expected in enumerate(expected_marginals(name, probabilities)):
        counts = np.bincount(choices[:, layer], minlength=len(expected))
        assert (counts[expected == 0] == 0).all()
        live = expected > 0
        assert chisquare(counts[live], expected[live] / expected[live].sum() * len(KEYS)).pvalue > 1e-3


def test_one_redraws_a_single_layer_each_as_often():
    choices = drawn('one', UNIFORM)
    changed = choices != LARGEST
    assert changed.sum(1).max() == 1
    # A layer redrawn may get its largest width again.
    counts = changed.sum(0) / (1 - UNIFORM[np.arange(GRAPH.num_sites), LARGEST])
    np.testing.assert_allclose(counts, len(KEYS) / GRAPH.num_sites, rtol=0.06)


def test_a_given_layer_is_redrawn_in_every_example_and_no_other():
    draw = mutation.independent(GRAPH, 'layer')
    choices = np.asarray(draw(KEYS, (jnp.asarray(uneven(), jnp.float32), jnp.int32(1))))
    np.testing.assert_array_equal(
        np.delete(choices, 1, axis=1), np.tile(np.delete(LARGEST, 1), (len(KEYS), 1))
    )
    counts = np.bincount(choices[:, 1], minlength=3)
    assert chisquare(counts, uneven()[1, :3] * len(KEYS)).pvalue > 1e-3


def test_every_layer_has_its_turn_in_an_order_of_its_own():
    turns = np.array([mutation.turn(0, step, 5) for step in range(100)]).reshape(20, 5)
    np.testing.assert_array_equal(np.sort(turns, axis=1), np.tile(np.arange(5), (20, 1)))
    assert len(np.unique(turns, axis=0)) > 10
    assert not np.array_equal(turns.ravel(), [mutation.turn(1, step, 5) for step in range(100)])


def test_all_draws_layers_on_their_own_and_together_wide_or_narrow_at_once():
    apart = np.corrcoef(drawn('all', UNIFORM).T) - np.eye(GRAPH.num_sites)
    assert np.abs(apart).max() < 4 / np.sqrt(len(KEYS))
    assert np.corrcoef(drawn('together', UNIFORM).T).min() > 0.5


def test_a_choice_certain_is_always_drawn():
    certain = np.eye(UNIFORM.shape[1])[[1, 2, 0, 1]]
    for name in ('all', 'together'):
        np.testing.assert_array_equal(drawn(name, certain, KEYS[:500]), np.tile([1, 2, 0, 1], (500, 1)))


def test_a_draw_depends_on_the_examples_own_key_alone():
    for name in ('one', 'all', 'together'):
        np.testing.assert_array_equal(
            drawn(name, UNIFORM, KEYS[:64])[17:20], drawn(name, UNIFORM, KEYS[17:20])
        )


def test_a_group_shares_the_configuration_of_its_first_example():
    draw = mutation.independent(GRAPH, 'all')
    alone = draw(KEYS[:12], jnp.asarray(UNIFORM))
    shared = mutation.per_group(draw, 4)(KEYS[:12], jnp.asarray(UNIFORM))
    np.testing.assert_array_equal(shared, np.repeat(alone[::4], 4, axis=0))
    assert mutation.per_group(draw, 1) is draw


@pytest.mark.parametrize('form', ['masked', 'switched'])
def test_a_grouped_network_applies_to_each_group_as_to_a_batch_of_its_own(form):
    size, count = 3, 2
    whole = mobilenet.network(GRAPH)
    if form == 'masked':
        net = mutation.grouped(whole, whole, size)
    else:
        net = mutation.mutated_by(whole, switching.network(GRAPH, extents=2, group=size))
    variables, images = random_variables(0), random_images(1, size * count)
    widths = np.repeat(GRAPH.to_widths(random_choices(2, count)), size, axis=0)

    def loss(net, params, images, widths):
        full = {'params': params, 'batch_stats': variables['batch_stats']}
        logits = net.apply(full, images, widths, True)[0]
        return (logits**2).sum(), logits

    together, alone = (
        jax.jit(jax.grad(lambda *args, n=n: loss(n, *args), has_aux=True)) for n in (net, whole)
    )
    gradient, logits = together(variables['params'], images, widths)
    each = [alone(variables['params'], images[i : i + size], widths[i]) for i in range(0, size * count, size)]
    np.testing.assert_allclose(logits, jnp.concatenate([e[1] for e in each]), rtol=1e-4, atol=1e-5)
    total = jax.tree.map(lambda *a: sum(a), *(e[0] for e in each))
    for found, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_network_mutated_by_another_is_itself_for_shared_widths_and_in_evaluation():
    whole = mobilenet.network(GRAPH)
    zeros = mobilenet.Network(whole.init, lambda v, x, w, train: (jnp.zeros((len(x), GRAPH.num_classes)), {}))
    net = jax.jit(mutation.mutated_by(whole, zeros).apply, static_argnums=3)
    variables, images = random_variables(0), random_images(0, 4)
    own = GRAPH.to_widths(random_choices(0, 4))
    for widths, train in ((None, True), (own[0], True), (own, False)):
        assert net(variables, images, widths, train)[0].any()
    assert not net(variables, images, own, True)[0].any()
    assert mutation.grouped(whole, whole, 1) is whole


def test_a_batch_that_does_not_divide_into_groups_is_refused():
    net = mutation.grouped(mobilenet.network(GRAPH), mobilenet.network(GRAPH), 4)
    widths = jnp.asarray(GRAPH.to_widths(random_choices(0, 6)))
    with pytest.raises(ValueError, match='a batch of 6 on each device does not divide into groups of 4'):
        net.apply(random_variables(0), random_images(0, 6), widths, True)
