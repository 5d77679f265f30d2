"""From the trained network to every exported form, the answers stay the same on the whole test set."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import export as jax_export

from jcw import deploy
from jcw.deploy import inference
from jcw.graph import Operation
from jcw.nets.axes import slice_variables
from jcw.nets.training import functions_of
from jcw.train import steps
from tests.closeness import assert_close
from tests.tiny_graph import GRAPH, RESIDUAL, random_choices, random_graph


def assert_same(logits, expected) -> None:
    assert_close(logits, expected)
    np.testing.assert_array_equal(np.argmax(logits, -1), np.argmax(expected, -1))


def test_the_network_has_learned_something(trained):
    assert (trained.logits.argmax(-1) == trained.digits.test.labels).mean() > 0.3


def test_the_sliced_network_answers_as_the_trained_one(trained):
    digits = trained.digits
    sliced = slice_variables(trained.variables, trained.graph, trained.widths)
    images = steps.normalise(jnp.asarray(digits.test.images), digits.mean, digits.std)
    logits, _ = functions_of(trained.graph.fixed(trained.widths)).apply(sliced, images)
    assert_same(logits, trained.logits)


@pytest.mark.parametrize('implementation', ['cpu', 'native'])
def test_the_folded_network_answers_as_the_trained_one(trained, implementation):
    sliced = slice_variables(trained.variables, trained.graph, trained.widths)
    fixed = trained.graph.fixed(trained.widths)
    folded = deploy.fold(sliced, fixed, trained.digits.mean, trained.digits.std)
    folded = jax.tree.map(jnp.asarray, folded)
    images = jnp.asarray(trained.digits.test.images)
    logits = deploy.forward(folded, images, fixed, implementation=implementation)
    assert_same(logits, trained.logits)


def test_the_reloaded_network_answers_as_the_trained_one(trained, exported):
    loaded = deploy.load(exported)
    assert_same(loaded(trained.digits.test.images), trained.logits)


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
    convolutions = [op for op in trained.graph.operations if op.kind in ('conv', 'depthwise')]
    assert nodes.count('Conv') == len(convolutions)
    assert nodes.count('Transpose') == 1


@pytest.mark.parametrize('graph', [GRAPH, RESIDUAL, random_graph(0)], ids=['chain', 'residual', 'random'])
def test_rectangular_images_and_odd_sizes_agree_in_all_forms(graph):
    """Where 'SAME' pads more after than before, and images are not square."""
    widths = graph.to_widths(random_choices(1, graph=graph))
    fixed = graph.fixed(widths)
    folded = deploy.random(fixed, seed=1)
    images = np.random.default_rng(0).integers(0, 256, (3, *graph.input_shape), np.uint8)
    by_hand, native = (
        deploy.forward(
            jax.tree.map(jnp.asarray, folded), jnp.asarray(images), fixed, implementation=implementation
        )
        for implementation in ('cpu', 'native')
    )
    session = onnxruntime.InferenceSession(
        deploy.onnx_model(graph, widths, folded), providers=['CPUExecutionProvider']
    )
    assert_close(by_hand, native)
    assert_close(session.run(None, {'images': images})[0], native)


@pytest.mark.parametrize('size', [1, 3, 5])
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('channels', [1, 3, 9])
@pytest.mark.parametrize('kind', ['conv', 'depthwise'])
def test_every_cpu_form_of_inference_is_the_native_convolution(kind, size, stride, channels):
    rng = np.random.default_rng(0)
    ends = (channels, 4) if kind == 'conv' else (channels,)
    x, kernel = (
        jnp.asarray(rng.standard_normal(shape).astype(np.float32))
        for shape in [(2, 8, 7, channels), (size, size, *ends)]
    )
    op = Operation('one', kind, (0,), ends[-1], kernel=size, stride=stride)
    weights = {'kernel': kernel, 'bias': jnp.zeros(ends[-1])}
    native, by_hand = (
        inference.FORMS[kind](inference._Form(jnp.float32, form), op, weights, x)
        for form in ('native', 'cpu')
    )
    assert_close(by_hand, native)
    if kind == 'depthwise':  # as on GPUs, which have no copy made
        assert_close(inference._shifted(x, kernel, op), native)


def test_one_compilation_serves_all_calls_of_a_batch_size(trained, exported):
    loaded = deploy.load(exported)
    for start in range(3):
        loaded(trained.digits.test.images[start : start + 4])
    assert loaded.compiled._cache_size() == 1
