"""The LiteRT forms answer as the trained network, of native operators alone; int8 in whole numbers."""

import json
import sys

import flatbuffers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from jcw import deploy, zoo
from jcw.builder import build
from jcw.deploy import folder as files
from jcw.deploy import int8, tflite
from jcw.nets.axes import slice_variables
from tests.closeness import assert_close
from tests.tiny_graph import RESIDUAL, random_graph

BATCH = 48  # 360 test images are not whole batches of it


@pytest.fixture(scope='module')
def folded(trained):
    sliced = slice_variables(trained.variables, trained.graph, trained.widths)
    fixed = trained.graph.fixed(trained.widths)
    return deploy.fold(sliced, fixed, trained.digits.mean, trained.digits.std)


@pytest.fixture(scope='module')
def model(trained, folded) -> bytes:
    return deploy.litert_model(trained.graph, trained.widths, folded, BATCH)


@pytest.fixture(scope='module')
def narrow(trained, model) -> bytes:
    return deploy.litert_int8(model, trained.digits.train.take(slice(256)).images)


def accuracy(logits, trained) -> float:
    return float((logits.argmax(-1) == trained.digits.test.labels).mean())


def forward(graph, folded, images):
    folded = jax.tree.map(jnp.asarray, folded)
    return deploy.forward(folded, jnp.asarray(images), graph, implementation='native')


def random_bytes(graph, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *graph.input_shape), np.uint8)


def test_float32_answers_as_the_trained_network_on_the_whole_test_set(trained, model):
    logits = deploy.litert_logits(model, trained.digits.test.images)
    assert_close(logits, trained.logits, 1e-4)
    np.testing.assert_array_equal(logits.argmax(-1), trained.logits.argmax(-1))


def test_int8_answers_nearly_as_the_trained_network_on_the_whole_test_set(trained, narrow):
    """Trained for a moment, it is undecided between classes more often than a finished one is."""
    logits = deploy.litert_logits(narrow, trained.digits.test.images)
    assert accuracy(logits, trained) > accuracy(trained.logits, trained) - 0.02
    assert (logits.argmax(-1) == trained.logits.argmax(-1)).mean() > 0.94
    error = np.sqrt(
        ((logits - trained.logits) ** 2).mean()
    )  # the greatest of 3,600 is a matter of the machine
    assert error < 0.01 * np.ptp(trained.logits)


@pytest.mark.parametrize('seed', range(6))
def test_any_graph_answers_as_its_folded_function(seed):
    graph = random_graph(seed)
    for widths in (graph.smallest, graph.largest, graph.to_widths(np.zeros(graph.num_sites, int))):
        fixed, images = graph.fixed(widths), random_bytes(graph, 3)
        folded = deploy.random(fixed, seed)
        found = deploy.litert_logits(deploy.litert_model(graph, widths, folded, 3), images)
        assert_close(found, forward(fixed, folded, images))


def test_dropped_blocks_leave_no_operator():
    smallest = RESIDUAL.to_widths(RESIDUAL.settled(np.zeros(RESIDUAL.num_sites, int)))
    whole, left = (
        tflite.operators(deploy.litert_model(RESIDUAL, widths)) for widths in (RESIDUAL.largest, smallest)
    )
    assert left.total() < whole.total()
    fixed, images = RESIDUAL.fixed(smallest), random_bytes(RESIDUAL, 2)
    folded = deploy.random(fixed, 1)
    found = deploy.litert_logits(deploy.litert_model(RESIDUAL, smallest, folded, 2), images)
    assert_close(found, forward(fixed, folded, images))


@pytest.mark.parametrize(
    'name', ['mobilenet_v1', 'mobilenet_v2', 'efficientnet_lite0', 'resnet18', 'resnet50']
)
def test_networks_are_written_in_one_native_operator_for_each_operation(name):
    graph = build(zoo.NETWORKS[name], (32, 32, 3), 10, base_multiplier=0.25)
    kinds = [op.kind for op in graph.fixed(graph.base).operations]
    counts = {
        'CAST': 1,  # of the images, and a depthwise convolution that normalises them
        'DEPTHWISE_CONV_2D': 1 + kinds.count('depthwise'),
        'CONV_2D': kinds.count('conv'),
        'ADD': kinds.count('add'),
        'MAX_POOL_2D': kinds.count('max_pool'),
        'MEAN': 1,
        'FULLY_CONNECTED': 1,
    }
    found = tflite.operators(deploy.litert_model(graph, graph.base))
    assert found == {operator: count for operator, count in counts.items() if count}


