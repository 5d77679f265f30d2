"""The programs that time a phone or a board, run as a user does, against an adb and an ssh that behave alike."""

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from jcw import deploy
from jcw.latency import samples
from jcw.latency.measure import TimingPlan, measure
from jcw.latency.runtimes import CommandRuntime, RuntimeFailure, remote
from tests.tiny_graph import GRAPH

ROOT = Path(__file__).parents[2]

BENCHMARK = """#!/bin/sh
# Prints what LiteRT's benchmark_model prints; a kilobyte takes 0.1 ms.
for argument in "$@"; do
  case $argument in --graph=*) graph=${argument#--graph=} ;; esac
done
echo "$@" >> "$(dirname "$0")/asked"
if [ ! -f "$graph" ]; then echo "ERROR: Could not open '$graph'."; echo "ERROR: Benchmarking failed."; exit 1; fi
us=$(($(wc -c < "$graph") / 10))
echo "INFO: STARTING!"
echo "INFO: Graph: [$graph]"
echo "INFO: Initialized session in 5.579ms."
echo "INFO: Running benchmark for at least 3 iterations and at least 0 seconds."
echo "INFO: count=3 first=9$us curr=8$us min=7$us max=9$us avg=8$us std=2 p5=7$us median=8$us p95=9$us"
echo ""
echo "INFO: count=20 first=$us curr=$us min=$us max=9$us avg=1.24027e+06 std=2565 p5=$us median=$us p95=9$us"
echo ""
echo "INFO: Inference timings in us: Init: 5579, First inference: 1357602," \\
  "Warmup (avg): 1.3576e+06, Inference (avg): 1.24027e+06"
echo "INFO: Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832"
"""

DEVICE = """#!{python}
# adb and ssh as far as they are used: they read their standard input to its end.
import os, shutil, subprocess, sys, time
trouble = open({trouble!r}).read()
arguments = sys.argv[1:]
while arguments[0] in ('-s', '-o'):
    arguments = arguments[2:]
if trouble == 'offline':
    sys.exit('adb: error: failed to get feature set: device offline')
if trouble == 'slow':
    time.sleep(60)
if arguments[0] == 'push':
    if trouble == 'full':
        sys.exit("adb: error: failed to copy 'x' to 'y': remote couldn't create file: No space left on device")
    shutil.copy(*arguments[1:])
    print('x: 1 file pushed, 0 skipped. 34.1 MB/s (17066880 bytes in 0.477s)')
    sys.exit()
if trouble == 'garbage' and 'benchmark_model' in arguments[-1]:
    print('WARNING: linker: unsupported flags')
    sys.exit()
done = subprocess.run(['sh', '-c', arguments[-1]])
sys.stdin.read()
sys.exit(0 if trouble == 'old' else done.returncode)  # adb before Android 7 does not tell the status
"""


@pytest.fixture
def device(tmp_path, monkeypatch):
    """Return a function that sets what is wrong with the device; its folder is `tmp_path / 'device'`."""
    folder, programs, trouble = tmp_path / 'device', tmp_path / 'programs', tmp_path / 'trouble'
    folder.mkdir()
    programs.mkdir()
    executables = {folder / 'benchmark_model': BENCHMARK}
    for name in ('adb', 'ssh'):
        executables[programs / name] = DEVICE.format(python=sys.executable, trouble=str(trouble))
    for path, content in executables.items():
        path.write_text(content)
        path.chmod(0o755)
    trouble.write_text('')
    monkeypatch.setenv('PATH', f'{programs}:{os.environ["PATH"]}')
    return trouble.write_text


def runtime(tmp_path: Path, program: str = 'time_on_phone', *options: str, **about) -> CommandRuntime:
    first = [] if program == 'time_on_phone' else ['me@board']
    command = [sys.executable, str(ROOT / 'scripts' / program), *first, '--folder', str(tmp_path / 'device')]
    about = {'export': lambda widths: b'x' * 1000 * int(widths[0]), 'suffix': '.tflite', **about}
    return CommandRuntime([*command, *options], device='phone', **about)


def bench(tmp_path: Path, **about) -> remote.Bench:
    folder = str(tmp_path / 'device')
    return remote.Bench(remote.Adb(), f'{folder}/benchmark_model', folder, **about)


def network(tmp_path: Path, size: int = 1000) -> Path:
    path = tmp_path / f'{size}.tflite'
    path.write_bytes(b'x' * size)
    return path


@pytest.mark.parametrize('program', ['time_on_phone', 'time_over_ssh'])
def test_networks_are_timed_on_the_device_through_the_program(device, tmp_path, program):
    timed = runtime(
        tmp_path, program, export=lambda widths: deploy.litert_model(GRAPH, [int(w) for w in widths])
    )
    networks = np.array([GRAPH.smallest, GRAPH.largest])
    quick = TimingPlan(warmup=0, calls=1, min_visits=2, max_visits=2, attempts=1, window=2)
    found = list(measure(timed, GRAPH, networks, tmp_path / 's', batch=1, plan=quick))
    timed.close()
    sizes = {tuple(w): len(deploy.litert_model(GRAPH, w)) for w in networks.tolist()}
    times = [sample.ms / sizes[tuple(sample.widths)] for sample in found]
    np.testing.assert_allclose(times, 1e-4, rtol=1e-2)
    assert len(samples.read(tmp_path / 's').timed) == 2


