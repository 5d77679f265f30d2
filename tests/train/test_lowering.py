"""The training step is lowered for accelerators, with native convolutions in it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jcw.nets import segments, training
from jcw.train import mutation, optim, steps
from jcw.train.state import init_state
from tests.tiny_graph import GRAPH, RESIDUAL


@pytest.mark.parametrize('graph', [GRAPH, RESIDUAL], ids=['chain', 'residual'])
@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_supernets_step_is_lowered_for_accelerators_with_native_convolutions(graph, platform, dtype):
    supernet = segments.functions_of(graph, dtype=dtype)
    smallest = training.functions_of(graph.fixed(graph.smallest), dtype=dtype)
    optimiser = optim.sgd(0.1, 10)
    step = steps.supernet_step(
        supernet,
        smallest,
        graph,
        optimiser,
        steps.Recipe((0.5,) * 3, (0.25,) * 3),
        mutation.draw_of(graph, 'site'),
    )
    state = jax.eval_shape(lambda: init_state(jax.random.key(0), supernet, optimiser))
    images = jax.ShapeDtypeStruct((8, *graph.input_shape), np.uint8)
    labels = jax.ShapeDtypeStruct((8,), np.int32)
    inputs = (
        jax.ShapeDtypeStruct(graph.present.shape, np.float32),
        jax.ShapeDtypeStruct((), np.int32),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = export.export(jax.jit(step), platforms=[platform])(state, key, images, labels, inputs)
    text = lowered.mlir_module()
    native = {'cuda': ('conv',), 'tpu': ('conv', 'depthwise')}[platform]  # depthwise ones are shifts on GPUs
    kernels = sum(op.kind in native for op in graph.operations)
    # forward and both gradients of three networks, less the images' gradient
    assert text.count('stablehlo.convolution') >= 3 * 2 * kernels
    grouped = re.search(r'(feature|batch)_group_count = (?!1\b)\d', text)
    assert bool(grouped) == (platform == 'tpu' and any(op.kind == 'depthwise' for op in graph.operations))
    assert 'bf16' in text or dtype == jnp.float32
