import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw import deploy
from jcw.compilation import known_options
from jcw.latency import samples
from jcw.latency.measure import TimingPlan, measure
from jcw.latency.runtimes import (
    CommandRuntime,
    OnnxRuntime,
    Runtime,
    RuntimeFailure,
    XlaRuntime,
)
from tests import tiny_graph
from tests.latency.simulated import small_graph

GRAPH = small_graph()
QUICK = TimingPlan(calls=2, min_visits=2, max_visits=2, attempts=1, window=3)

ANSWERING = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    first = request['widths'][0]
    {body}
    print(json.dumps(answer), flush=True)
"""


def command(body: str, **about) -> CommandRuntime:
    return CommandRuntime([sys.executable, '-c', ANSWERING.format(body=body)], device='board', **about)


def built(widths):
    """Return the network that the stages time, with its inputs."""
    return deploy.build(tiny_graph.GRAPH, widths, 2)


def test_a_command_answers_with_one_time_or_several():
    runtime = command("answer = {'ms': first / 10} if first == 8 else {'ms': [1.0, 9.0, 2.0]}")
    assert isinstance(runtime, Runtime)
    assert runtime.open([8]).time_ms() == 0.8
    assert runtime.open([16]).time_ms() == 2.0
    runtime.close()


@pytest.mark.parametrize(
    ('body', 'reason'),
    [
        ('sys.exit(3)', 'command ended with status 3'),
        ('time.sleep(30)', 'no answer within 1 s'),
        ("print('hello', flush=True); answer = {}", "not a line of JSON: 'hello'"),
        ("answer = {'ms': float('nan')}", 'no positive time'),
        ("answer = {'ms': -1.0}", 'no positive time'),
        ("answer = {'ms': 'fast'}", 'no positive time'),
        ("answer = {'ms': True}", 'no positive time'),
        ("answer = {'ms': []}", 'no positive time'),
        ('answer = [1]', 'no positive time'),
        ("answer = {'error': 'out of memory'}", 'out of memory'),
    ],
)
def test_whatever_goes_wrong_is_a_failure_with_its_reason_and_the_next_network_is_timed(body, reason):
    runtime = command(f"answer = {{'ms': 1.0}}\n    if first == 8:\n        {body}", time_limit_s=1.0)
    with pytest.raises(RuntimeFailure, match=reason):
        runtime.open([8]).time_ms()
    assert runtime.open([16]).time_ms() == 1.0
    runtime.close()


def test_a_command_that_does_not_exist_is_a_failure():
    runtime = CommandRuntime(['/no/such/program'], device='board')
    with pytest.raises(RuntimeFailure, match='could not start'):
        runtime.open([8]).time_ms()


def test_the_exported_network_is_handed_over_and_removed(tmp_path):
    runtime = command(
        "answer = {'ms': float(len(open(request['network'], 'rb').read()))}",
        export=lambda widths: b'x' * widths[0],
    )
    program = runtime.open([24])
    assert program.time_ms() == 24
    path = program._request['network']
    program.close()
    assert not Path(path).exists()
    runtime.close()


def test_a_run_through_a_failing_command_loses_no_other_network(tmp_path):
    networks = [GRAPH.smallest, GRAPH.largest, GRAPH.base]
    runtime = command("answer = {'ms': sum(request['widths']) / 100}\n    if first == 24: sys.exit(1)")
    found = list(measure(runtime, GRAPH, np.array(networks), tmp_path / 's', batch=1, plan=QUICK))
    runtime.close()
    assert sorted(bool(sample.failure) for sample in found) == [False, False, True]
    held = samples.read(tmp_path / 's')
    np.testing.assert_allclose(held.latency_ms, held.widths.sum(1) / 100)


def test_xla_times_what_it_compiles(tmp_path):
    runtime, graph = XlaRuntime(built), tiny_graph.GRAPH
    assert isinstance(runtime, Runtime)
    networks = np.array([graph.smallest, graph.largest])
    found = list(measure(runtime, graph, networks, tmp_path / 's', batch=2, plan=QUICK))
    assert all(sample.ms > 0 and not sample.failure for sample in found)
    header = samples.read(tmp_path / 's').header
    assert header.versions['jax'] == jax.__version__
    assert 'core' in header.device


def test_the_network_opened_first_stays_ready():
    made = []

    def counted(widths):
        made.append(tuple(widths))
        return built(widths)

    runtime, (small, large) = XlaRuntime(counted), ((2, 5, 3, 4), (4, 5, 3, 4))
    for widths in (small, large, small, large):
        program = runtime.open(widths)
        assert program.time_ms() > 0
        program.close()
    assert made == [small, large, large]


def test_options_that_the_compiler_does_not_know_are_passed_over():
    assert known_options({'xla_no_such_option': 1, 'xla_cpu_parallel_codegen_split_count': 1}) == {
        'xla_cpu_parallel_codegen_split_count': 1
    }
    runtime = XlaRuntime(built, options={'xla_no_such_option': 1})
    assert runtime.open(tiny_graph.GRAPH.smallest.tolist()).time_ms() > 0


def test_a_network_that_does_not_compile_is_a_failure():
    with pytest.raises(RuntimeFailure, match='could not compile: TypeError'):
        XlaRuntime(lambda widths: (lambda x: x @ x, (jnp.ones((2, 3)),))).open([8])


def test_onnx_runtime_opens_a_chain_written_by_hand(tmp_path):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')

    def build(widths):
        sizes = [4, *(int(w) for w in widths)]
        shapes = list(itertools.pairwise(sizes))
        nodes = [
            onnx.helper.make_node('MatMul', [f'x{i}', f'w{i}'], [f'x{i + 1}']) for i in range(len(shapes))
        ]
        tensors = [
            onnx.numpy_helper.from_array(np.ones(shape, np.float32), f'w{i}')
            for i, shape in enumerate(shapes)
        ]
        ends = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, size])
            for name, size in (('x0', sizes[0]), (f'x{len(shapes)}', sizes[-1]))
        ]
        graph = onnx.helper.make_graph(nodes, 'chain', ends[:1], ends[1:], tensors)
        opset = [onnx.helper.make_opsetid('', 17)]
        return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()

    runtime = OnnxRuntime(build)
    assert isinstance(runtime, Runtime)
    networks = np.array([GRAPH.smallest, GRAPH.largest])
    found = list(measure(runtime, GRAPH, networks, tmp_path / 's', batch=2, plan=QUICK))
    assert all(sample.ms > 0 for sample in found)
    with pytest.raises(RuntimeFailure, match='could not open'):
        OnnxRuntime(lambda widths: b'no model').open([8])


@pytest.mark.parametrize(
    ('kind', 'shape', 'message'),
    [
        ('FLOAT', ['batch', 4], 'fix its sizes, the batch included'),
        ('STRING', [2, 4], r'is a tensor\(string\)'),
    ],
)
def test_onnx_inputs_that_cannot_be_made_up_are_named(kind, shape, message):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    ends = [
        onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)
        for name in ('images', 'same')
    ]
    node = onnx.helper.make_node('Identity', ['images'], ['same'])
    graph = onnx.helper.make_graph([node], 'nothing', ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid('', 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    with pytest.raises(RuntimeFailure, match=message):
        OnnxRuntime(lambda widths: model).open([8])
