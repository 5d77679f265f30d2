"""Where the processes run that time networks and compile the next ones."""

import dataclasses
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import measure_latency, timing_process
from experiments.config import Config, DataConfig, LatencyConfig, SpaceConfig
from experiments.measure_latency import measure
from experiments.paths import paths
from experiments.presets import STRIDES_8
from experiments.run_folder import Usage
from jcw.latency import samples
from jcw.latency.runtimes import Runtime
from tests.tiny_graph import GRAPH

ROOT = Path(__file__).parents[2]
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []


def pinned(inherited: list[int], wanted: list[int]) -> list[int]:
    """Return the cores of a process that was started on some and asks for others."""
    code = (
        f'import os; os.sched_setaffinity(0, {inherited})\n'
        f'from experiments.timing_process import _pin; _pin({wanted})\n'
        'print(*sorted(os.sched_getaffinity(0)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return [int(core) for core in done.stdout.split()]


@pytest.mark.skipif(len(CORES) < 2, reason='needs two cores to tell them apart')
def test_a_process_started_on_one_core_moves_to_the_core_it_is_given():
    first, second = CORES[:2]
    assert pinned([first], [second]) == [second]


@pytest.mark.skipif(not CORES, reason='needs a system with processor affinity')
@pytest.mark.parametrize('wanted', [[], [10_000]])
def test_cores_that_do_not_exist_leave_a_process_where_it_is(wanted):
    assert pinned(CORES[:1], wanted) == CORES[:1]


ANSWERING = [sys.executable, '-u', '-c', 'import sys\nfor _ in sys.stdin: print(\'{"ms": 2.5}\')']


def request(runtime: str, **about) -> timing_process.Request:
    """Return what `measure_latency` asks for, of the tiny graph."""
    about = {'batch': 3, 'dtype': 'float32', 'command': None, 'compile_cores': [], **about}
    return timing_process.Request(
        GRAPH.to_json(), [], path='', runtime=runtime, device='paper', cores=[], attempts=1, **about
    )


def test_it_ends_without_a_word_where_nobody_listens_any_more(tmp_path):
    networks = [GRAPH.smallest.tolist(), GRAPH.largest.tolist()]
    asked = request('command', command=shlex.join(ANSWERING))
    asked = dataclasses.replace(asked, networks=networks, path=str(tmp_path / 'samples.jsonl'))
    (tmp_path / 'request.json').write_text(json.dumps(dataclasses.asdict(asked)))
    listening, answering = os.pipe()
    os.close(listening)
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.timing_process'],
        cwd=ROOT,
        input=f'{tmp_path / "request.json"}\n',
        stdout=answering,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(answering)
    assert (done.returncode, done.stderr) == (0, '')
    assert len(samples.read(tmp_path / 'samples.jsonl').timed) == 1  # what was timed is kept


@pytest.mark.parametrize('name', ['xla', 'onnx', 'litert', 'command'])
def test_every_runtime_times_the_networks_that_the_stages_build_for_it(name):
    runtime = timing_process._runtime(request(name, command=shlex.join(ANSWERING)), '')
    assert isinstance(runtime, Runtime)
    try:
        for widths in (GRAPH.smallest.tolist(), GRAPH.largest.tolist()):
            program = runtime.open(widths)
            assert program.time_ms() > 0
            program.close()
    finally:
        runtime.close()


def test_onnx_runtime_is_fed_what_the_deployed_network_takes():
    program = timing_process._runtime(request('onnx'), '').open(GRAPH.base.tolist())
    (images,) = program._feeds.values()
    assert (images.dtype, images.shape) == (np.uint8, (3, *GRAPH.input_shape))
    assert images.min() < 64 < 192 < images.max()


def test_a_dtype_that_the_runtime_does_not_time_is_refused(tmp_path):
    with pytest.raises(ValueError, match='times float32 on the CPU, not bfloat16'):
        timing_process._runtime(request('onnx', dtype='bfloat16'), '')
    config = Config(run=tmp_path / 'run', latency=LatencyConfig(runtime='onnx', dtype='bfloat16'))
    with pytest.raises(Usage, match='times float32, not bfloat16'):
        measure(config)
    assert not config.run.exists()  # a refused setting claims nothing


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'dtype'), [('xla', 'float32'), ('litert', 'float32'), ('litert', 'int8')])
def test_networks_that_the_stages_make_ahead_are_opened(tmp_path, name, dtype):
    file = tmp_path / 'request.json'
    asked = request(name, dtype=dtype, compile_cores=[0])
    file.write_text(json.dumps(dataclasses.asdict(asked)))
    runtime = timing_process._runtime(asked, str(file))
    small, large = (tuple(widths.tolist()) for widths in (GRAPH.smallest, GRAPH.largest))
    try:
        runtime.prefetch([small, large])
        ahead = runtime._ahead
        with ahead._changed:
            assert ahead._changed.wait_for(lambda: len(ahead._ready) == 2, 120)
        assert runtime.open(large).time_ms() > 0
        assert (ahead.made, len(ahead._ready)) == (2, 1)
    finally:
        runtime.close()
    assert jax.config.jax_compilation_cache_dir is None
    assert jax.jit(lambda x: x + 3)(1) == 4


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'stated'), [('onnx', 'onnxruntime'), ('command', 'command')])
def test_the_stage_times_networks_with_every_other_runtime(tmp_path, name, stated):
    latency = LatencyConfig(
        runtime=name, command=shlex.join(ANSWERING), networks=3, batch=1, cores=None, attempts=1
    )
    held = samples.read(measure(Config(run=tmp_path, data=DataConfig(limit=100), latency=latency)))
    assert len(held.timed) == 3
    assert (held.header.runtime, held.header.dtype) == (stated, 'float32')


