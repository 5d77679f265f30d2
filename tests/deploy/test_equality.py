"""From the trained network to every exported form, the answers stay the same on the whole test set."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import export as jax_export

from jcw import deploy
from jcw.deploy import convolve
from jcw.nets.axes import slice_variables
from jcw.nets.training import network
from jcw.train import steps
from tests.closeness import assert_close


def assert_same(logits, expected) -> None:
    assert_close(logits, expected)
    np.testing.assert_array_equal(np.argmax(logits, -1), np.argmax(expected, -1))


def test_the_network_has_learned_something(trained):
    assert (trained.logits.argmax(-1) == trained.digits.test.labels).mean() > 0.3


def test_the_sliced_network_answers_as_the_trained_one(trained):
    digits = trained.digits
    sliced = slice_variables(trained.variables, trained.graph, trained.widths)
    images = steps.normalise(jnp.asarray(digits.test.images), digits.mean, digits.std)
    logits, _ = network(trained.graph, trained.widths).apply(sliced, images)
    assert_same(logits, trained.logits)


@pytest.mark.parametrize('implementation', ['cpu', 'native'])
def test_the_folded_network_answers_as_the_trained_one(trained, implementation):
    sliced = slice_variables(trained.variables, trained.graph, trained.widths)
    folded = deploy.fold(sliced, trained.graph, trained.digits.mean, trained.digits.std)
    strides = tuple(layer.stride for layer in trained.graph.layers)
    folded = jax.tree.map(jnp.asarray, folded)
    logits = deploy.forward(
        folded, jnp.asarray(trained.digits.test.images), strides, implementation=implementation
    )
    assert_same(logits, trained.logits)


def test_the_reloaded_network_answers_as_the_trained_one(trained, exported):
    loaded = deploy.load(exported)
    assert_same(loaded(trained.digits.test.images), trained.logits)
    assert_same(loaded.logits(trained.digits.test.images), trained.logits)


def test_exporting_the_sliced_network_gives_the_same_weights(trained, exported, tmp_path):
    sliced = slice_variables(trained.variables, trained.graph, trained.widths)
    again = trained._replace(variables=sliced).export(tmp_path / 'again')
    same = jax.tree.map(np.array_equal, deploy.load(again).folded, deploy.load(exported).folded)
    assert all(jax.tree.leaves(same))


def test_the_stablehlo_form_answers_as_the_trained_network_at_any_batch_size(trained, exported):
    called = jax_export.deserialize(bytearray((exported / 'network.stablehlo').read_bytes()))
    assert called.platforms == ('cpu', 'cuda', 'tpu')
    assert 'batch' in str(called.in_avals[0].shape[0])
    images = trained.digits.test.images
    for part in (images, images[:1], images[:7]):
        assert_same(jax.jit(called.call)(part), trained.logits[: len(part)])


def test_the_stablehlo_form_holds_native_convolutions_for_accelerators(exported):
    text = jax_export.deserialize(bytearray((exported / 'network.stablehlo').read_bytes())).mlir_module()
    assert 'stablehlo.convolution' in text


def test_the_onnx_form_answers_as_the_trained_network_at_any_batch_size(trained, exported):
    onnx.checker.check_model(str(exported / 'network.onnx'), full_check=True)
    session = onnxruntime.InferenceSession(exported / 'network.onnx', providers=['CPUExecutionProvider'])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ('images', 'tensor(uint8)', ['batch', 8, 8, 1])
    images = trained.digits.test.images
    for part in (images, images[:1], images[:7]):
        (logits,) = session.run(None, {'images': part})
        assert_same(logits, trained.logits[: len(part)])


def test_the_onnx_form_has_one_native_convolution_for_each_kernel(trained, exported):
    nodes = [node.op_type for node in onnx.load(exported / 'network.onnx').graph.node]
    separable = sum(layer.kind == 'separable' for layer in trained.graph.layers)
    assert nodes.count('Conv') == trained.graph.num_sites + separable
    assert nodes.count('Transpose') == 1


def test_rectangular_images_and_odd_sizes_agree_in_all_forms():
    """Where 'SAME' pads more after than before, and images are not square."""
    from tests.tiny_graph import GRAPH

    widths = (4, 5, 3, 8)
    folded = deploy.random(GRAPH, widths, seed=1)
    images = np.random.default_rng(0).integers(0, 256, (3, *GRAPH.input_shape), np.uint8)
    strides = tuple(layer.stride for layer in GRAPH.layers)
    shifted, native = (
        deploy.forward(
            jax.tree.map(jnp.asarray, folded), jnp.asarray(images), strides, implementation=implementation
        )
        for implementation in ('cpu', 'native')
    )
    session = onnxruntime.InferenceSession(
        deploy.onnx_model(GRAPH, widths, folded), providers=['CPUExecutionProvider']
    )
    assert_close(shifted, native)
    assert_close(session.run(None, {'images': images})[0], native)


@pytest.mark.parametrize('size', [1, 3, 5])
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('channels', [1, 3, 9])
def test_every_cpu_form_of_inference_is_the_native_convolution(size, stride, channels):
    rng = np.random.default_rng(0)
    x, deep, full = (
        jnp.asarray(rng.standard_normal(shape).astype(np.float32))
        for shape in [(2, 8, 7, channels), (size, size, channels), (size, size, channels, 4)]
    )
    for function, kernel in [(convolve.depthwise, deep), (convolve.dense, full)]:
        native, by_hand = (function(x, kernel, stride, form) for form in ('native', 'cpu'))
        assert_close(by_hand, native)


def test_one_compilation_serves_all_calls_of_a_batch_size(trained, exported):
    loaded = deploy.load(exported)
    for start in range(3):
        loaded(trained.digits.test.images[start : start + 4])
    assert loaded.compiled._cache_size() == 1
