"""LiteRT within reach of the stages: timing, files for a command, and the exported network."""

import json
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from experiments import export as export_stage
from experiments import quickstart, timing_process
from experiments.command_line import parse
from experiments.config import Config, ExportConfig, LatencyConfig
from experiments.measure_latency import measure
from experiments.run_folder import Usage
from jcw import deploy
from jcw.deploy import tflite
from jcw.latency.runtimes import LitertRuntime
from tests.tiny_graph import GRAPH

KEEPING = """
import json, shutil, sys
for line in sys.stdin:
    shutil.copy(json.loads(line)['network'], sys.argv[1])
    print('{"ms": 2.5}', flush=True)
"""


def request(runtime: str, **about) -> timing_process.Request:
    """Return what `measure_latency` asks for, of a tiny graph."""
    asked = {
        'graph': GRAPH.to_json(),
        'networks': [],
        'path': '',
        'runtime': runtime,
        'command': None,
        'command_format': 'none',
        'device': 'paper',
        'batch': 3,
        'dtype': 'float32',
        'cores': [],
        'compile_cores': [],
        'attempts': 1,
    }
    return timing_process.Request(**{**asked, **about})


@pytest.mark.parametrize(('dtype', 'output'), [('float32', 'float32'), ('int8', 'int8')])
def test_the_stages_time_the_network_that_ships(dtype, output):
    runtime = timing_process._runtime(request('litert', dtype=dtype), '')
    assert isinstance(runtime, LitertRuntime)
    for widths in (GRAPH.smallest.tolist(), GRAPH.largest.tolist()):
        taken, given = tflite.ends(runtime._build(widths))
        assert (taken.dtype, taken.shape) == ('uint8', (3, *GRAPH.input_shape))
        assert (given.dtype, given.shape) == (output, (3, 5))
        program = runtime.open(widths)
        assert program.time_ms() > 0
        program.close()
    runtime.close()


@pytest.mark.parametrize(('form', 'output'), [('tflite', 'float32'), ('int8', 'int8'), ('onnx', None)])
def test_a_command_is_given_the_file_that_it_asks_for(form, output, tmp_path):
    kept = tmp_path / 'kept'
    command = shlex.join([sys.executable, '-c', KEEPING, str(kept)])
    runtime = timing_process._runtime(request('command', command=command, command_format=form), '')
    program = runtime.open(GRAPH.base.tolist())
    assert program.time_ms() == 2.5
    assert program._request['network'].endswith('.onnx' if form == 'onnx' else '.tflite')
    program.close()
    runtime.close()
    assert runtime.details['network'] == form
    if form == 'onnx':
        onnx.checker.check_model(str(kept), full_check=True)
    else:
        assert tflite.ends(kept.read_bytes())[1].dtype == output


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'runtime': 'xla', 'dtype': 'int8'}, "'xla' times float32 and bfloat16, not int8: take .*'litert'"),
        ({'runtime': 'litert', 'dtype': 'bfloat16'}, "float32 and int8, not bfloat16: take runtime 'xla'"),
        ({'load_seconds': -1.0}, '--latency.load-seconds must not be negative, got -1'),
        ({'runtime': 'litert', 'command_format': 'int8'}, "command_format is for runtime 'command'"),
        (
            {'runtime': 'command', 'command': 'true', 'command_format': 'int8'},
            'int8 files while samples would state float32: set --latency.dtype int8',
        ),
        (
            {'runtime': 'command', 'command': 'true', 'command_format': 'tflite', 'dtype': 'int8'},
            'tflite files while samples would state int8: set --latency.dtype float32',
        ),
    ],
)
def test_types_that_do_not_go_together_are_refused_before_anything_is_claimed(tmp_path, settings, message):
    config = Config(run=tmp_path / 'run', latency=LatencyConfig(**settings))
    with pytest.raises(Usage, match=message):
        measure(config)
    assert not config.run.exists()


def test_sustained_load_is_asked_of_the_protocol():
    assert timing_process._plan(request('command', load_seconds=5.0)).load_s == 5.0
    assert timing_process._plan(request('xla')).load_s == 0.0