def test_gates_and_hard_swish_take_seven_operators_and_one():
    graph = build(zoo.NETWORKS['mobilenet_v3'], (32, 32, 3), 10, base_multiplier=0.25)
    operations = graph.fixed(graph.base).operations
    kinds = [op.kind for op in operations]
    found = tflite.operators(deploy.litert_model(graph, graph.base))
    assert found['CONV_2D'] == kinds.count('conv') + 2 * kinds.count('gate')
    assert found['MUL'] == 2 * kinds.count('gate')
    assert found['MEAN'] == 1 + kinds.count('gate')
    assert found['HARD_SWISH'] == sum(op.activation == 'hard_swish' for op in operations)
    named = {'CAST', 'DEPTHWISE_CONV_2D', 'CONV_2D', 'ADD', 'MEAN', 'MUL', 'HARD_SWISH', 'FULLY_CONNECTED'}
    assert set(found) == named


@pytest.mark.parametrize('seed', [1, 4, 6])
def test_int8_holds_whole_numbers_alone_whatever_the_operations(seed):
    graph = random_graph(seed)
    folded, images = deploy.random(graph.fixed(graph.largest), 3), random_bytes(graph, 64)
    wide = deploy.litert_model(graph, graph.largest, folded, 3)
    narrow = deploy.litert_int8(wide, images)
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    held = Interpreter(model_content=narrow, experimental_op_resolver_type=resolver)
    held.allocate_tensors()
    assert {np.dtype(t['dtype']).name for t in held.get_tensor_details()} == {'uint8', 'int8', 'int32'}
    given, before = tflite.operators(narrow), tflite.operators(wide)
    assert (given.pop('QUANTIZE'), before.pop('CAST')) == (1, 1)  # bytes to signed bytes, the same numbers
    parted = before.pop('HARD_SWISH', 0)  # which is slow in int8: an addition and two products are not
    before.update({'ADD': parted, 'MUL': 2 * parted})
    assert given == +before
    logits, exact = deploy.litert_logits(narrow, images), forward(graph.fixed(graph.largest), folded, images)
    assert np.corrcoef(logits.ravel(), np.asarray(exact).ravel())[0, 1] > 0.9


def test_quantising_prints_nothing_however_large_the_network(capsys):
    graph = build(zoo.mobilenet_v2, (32, 32, 3), 10, base_multiplier=0.25)
    images = random_bytes(graph, 2)
    deploy.litert_int8(deploy.litert_model(graph, graph.smallest), images)
    assert capsys.readouterr() == ('', '')


def test_dead_channels_do_not_break_the_int_form():
    """A range from 0 to 0 has no scale."""
    graph = random_graph(0)
    fixed = graph.fixed(graph.largest)
    folded = deploy.random(fixed)
    dead = next(op.name for op in fixed.operations if op.kind == 'conv' and op.activation == 'relu')
    folded[dead] = {name: np.zeros_like(leaf) - (name == 'bias') for name, leaf in folded[dead].items()}
    images = random_bytes(graph, 8)
    narrow = deploy.litert_int8(deploy.litert_model(graph, graph.largest, folded), images)
    assert np.isfinite(deploy.litert_logits(narrow, images)).all()


def test_types_and_scales_can_be_read_from_the_files(trained, model, narrow):
    shape, logits = (BATCH, *trained.graph.input_shape), (BATCH, 10)
    assert tflite.ends(model) == (
        ('images', 'uint8', shape, None, None),
        ('logits', 'float32', logits, None, None),
    )
    taken, given = tflite.ends(narrow)
    assert taken == ('images', 'uint8', shape, 1.0, 0)
    assert given[:3] == ('logits', 'int8', logits)
    assert given.scale * 255 == pytest.approx(np.ptp(trained.logits), rel=0.5)
    assert -128 <= given.zero_point <= 127


def test_files_can_be_called_by_signature(trained, model, narrow):
    images = trained.digits.test.images[:BATCH]
    for content in (model, narrow):
        run = Interpreter(model_content=content).get_signature_runner('serving_default')
        np.testing.assert_array_equal(
            run(images=images)['logits'].argmax(-1), deploy.litert_logits(content, images).argmax(-1)
        )


def test_constants_lie_where_a_processor_may_read_them_at_once(model, narrow):
    for content in (model, narrow):
        for index, buffer in enumerate(tflite.from_bytes(content).buffers):
            if buffer.data is None or len(buffer.data) < 8:
                continue
            places = [
                place
                for place in range(0, len(content), tflite.ALIGNMENT)
                if content[place : place + len(buffer.data)] == buffer.data.tobytes()
            ]
            assert places, f'constant {index} begins at no multiple of {tflite.ALIGNMENT}'