def test_one_process_times_the_networks_of_one_call_after_another(tmp_path):
    command = [
        sys.executable,
        '-u',
        '-c',
        'import os, sys\nfor _ in sys.stdin: print(\'{"ms": %d}\' % os.getppid())',
    ]
    latency = LatencyConfig(runtime='command', command=shlex.join(command), batch=1, cores=None)
    config = Config(run=tmp_path, latency=latency)
    asked = GRAPH.smallest.tolist(), GRAPH.largest.tolist()
    for widths in asked:
        held = measure_latency.time_networks(config, GRAPH, [widths], paths(config).samples, '')
    assert len(held.timed) == 2
    assert len({ms for sample in held.timed for visit in sample.calls_ms for ms in visit}) == 1


class Opened:
    """A runtime that knows whether it was closed."""

    def __init__(self, request, file):
        self.open = True

    def close(self):
        self.open = False


def test_a_runtime_serves_one_request_after_another_of_its_kind(monkeypatch):
    monkeypatch.setattr(timing_process, '_runtime', Opened)
    kept, first = timing_process._Kept(), request('xla')
    with kept.runtime(first, '') as runtime:
        pass
    with kept.runtime(dataclasses.replace(first, networks=[[1]], path='b', long_visits=3), '') as again:
        assert again is runtime
    assert runtime.open
    with kept.runtime(dataclasses.replace(first, compile_cores=[1]), '') as ahead:
        assert ahead is not runtime
        assert not runtime.open
    with kept.runtime(first, '') as again:
        assert again is ahead
    with kept.runtime(dataclasses.replace(first, batch=9), '') as other:
        assert other is not ahead
    kept.close()
    assert not other.open


@pytest.mark.parametrize(('name', 'opened'), [('xla', 1), ('command', 2)])
def test_requests_share_a_runtime_but_not_a_program_of_the_users(monkeypatch, tmp_path, name, opened):
    made = []

    def runtime(request, file):
        made.append(Opened(request, file))
        return made[-1]

    monkeypatch.setattr(timing_process, '_runtime', runtime)
    monkeypatch.setattr(timing_process, '_timed', lambda request, runtime: [{'path': request.path}])
    monkeypatch.setattr(tempfile, 'tempdir', None)  # so that it is as before in the end
    lines = []
    for path in ('a', 'b'):
        file = tmp_path / f'{path}.json'
        file.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(request(name), path=path))))
        lines.append(f'{file}\n')
    out = io.StringIO()
    timing_process._answer(lines, out)
    assert out.getvalue() == '{"path": "a"}\n\n{"path": "b"}\n\n'
    assert len(made) == opened
    assert not any(each.open for each in made)


