"""Search spaces."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jcw.space import LayerSpec, SearchSpace, mobilenet_v1, round_width, with_multipliers

FULL = mobilenet_v1((224, 224, 3), 1000)


def test_mobilenet_v1_has_the_published_layers_and_about_4e15_configurations():
    assert FULL.num_layers == 14
    assert FULL.base.tolist() == [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    assert FULL.input_sizes[0] == (224, 224)
    assert FULL.input_sizes[-1] == (7, 7)
    assert 3e15 < FULL.num_configurations < 5e15


def test_widths_are_distinct_multiples_of_the_divisor_and_hold_the_base_width():
    for widths, layer in zip(FULL.width_choices, FULL.layers, strict=True):
        assert all(w % 8 == 0 for w in widths)
        assert list(widths) == sorted(set(widths))
        assert layer.base_width in widths


@pytest.mark.parametrize('levels', [1, 2, 5])
def test_the_base_width_is_a_choice_whatever_the_levels(levels):
    space = mobilenet_v1((32, 32, 3), 10, levels=levels)
    assert space.to_widths(space.to_choices(space.base)).tolist() == space.base.tolist()


def test_choices_and_widths_are_inverse_in_numpy_and_jax():
    choices = np.random.default_rng(0).integers(0, FULL.num_choices, (20, 14))
    widths = FULL.to_widths(choices)
    assert (FULL.to_choices(widths) == choices).all()
    assert (np.asarray(FULL.to_widths(jnp.asarray(choices))) == widths).all()


def test_signatures_chain_channels_and_end_with_the_classifier():
    signatures = FULL.signatures(FULL.base)
    assert len(signatures) == 15
    assert signatures[0][:2] == ('conv', 3)
    assert signatures[-1].kind == 'dense'
    assert signatures[-1].out_channels == 1000
    for before, after in itertools.pairwise(signatures):
        assert before.out_channels == after.in_channels


def test_repeated_layers_share_a_signature():
    assert len(set(FULL.signatures(FULL.base))) == 11  # the five 512-wide blocks at one size count once


def test_a_space_survives_json():
    assert SearchSpace.from_json(FULL.to_json()) == FULL


def test_nearest_prefers_the_smaller_width_on_a_tie():
    space = SearchSpace((LayerSpec('conv', 8),), (8, 8, 1), 2, ((8, 16),))
    assert space.nearest([12]).tolist() == [8]


def test_round_width_rounds_halves_up_and_never_to_zero():
    assert [round_width(w, 8) for w in (0.1, 11.9, 12, 20)] == [8, 8, 16, 24]


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: LayerSpec('pool', 8), 'kind'),
        (lambda: LayerSpec('conv', 8, kernel=2), 'odd'),
        (lambda: LayerSpec('conv', 0), 'positive'),
        (lambda: SearchSpace((), (8, 8, 1), 2, ()), 'at least one layer'),
        (lambda: SearchSpace((LayerSpec('conv', 8),), (8, 8, 1), 2, ((16, 8),)), 'strictly increasing'),
        (lambda: SearchSpace((LayerSpec('conv', 8),), (8, 8, 1), 2, ()), '1 layers but 0'),
        (lambda: mobilenet_v1((8, 8, 1), 2, strides=(1, 2)), '14 layers, got 2 strides'),
        (lambda: mobilenet_v1((8, 8, 1), 2, base_multiplier=-1), 'base_multiplier'),
        (lambda: with_multipliers((), (8, 8, 1), 2, levels=0), 'levels'),
        (lambda: mobilenet_v1((8, 8, 1), 2, min_multiplier=2.0, max_multiplier=1.0), 'min_multiplier'),
        (lambda: FULL.to_choices([8] * 14), 'width 8 of layer 1 is not one of'),
        (lambda: FULL.to_choices([8] * 13), 'expected 14 widths'),
        (lambda: FULL.to_widths([99] * 14), 'choices must end in 14 indices'),
    ],
)
def test_wrong_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