def test_the_same_network_is_the_same_file(trained, folded, model, narrow):
    assert deploy.litert_model(trained.graph, trained.widths, folded, BATCH) == model
    assert deploy.litert_int8(model, trained.digits.train.take(slice(256)).images) == narrow


def test_export_writes_both_with_types_scales_and_accuracies(trained, narrow, tmp_path):
    def accuracy_of(content):
        return accuracy(deploy.litert_logits(content, trained.digits.test.images), trained)

    images = trained.digits.train.take(slice(256)).images
    folder = trained.export(tmp_path / 'network', litert=BATCH, calibration=images, accuracy_of=accuracy_of)
    assert (folder / 'network.int8.tflite').read_bytes() == narrow
    said = json.loads((folder / 'network.json').read_text())
    for name in (files.LITERT, files.LITERT_INT8):
        taken, given = tflite.ends((folder / name).read_bytes())
        about = said['litert'][name]
        assert about['accuracy'] == accuracy_of((folder / name).read_bytes())
        assert about['input'] == json.loads(json.dumps(taken._asdict()))
        assert about['output'] == json.loads(json.dumps(given._asdict()))
        assert name in said['checksums']
    deploy.load(folder)
    for name in (files.LITERT, files.LITERT_INT8):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ValueError, match=f'damaged: the checksum of {name} differs'):
            deploy.load(folder)
        (folder / name).write_bytes(whole)
    (folder / files.LITERT).unlink()
    with pytest.raises(ValueError, match=f'damaged: {files.LITERT} is missing'):
        deploy.load(folder)


def test_export_writes_only_what_is_asked_for(trained, tmp_path):
    folder = trained.export(tmp_path / 'one', litert=True)
    assert (folder / files.LITERT).exists()
    assert not (folder / files.LITERT_INT8).exists()
    assert json.loads((folder / 'network.json').read_text())['litert'][files.LITERT]['accuracy'] is None
    with pytest.raises(ValueError, match='give litert, its batch size'):
        trained.export(tmp_path / 'two', calibration=trained.digits.test.images)
    assert not (tmp_path / 'two').exists()


def test_what_does_not_fit_is_refused_with_what_was_expected(trained, model, narrow):
    images = trained.digits.test.images
    with pytest.raises(ValueError, match='batch must be positive, got 0'):
        deploy.litert_model(trained.graph, trained.widths, batch=0)
    for wrong in (images[:, 1:], images / np.float32(255), images[0], images[:0]):
        with pytest.raises(ValueError, match=r'calibration needs uint8 images \[8, 8, 1\], got'):
            deploy.litert_int8(model, wrong)
    for wrong in (images[:, 1:], images / np.float32(255)):
        with pytest.raises(ValueError, match=r'expected uint8 images \[8, 8, 1\], got'):
            deploy.litert_logits(model, wrong)
    with pytest.raises(ValueError, match='uint8 -> float32, got uint8 -> int8'):
        deploy.litert_int8(narrow, images)
    with pytest.raises(ValueError, match='not a LiteRT model'):
        deploy.litert_int8(b'PK\x03\x04 something else', images)
    assert deploy.litert_logits(model, images[:0]).shape == (0, 10)