def test_the_file_on_the_device_is_the_network_and_goes_there_once(device, tmp_path):
    timing = bench(tmp_path, threads=4, mask='f0', warmup_s=5.0, options=('--use_gpu=true',))
    timing.mask = None  # there is no taskset to be sure of here
    path = network(tmp_path)
    assert [timing.time_ms(path) for _ in range(3)] == [0.1, 0.1, 0.1]
    (held,) = (tmp_path / 'device').glob('*.tflite')
    assert held.read_bytes() == path.read_bytes()
    before = held.stat().st_mtime_ns
    timing.time_ms(path)
    assert held.stat().st_mtime_ns == before
    asked = (tmp_path / 'device' / 'asked').read_text().splitlines()[0]
    for option in ('--num_threads=4', '--warmup_min_secs=5', '--num_runs=20', '--use_gpu=true'):
        assert option in asked.split()
    timing.mask = 'f0'
    assert timing._command('x')[:2] == ['taskset', 'f0']
    timing.close()
    assert not list((tmp_path / 'device').glob('*.tflite'))


def test_the_device_does_not_fill_up(device, tmp_path):
    timing = bench(tmp_path)
    for size in range(1000, 1000 + 10 * (remote.KEPT + 3), 10):
        timing.time_ms(network(tmp_path, size))
    assert len(list((tmp_path / 'device').glob('*.tflite'))) == remote.KEPT
    assert timing.time_ms(network(tmp_path, 1000)) == 0.1  # one that had to make room goes there again


@pytest.mark.parametrize(
    ('trouble', 'reason'),
    [
        ('offline', 'adb failed with status 1: adb: error: .*device offline'),
        ('full', 'adb failed with status 1: .*No space left on device'),
        ('slow', 'adb: no answer within 1 s'),
        ('garbage', 'benchmark_model told no time: WARNING: linker: unsupported flags'),
    ],
)
def test_what_is_wrong_with_the_device_is_the_reason_and_the_next_network_is_timed(
    device, tmp_path, trouble, reason
):
    timed = runtime(tmp_path, 'time_on_phone', '--time-limit', '1')
    device(trouble)
    with pytest.raises(RuntimeFailure, match=reason):
        timed.open([4]).time_ms()
    device('')
    assert timed.open([8]).time_ms() == 0.8
    timed.close()


@pytest.mark.parametrize('trouble', ['', 'old'])
def test_a_benchmark_that_is_absent_or_may_not_be_run_is_named(device, tmp_path, trouble):
    device(trouble)
    program = tmp_path / 'device' / 'benchmark_model'
    program.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with pytest.raises(RuntimeFailure, match='Permission denied'):
        bench(tmp_path).time_ms(network(tmp_path))
    program.unlink()
    with pytest.raises(RuntimeFailure, match='not found'):
        bench(tmp_path).time_ms(network(tmp_path))


def test_what_a_killed_program_left_on_the_device_is_removed_by_the_next(device, tmp_path):
    bench(tmp_path).time_ms(network(tmp_path))
    (tmp_path / 'device' / 'photo.tflite').write_text('of the user')
    bench(tmp_path).time_ms(network(tmp_path, 2000))
    held = sorted(path.name for path in (tmp_path / 'device').glob('*.tflite'))
    assert len(held) == 2
    assert held[1] == 'photo.tflite'


def test_a_network_that_vanished_from_the_device_is_a_failure(device, tmp_path):
    timing = bench(tmp_path)
    timing.time_ms(network(tmp_path))
    for held in (tmp_path / 'device').glob('*.tflite'):
        held.unlink()
    with pytest.raises(RuntimeFailure, match='Benchmarking failed'):
        timing.time_ms(network(tmp_path))


def test_a_missing_adb_is_named(tmp_path):
    timing = remote.Bench(remote.Adb(program='no-such-adb'), 'benchmark_model', '/data')
    with pytest.raises(RuntimeFailure, match='could not start no-such-adb'):
        timing.time_ms(network(tmp_path))


def test_a_request_without_a_file_says_what_to_set(device, tmp_path):
    lines = ['{"widths": [4]}', 'nonsense', '{"network": "/no/such/file"}']
    answers = [json.loads(line)['error'] for line in remote.answers(bench(tmp_path), lines)]
    assert ['--latency.command-format' in answer for answer in answers] == [True, True, False]
    assert 'cannot read the network' in answers[2]


COUNTED = 'count=50 first=3 curr=3 min=2 max=4 avg={avg} std=1{more}'
SUMMARY = 'Inference timings in us: Init: 1, First inference: 3, Warmup (avg): 9e9, Inference (avg): {avg}'


@pytest.mark.parametrize(
    ('avg', 'more', 'ms'),
    [
        ('2.95034e+06', '', 2950.34),  # as older releases print it
        ('7654.32', '', 7.65432),
        ('2.95034e+06', ' p5=1 median=2900000 p95=3', 2900.0),
        ('980', ' p5=1 median=977 p95=3', 0.977),
    ],
)
def test_times_are_read_from_every_release(avg, more, ms):
    output = f'{COUNTED.format(avg=avg, more=more)}\n{SUMMARY.format(avg=avg)}\nPeak memory: 3\n'
    assert remote.parse(output) == pytest.approx(ms)


@pytest.mark.parametrize(
    'output',
    ['', '\n', 'count=1 curr=3512391 p5=1 median=3512391 p95=1\n', SUMMARY.format(avg='0'), SUMMARY[:-5]],
)
def test_output_that_ends_early_is_no_time(output):
    with pytest.raises(RuntimeFailure, match='benchmark_model told no'):
        remote.parse(output)