@pytest.mark.slow
def test_the_stage_times_int8_networks(tmp_path):
    from experiments.config import DataConfig, SpaceConfig
    from jcw.latency import samples

    latency = LatencyConfig(runtime='litert', dtype='int8', networks=3, batch=1, cores=None, attempts=1)
    space = SpaceConfig(base_multiplier=0.25, levels=3)
    held = samples.read(measure(Config(tmp_path, data=DataConfig(limit=100), space=space, latency=latency)))
    assert len(held.timed) == 3
    assert (held.header.runtime, held.header.dtype) == ('litert', 'int8')


@pytest.mark.parametrize(
    ('form', 'message'),
    [
        ('onnx', r"--export\.onnx needs onnx: pip install -e '\.\[onnx\]'"),
        ('int8', r"--export\.int8 needs ai-edge-litert and ai-edge-quantizer: pip install -e '\.\[litert\]'"),
    ],
)
def test_a_form_whose_package_is_missing_is_refused_before_anything_is_done(
    monkeypatch, tmp_path, form, message
):
    config = parse('', args=['digits', '--run', str(tmp_path), f'--export.{form}'])
    monkeypatch.setattr(export_stage.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(Usage, match=message):
        quickstart.main(config)
    assert not any(tmp_path.iterdir())


def test_the_command_line_reaches_the_forms_of_export():
    config = parse('', args=['digits', '--export.int8', '--export.onnx', '--export.batch', '4'])
    assert config.export == ExportConfig(onnx=True, int8=True, batch=4)
    with pytest.raises(SystemExit, match='calibration-images must be at least 1'):
        parse('', args=['digits', '--export.calibration-images', '0'])


def test_the_stage_exports_every_form_and_tests_those_of_litert(tmp_path, monkeypatch):
    """Training is stood in for; what is exported, calibrated and tested is real."""
    from jcw import data
    from tests.tiny_graph import random_variables

    rng = np.random.default_rng(0)

    def examples(count: int) -> data.Examples:
        images = rng.integers(0, 256, (count, *GRAPH.input_shape), np.uint8)
        return data.Examples(images, rng.integers(0, GRAPH.num_classes, count).astype(np.int32))

    dataset = data.Dataset(
        'noise', examples(60), examples(5), examples(30), tuple('abcde'), (0.5,) * 3, (0.3,) * 3
    )
    widths = GRAPH.largest.tolist()
    chosen = {'widths': widths, 'ms': 1.0, 'measured_ms': 1.1, 'measured_error': 0.01}
    stands = {
        'found': lambda config: {'budget_ms': 2.0, 'methods': {'joint': chosen}},
        'train': lambda *_: {'test_accuracy': 0.2},
        'variables_of': lambda *_: random_variables(0),
    }
    for name, stand in stands.items():
        monkeypatch.setattr(export_stage, name, stand)
    about = {'device': 'paper', 'runtime': 'xla', 'dtype': 'float32', 'batch': 1}
    monkeypatch.setattr(export_stage, 'load_table', lambda config: SimpleNamespace(provenance=about))
    forms = ExportConfig(onnx=True, int8=True, batch=7, calibration_images=20)
    folder = export_stage.export(Config(tmp_path, export=forms), dataset, GRAPH)
    said = json.loads((folder / 'network.json').read_text())['litert']
    assert (folder / 'network.onnx').exists()
    for name in ('network.tflite', 'network.int8.tflite'):
        logits = deploy.litert_logits((folder / name).read_bytes(), dataset.test.images)
        assert said[name]['accuracy'] == np.mean(logits.argmax(-1) == dataset.test.labels)
        assert said[name]['input']['shape'] == [7, *GRAPH.input_shape]
    plain = export_stage.export(Config(tmp_path / 'plain'), dataset, GRAPH)
    assert not [path.name for path in plain.glob('*.tflite')]
    assert not (plain / 'network.onnx').exists()


def test_calibration_images_come_from_all_over_a_sorted_set():
    from jcw import data

    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    source = data.Examples(images, np.zeros(100, np.int32))
    np.testing.assert_array_equal(export_stage.from_all_over(source, 4)[:, 0, 0, 0], [0, 33, 66, 99])
    assert len(export_stage.from_all_over(source, 1000)) == 100