@pytest.mark.parametrize(('backend', 'closed'), [('cpu', 0), ('gpu', 1)])
def test_an_accelerator_is_left_to_training_between_calls(monkeypatch, backend, closed):
    class Asked:
        closed = 0

        def ask(self, request):
            yield {'ms': 1.0}

        def close(self):
            self.closed += 1

    process = Asked()
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    monkeypatch.setattr(measure_latency, '_process', lambda *_: process)
    assert [*measure_latency._answers(Config(), request('xla'))] == [{'ms': 1.0}]
    assert process.closed == closed


def test_a_runtime_with_which_something_went_wrong_is_closed(monkeypatch):
    monkeypatch.setattr(timing_process, '_runtime', Opened)
    kept = timing_process._Kept()
    with pytest.raises(ValueError, match='wrong'), kept.runtime(request('xla'), '') as runtime:
        raise ValueError('wrong')
    assert not runtime.open
    with kept.runtime(request('xla'), '') as other:
        assert other is not runtime


@pytest.mark.slow
def test_what_another_start_would_not_cure_ends_the_stage_in_a_line(tmp_path):
    latency = LatencyConfig(runtime='command', command='/no/such/program', networks=3, cores=None)
    with pytest.raises(
        Usage, match=r'nothing can be timed: the reference network .* could not start the command'
    ):
        measure(Config(run=tmp_path, data=DataConfig(limit=100), latency=latency))


def test_candidates_of_long_calls_have_more_visits_than_networks_of_a_table(tmp_path):
    config = Config(run=tmp_path)
    files = paths(config).samples, paths(config).candidates
    asked = [measure_latency._request(config, GRAPH, [], file, {}) for file in files]
    assert [timing_process._plan(each).long_visits for each in asked] == [3, 5]
    assert timing_process._plan(asked[1]).min_visits == 5


@pytest.mark.parametrize('platform', ['gpu', 'tpu'])
def test_on_an_accelerator_networks_are_compiled_in_turn_on_all_cores(monkeypatch, platform):
    """Compiling for one tries programs on it, which would disturb what is timed; and a core is not what is timed."""
    monkeypatch.setattr(jax, 'default_backend', lambda: platform)
    config = Config(latency=LatencyConfig(cores=(0,)))
    asked = measure_latency._request(config, GRAPH, [], Path('samples.jsonl'), {})
    assert asked.cores == []
    runtime = timing_process._runtime(dataclasses.replace(asked, compile_cores=[0]), 'request.json')
    assert runtime._ahead is None
    assert not [name for name in runtime.details if name.startswith('xla_cpu')]
    assert runtime.open(GRAPH.smallest.tolist()).time_ms() > 0


def test_a_tpu_serves_one_process_so_it_is_timed_from_the_one_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
    monkeypatch.setattr(measure_latency, '_process', None)
    latency = LatencyConfig(networks=2, batch=1, attempts=1, calls=5, visits=2)
    space = SpaceConfig(base_multiplier=0.25, max_multiplier=0.5, levels=2, strides=STRIDES_8)
    config = Config(run=tmp_path, data=DataConfig(limit=100), space=space, latency=latency)
    held = samples.read(measure(config))
    assert len(held.timed) == 2


@pytest.mark.parametrize(('number', 'worker'), [(3, []), (4, [1])])
def test_a_few_networks_are_compiled_by_the_process_that_times_them(tmp_path, monkeypatch, number, worker):
    def asked(config, request, *_):
        raise Usage(str(request.compile_cores))

    monkeypatch.setattr(measure_latency, '_run', asked)
    config = Config(run=tmp_path, latency=LatencyConfig(cores=(0,), compile_cores=(1,)))
    networks = [(width, 5, 3, 4) for width in (2, 4, 6)] + [(2, 2, 3, 4)]
    with pytest.raises(Usage, match=re.escape(str(worker))):
        measure_latency.time_networks(config, GRAPH, networks[:number], tmp_path / 'samples.jsonl', '')


@pytest.mark.parametrize(('set_by_user', 'held'), [(None, 'false'), ('true', 'true')])
def test_the_timing_process_leaves_memory_of_an_accelerator_to_others(monkeypatch, set_by_user, held):
    name = 'XLA_PYTHON_CLIENT_PREALLOCATE'
    monkeypatch.setenv(name, '')  # so that it is as before in the end
    monkeypatch.delenv(name)
    if set_by_user:
        monkeypatch.setenv(name, set_by_user)
    seen = []
    monkeypatch.setattr(timing_process, '_serve', lambda: seen.append(os.environ[name]))
    timing_process.main()
    assert seen == [held]
