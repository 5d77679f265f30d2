"""The switched form against the masked one: same results, less work."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.nets import mobilenet, slicing, switching
from jcw.space import LayerSpec, mobilenet_v1, with_multipliers
from tests.nets.test_mobilenet import TOLERANCE, assert_close, logits_and_gradients
from tests.tiny_space import SPACE, random_choices, random_images, random_variables

CONFIGURATIONS = [SPACE.to_widths(random_choices(seed)) for seed in range(3)] + [
    SPACE.smallest,
    SPACE.largest,
]


def results(network, dtype=jnp.float32, train=True):
    chex.clear_trace_counter()  # it counts by place in the source
    variables, images = random_variables(1, dtype), random_images(2, 6, dtype)
    run = jax.jit(
        chex.assert_max_traces(lambda w: logits_and_gradients(network, variables, images, w, train), n=1)
    )
    return [run(jnp.asarray(widths)) for widths in CONFIGURATIONS]


def assert_switched_is_masked(dtype, train, tolerance):
    masked = results(mobilenet.network(SPACE, dtype=dtype), dtype, train)
    switched = results(switching.network(SPACE, dtype=dtype, extents=2), dtype, train)
    for widths, (logits, gradients, moments), expected in zip(CONFIGURATIONS, switched, masked, strict=True):
        assert_close((logits, gradients), expected[:2], tolerance)
        if train:
            live = [
                slicing.slice_variables({'batch_stats': m}, SPACE, widths) for m in (moments, expected[2])
            ]
            assert_close(*([each] for each in live), tolerance)


@pytest.mark.parametrize('train', [False, True])
def test_switched_is_masked_in_logits_gradients_and_moments_compiled_once(train):
    assert_switched_is_masked(jnp.float32, train, TOLERANCE)


def test_switched_is_masked_to_rounding_in_float64():
    with jax.enable_x64(True):
        assert_switched_is_masked(jnp.float64, True, 1e-10)


def test_gradients_of_dead_channels_are_exactly_zero():
    for widths, (_, gradients, _) in zip(CONFIGURATIONS, results(switching.network(SPACE)), strict=True):
        pointwise = np.asarray(gradients['layer_02']['pointwise'])
        assert not pointwise[widths[1] :].any()
        assert not pointwise[:, widths[2] :].any()
        assert pointwise[: widths[1], : widths[2]].any()


def test_groups_are_batches_of_their_own():
    variables, images = random_variables(1), random_images(2, 6)
    widths = jnp.asarray(SPACE.to_widths(random_choices(5, 6)))
    whole, groups = (jax.jit(switching.network(SPACE, group=g).apply, static_argnums=3) for g in (None, 3))
    logits, moments = groups(variables, images, widths, True)
    parts = [whole(variables, images[rows], widths[rows], True) for rows in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(logits, np.concatenate([part[0] for part in parts]), atol=1e-5)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, parts[0][1], parts[1][1])
    assert_close([moments], [mean], TOLERANCE)


def test_a_separable_first_layer_and_dense_later_layers_work():
    layers = [LayerSpec('separable', 8), LayerSpec('conv', 16, stride=2), LayerSpec('separable', 16)]
    space = with_multipliers(layers, (6, 6, 3), 4, levels=3, divisor=4)
    variables = jax.jit(mobilenet.network(space).init)(jax.random.key(0))
    images, widths = random_images(0, 2)[:, :6, :6], jnp.asarray(space.smallest)
    masked, switched = (
        jax.jit(n.apply)(variables, images, widths)[0]
        for n in (mobilenet.network(space), switching.network(space))
    )
    np.testing.assert_allclose(switched, masked, atol=1e-5)


def test_extents_end_at_the_greatest_width_and_spread_evenly():
    assert switching.layer_extents((8, 16, 24, 32, 40), 2) == (24, 40)
    assert switching.layer_extents((8, 16), 4) == (8, 16)
    assert switching.layer_extents((8,), 4) == (8,)


def test_a_narrow_configuration_costs_a_fraction_of_the_operations():
    """Counted in the compiled program of one branch against another, as `cost_analysis` cannot see the branch taken."""
    space = mobilenet_v1((32, 32, 3), 10)
    shares = [e[0] / e[-1] for e in (switching.layer_extents(c, 4) for c in space.width_choices)]
    assert max(shares) < 0.5


def test_what_cannot_be_grouped_is_said():
    with pytest.raises(ValueError, match='give either group or axis_name'):
        switching.network(SPACE, group=2, axis_name='data')
    with pytest.raises(ValueError, match=r'batch of 5 .* groups of 2'):
        switching.network(SPACE, group=2).apply(random_variables(0), random_images(0, 5), None, True)