def test_damaged_files_are_refused_and_never_taken_for_others(trained, model, narrow):
    images = trained.digits.test.images[:2]
    for content in (model, narrow):
        for cut in (0, 7, 8, 20, len(content) // 2, len(content) - 9):
            for call in (deploy.litert_logits, deploy.litert_int8):
                with pytest.raises(ValueError, match='not a LiteRT model'):
                    call(content[:cut], images)
            with pytest.raises(ValueError, match='LiteRT model'):
                tflite.ends(content[:cut])


def changed(model: bytes, change) -> bytes:
    """Return a model whose objects were changed."""
    read = tflite.from_bytes(model)
    change(read, read.subgraphs[0])
    return tflite.to_bytes(read)


def no_inputs(read, part):
    part.inputs = []


def an_input_that_is_not_there(read, part):
    part.inputs = [10**6]


def a_type_that_nobody_knows(read, part):
    part.tensors[0].type = 99


def a_name_that_is_no_text(read, part):
    part.tensors[0].name = b'\xff\xfe'


def a_scale_without_a_zero_point(read, part):
    part.tensors[0].quantization = tflite.schema().QuantizationParametersT(scale=[1.0])


def no_network(read, part):
    read.subgraphs = []


@pytest.mark.parametrize(
    'damage',
    [
        *(no_inputs, an_input_that_is_not_there, a_type_that_nobody_knows),
        *(a_name_that_is_no_text, a_scale_without_a_zero_point, no_network),
    ],
)
def test_ends_that_state_what_cannot_be_are_a_damaged_model(model, damage):
    with pytest.raises(ValueError, match='a damaged LiteRT model: '):
        tflite.ends(changed(model, damage))


def an_operator_that_nobody_knows(read, part):
    read.operatorCodes[0].builtinCode = 9999


def an_operator_without_a_code(read, part):
    part.operators[0].opcodeIndex = 99


@pytest.mark.parametrize('damage', [an_operator_that_nobody_knows, an_operator_without_a_code, no_network])
def test_operators_that_cannot_be_counted_are_a_damaged_model(model, damage):
    with pytest.raises(ValueError, match='a damaged LiteRT model: '):
        tflite.operators(changed(model, damage))


def behind(model: bytes, moved: int = 0) -> bytes:
    """Return a model whose first constant lies behind the FlatBuffer, as those of large models do, or is said to."""
    read = tflite.from_bytes(model)
    place = next(i for i, buffer in enumerate(read.buffers) if buffer.data is not None)
    content = read.buffers[place].data.tobytes()

    def packed(offset: int) -> bytes:
        builder = flatbuffers.Builder(0)
        read.buffers[place].data, read.buffers[place].offset = None, offset
        read.buffers[place].size = len(content)
        builder.Finish(read.Pack(builder), b'TFL3')
        return bytes(builder.Output())

    length = len(packed(2**20))
    return packed(length + moved) + content


def test_constants_behind_the_flatbuffer_are_read(model):
    read, expected = tflite.from_bytes(behind(model)), tflite.from_bytes(model)
    for buffer, own in zip(read.buffers, expected.buffers, strict=True):
        assert (buffer.data is None) == (own.data is None)
        if own.data is not None:
            np.testing.assert_array_equal(buffer.data, own.data)
    assert tflite.ends(behind(model)) == tflite.ends(model)


def test_constants_behind_the_end_of_the_file_are_a_damaged_model(model):
    for moved in (1, 2**40):
        with pytest.raises(ValueError, match='a damaged LiteRT model: '):
            tflite.from_bytes(behind(model, moved))


def another_first_operator(read, part):
    """Take bytes by DEQUANTIZE, as files of other converters do."""
    types = tflite.schema()
    part.tensors[0].quantization = types.QuantizationParametersT(scale=[1.0], zeroPoint=[0])
    first = tflite.make_operator(read, 'DEQUANTIZE', [0], int(part.operators[0].outputs[0]), {})
    part.operators[0] = first


def no_signature(read, part):
    read.signatureDefs = []


@pytest.mark.parametrize(
    ('damage', 'message'),
    [(another_first_operator, 'does not begin with CAST'), (no_signature, 'states no signature')],
)
def test_models_of_others_that_run_are_not_made_int8(trained, model, damage, message):
    foreign, images = changed(model, damage), trained.digits.test.images[:4]
    assert_close(deploy.litert_logits(foreign, images), deploy.litert_logits(model, images))
    with pytest.raises(ValueError, match=f'not a model of litert_model: it {message}'):
        deploy.litert_int8(foreign, images)


def test_what_the_quantizer_cannot_take_is_a_value_error(trained, model, monkeypatch):
    def lost(*_):
        raise RuntimeError('no such tensor')

    monkeypatch.setattr(int8, '_ranges', lost)
    with pytest.raises(ValueError, match='a damaged LiteRT model: RuntimeError: no such tensor'):
        deploy.litert_int8(model, trained.digits.test.images[:4])


def test_a_model_of_two_inputs_is_refused(trained, model):
    read = tflite.from_bytes(model)
    read.subgraphs[0].inputs = [0, 1]
    with pytest.raises(ValueError, match='one input and one output, got 2 and 1'):
        deploy.litert_logits(tflite.to_bytes(read), trained.digits.test.images)


@pytest.mark.parametrize(
    ('package', 'call'),
    [
        ('ai_edge_litert', lambda model, graph: deploy.litert_model(graph, graph.base)),
        ('ai_edge_quantizer', lambda model, graph: deploy.litert_int8(model, random_bytes(graph, 4))),
    ],
)
def test_a_missing_package_is_named_with_the_extra(model, trained, monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs the package {package.replace('_', '-')}.*extra 'litert'"):
        call(model, trained.graph)


def test_ranges_come_from_all_calibration_images(trained, model):
    """Also from those after the last whole part, and a range holds zero or not as the images have it."""
    images = trained.digits.train.take(slice(int8.PART + 1)).images
    bright = images.copy()
    bright[-1] = 255 - bright[-1]
    assert deploy.litert_int8(model, images) != deploy.litert_int8(model, bright)
