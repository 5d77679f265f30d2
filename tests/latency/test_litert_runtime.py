"""LiteRT as a runtime: what is timed is the deployed network, in the type that the samples state."""

import dataclasses
import os
import sys

import numpy as np
import pytest

from jcw import deploy
from jcw.latency import samples, timing
from jcw.latency.measure import TimingPlan, measure
from jcw.latency.runtimes import LitertRuntime, Runtime, RuntimeFailure
from tests.tiny_graph import GRAPH

QUICK = TimingPlan(calls=2, min_visits=2, max_visits=2, attempts=1, window=3)


def build(widths) -> bytes:
    return deploy.litert_model(GRAPH, widths, batch=2)


def narrow(widths) -> bytes:
    images = np.random.default_rng(0).integers(0, 256, (2, *GRAPH.input_shape), np.uint8)
    return deploy.litert_int8(build(widths), images)


@pytest.mark.parametrize(('dtype', 'built'), [('float32', build), ('int8', narrow)])
def test_networks_are_timed_and_the_samples_say_in_what(tmp_path, dtype, built):
    runtime = LitertRuntime(built, dtype=dtype)
    assert isinstance(runtime, Runtime)
    networks = np.array([GRAPH.smallest, GRAPH.largest])
    path = tmp_path / 's'
    found = list(measure(runtime, GRAPH, networks, path, batch=2, dtype=dtype, plan=QUICK))
    assert all(sample.ms > 0 and not sample.failure for sample in found)
    header = samples.read(path).header
    assert (header.runtime, header.dtype, header.batch) == ('litert', dtype, 2)
    assert header.versions['ai-edge-litert']
    assert header.details['threads'] == str(len(os.sched_getaffinity(0)))
    assert header.details.get('calibration') == ('random bytes' if dtype == 'int8' else None)


def test_images_are_what_the_deployed_network_takes():
    (taken,) = LitertRuntime(build).open(GRAPH.base.tolist())._interpreter.get_input_details()
    assert (taken['dtype'], tuple(taken['shape'])) == (np.uint8, (2, *GRAPH.input_shape))


@pytest.mark.parametrize('content', [b'no model', b''])
def test_what_is_no_model_is_a_failure(content):
    with pytest.raises(RuntimeFailure, match='could not open'):
        LitertRuntime(lambda widths: content).open(GRAPH.base.tolist())


def test_a_network_that_cannot_be_written_is_a_failure():
    with pytest.raises(RuntimeFailure, match='could not open: expected 4 widths, got 2'):
        LitertRuntime(build).open([4, 8])


def test_a_type_that_it_does_not_compute_in_is_refused():
    with pytest.raises(ValueError, match='times float32 and int8, not bfloat16'):
        LitertRuntime(build, dtype='bfloat16')


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ai_edge_litert.interpreter', None)
    with pytest.raises(ValueError, match="ai-edge-litert ai-edge-quantizer, or the extra 'litert'"):
        LitertRuntime(build)


def test_sustained_load_comes_before_the_first_timed_call_and_the_header_says_so(tmp_path, monkeypatch):
    clock = [0.0]

    class Program:
        def time_ms(self) -> float:
            clock[0] += 0.5
            return 1.0 if clock[0] < 60 else 3.0  # having lowered its clock

        def close(self) -> None:
            pass

    class Phone:
        name, device, versions, details = 'phone', 'phone', {}, {'governor': 'schedutil'}

        def open(self, widths):
            return Program()

        def prefetch(self, networks):
            pass

        def close(self):
            pass

    monkeypatch.setattr(timing.time, 'perf_counter', lambda: clock[0])
    networks = np.array([GRAPH.smallest])
    for load, ms, said in [(0.0, 1.0, None), (60.0, 3.0, '60 s before timing')]:
        clock[0] = 0.0
        path = tmp_path / f'{load}'
        list(measure(Phone(), GRAPH, networks, path, batch=1, plan=dataclasses.replace(QUICK, load_s=load)))
        header = samples.read(path).header
        assert header.reference_ms == ms
        assert header.details.get('load') == said
    short = dataclasses.replace(QUICK, load_s=30.0)
    for held, was in [(0.0, 'None'), (60.0, "'60 s before timing'")]:
        with pytest.raises(ValueError, match=f"load '30 s before timing' instead of {was}"):
            list(
                measure(Phone(), GRAPH, np.array([GRAPH.largest]), tmp_path / f'{held}', batch=1, plan=short)
            )
    with pytest.raises(ValueError, match='load_s must be a time, got -1'):
        TimingPlan(load_s=-1.0)
