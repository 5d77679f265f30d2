"""What export and the loaded network refuse, and how weights are stored narrow."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw import deploy
from jcw.deploy import storage
from tests.closeness import assert_close


def test_a_batch_of_wrong_shape_or_type_is_refused_with_what_was_expected(trained, exported):
    loaded, images = deploy.load(exported), trained.digits.test.images[:2]
    for wrong, got in [
        (images[0], r'uint8 \[8, 8, 1\]'),
        (images[:, :7], r'uint8 \[2, 7, 8, 1\]'),
        (images.repeat(3, -1), r'uint8 \[2, 8, 8, 3\]'),
        (images / np.float32(255), r'float32 \[2, 8, 8, 1\]'),
        (images.astype(np.int32), r'int32 \[2, 8, 8, 1\]'),
        (jnp.asarray(images, jnp.bfloat16), r'bfloat16 \[2, 8, 8, 1\]'),
        ('a picture', r'<U9 \[\]'),
    ]:
        with pytest.raises(ValueError, match=rf'expected uint8 images \[batch 8 8 1\], got {got}'):
            loaded(wrong)


def test_arrays_of_jax_and_of_numpy_and_an_empty_batch_are_served(trained, exported):
    loaded, images = deploy.load(exported), trained.digits.test.images[:2]
    np.testing.assert_array_equal(loaded(images), loaded(jnp.asarray(images)))
    assert loaded(images[:0]).shape == (0, 10)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'class_names': ['cat', 'dog']}, '2 class names for 10 classes'),
        ({'details': {'widths': [1]}}, 'details may not replace widths'),
        ({'details': {'checksums': {}}}, 'details may not replace checksums'),
        ({'details': {'made': object()}}, 'details are not JSON'),
        ({'details': {'loss': float('nan')}}, 'details are not JSON'),
        ({'weights': 'float16'}, "float32', 'bfloat16', 'int8'.*'float16'"),
    ],
)
def test_export_refuses_what_does_not_fit_and_writes_nothing(trained, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        trained.export(tmp_path / 'network', **options)
    assert not list(tmp_path.iterdir())


def test_export_refuses_widths_and_statistics_that_do_not_fit(trained, tmp_path):
    arguments = (tmp_path / 'network', trained.variables, trained.graph)
    with pytest.raises(ValueError, match='expected 4 widths, got 2'):
        deploy.export(*arguments, (4, 8), mean=(0.5,), std=(0.2,))
    with pytest.raises(ValueError, match=r'of shape \(3, 3, 1, 12\) cannot give \(3, 3, 1, 99\)'):
        deploy.export(*arguments, (99, 8, 8, 8), mean=(0.5,), std=(0.2,))
    with pytest.raises(ValueError, match='positive std of 1 input channels'):
        deploy.export(*arguments, trained.widths, mean=(0.5,), std=(0.0,))
    with pytest.raises(ValueError, match='of 1 input channels'):
        deploy.export(*arguments, trained.widths, mean=(0.5,) * 3, std=(0.2,) * 3)


def test_a_network_that_has_diverged_is_not_exported(trained, tmp_path):
    spoiled = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), trained.variables)
    with pytest.raises(ValueError, match='not finite'):
        trained._replace(variables=spoiled).export(tmp_path / 'network')


def stored_bytes(folder) -> int:
    return sum(path.stat().st_size for path in (folder / 'weights').rglob('*') if path.is_file())


@pytest.mark.parametrize(
    ('weights', 'tolerance', 'agreeing'), [('bfloat16', 0.02, 0.98), ('int8', 0.03, 0.98)]
)
def test_narrow_weights_answer_nearly_as_the_wide_ones(trained, tmp_path, weights, tolerance, agreeing):
    folder = trained.export(tmp_path / weights, weights=weights)
    assert json.loads((folder / 'network.json').read_text())['weights'] == weights
    logits = np.asarray(deploy.load(folder)(trained.digits.test.images))
    spread = np.ptp(trained.logits)
    assert np.abs(logits - trained.logits).max() < tolerance * spread
    assert (logits.argmax(-1) == trained.logits.argmax(-1)).mean() >= agreeing


def test_narrow_weights_are_the_same_in_every_form(trained, tmp_path):
    from jax import export as jax_export

    folder = trained.export(tmp_path / 'int8', weights='int8')
    called = jax_export.deserialize(bytearray((folder / 'network.stablehlo').read_bytes()))
    images = trained.digits.test.images[:9]
    assert_close(called.call(images), deploy.load(folder)(images))


def test_bfloat16_activations_stay_near(trained, exported):
    logits = np.asarray(deploy.load(exported, dtype=jnp.bfloat16)(trained.digits.test.images))
    assert logits.dtype == np.float32
    assert (logits.argmax(-1) == trained.logits.argmax(-1)).mean() > 0.95


@pytest.mark.parametrize('weights', storage.FORMATS)
def test_unpacked_weights_are_within_half_a_step_of_the_packed(weights):
    rng = np.random.default_rng(0)
    part = {'kernel': rng.standard_normal((3, 3, 7)).astype(np.float32), 'bias': np.ones(7, np.float32)}
    part['kernel'][..., 3] = 0
    back = storage.unpack(storage.pack({'layer': part}, weights))['layer']
    largest = np.abs(part['kernel']).max((0, 1))
    step = {'float32': 0 * largest, 'bfloat16': 2.0**-8 * largest, 'int8': largest / 254 * (1 + 1e-6)}[
        weights
    ]
    assert (np.abs(back['kernel'] - part['kernel']) <= step).all()
    np.testing.assert_array_equal(back['bias'], part['bias'])


def test_narrow_weights_make_smaller_files():
    rng = np.random.default_rng(0)
    part = {'kernel': rng.standard_normal((64, 64)).astype(np.float32), 'bias': np.ones(64, np.float32)}
    sizes = [
        sum(leaf.nbytes for leaf in jax.tree.leaves(storage.pack({'layer': part}, weights)))
        for weights in ('float32', 'bfloat16', 'int8')
    ]
    assert sizes[0] > 1.9 * sizes[1]
    assert sizes[0] > 3.5 * sizes[2]


def test_random_weights_have_the_shapes_of_the_folded_ones(trained, exported):
    def shapes(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)

    folded = deploy.load(exported).folded
    fixed = trained.graph.fixed(trained.widths)
    assert shapes(deploy.random(fixed)) == shapes(folded)
    assert shapes(deploy.shapes(fixed)) == shapes(folded)


def test_onnx_says_what_to_install_where_it_is_missing(monkeypatch, trained):
    import sys

    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ValueError, match=r'pip install onnx onnxruntime'):
        deploy.onnx_model(trained.graph, trained.widths)
