import dataclasses
import json

import jax
import numpy as np
import pytest

from jcw import mrf, records
from jcw.latency import design, samples
from jcw.latency.measure import Protocol, measure
from jcw.latency.metrics import errors
from jcw.latency.signatures import Signatures, work_of
from jcw.latency.table import LatencyTable, activations_table, fit_samples, flops_table, params_table
from jcw.space import LayerSignature
from tests.latency.simulated import SimulatedRuntime, small_space, true_table

SPACE = small_space()
QUICK = Protocol(calls=10, min_visits=3, max_visits=4, window=4)


def networks(count: int, seed: int = 0) -> np.ndarray:
    return design.random_networks(jax.random.key(seed), SPACE, count)


@pytest.fixture(scope='module')
def device() -> SimulatedRuntime:
    return SimulatedRuntime(
        SPACE, true_table(SPACE), noise=0.03, drift=lambda n: 1 + 0.3 * np.sin(n / 900), outlier_rate=0.03
    )


@pytest.fixture(scope='module')
def table(device, tmp_path_factory) -> LatencyTable:
    path = tmp_path_factory.mktemp('table') / 's.jsonl'
    list(
        measure(device, SPACE, design.sequence(jax.random.key(0), SPACE, 120), path, batch=8, protocol=QUICK)
    )
    return fit_samples(samples.read(path))[0]


def test_a_known_device_is_recovered_through_noise_drift_and_outliers(device, table):
    truth = device.true_ms(networks(300, 1))
    found = table.predict(networks(300, 1))
    assert errors(found * np.mean(truth / found), truth).nrmse < 0.015
    assert np.mean(found / truth) == pytest.approx(1, abs=0.3)  # up to the speed at which the file was begun


def test_error_bars_hold_the_truth(device, table):
    truth = device.true_ms(networks(300, 1))
    found = table.predict(networks(300, 1))
    inside = np.abs(found - truth * np.mean(found / truth)) < 2 * table.predict_std(networks(300, 1))
    assert inside.mean() > 0.9


def test_the_chains_score_is_the_prediction(table):
    cost = table.to_cost(SPACE)
    for widths in [SPACE.smallest, SPACE.base, SPACE.largest, *networks(5)]:
        expected = table.predict(widths)
        assert float(mrf.score(cost, SPACE.to_choices(widths))) == pytest.approx(expected, rel=1e-5)


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    table.save(tmp_path / 'table.json')
    again = LatencyTable.load(tmp_path / 'table.json')
    widths = networks(20)
    np.testing.assert_array_equal(again.predict(widths), table.predict(widths))
    np.testing.assert_allclose(again.predict_std(widths), table.predict_std(widths), rtol=1e-6)
    assert again.provenance['device'] == 'paper, 1 core'
    assert again.provenance['held_out']['nrmse'] < 0.1
    assert again.provenance['batch'] == 8


def test_a_narrower_space_is_served_and_a_foreign_one_refused(table):
    part = dataclasses.replace(SPACE, width_choices=tuple(w[1:3] for w in SPACE.width_choices))
    choices = np.ones(6, np.int32)
    cost = float(mrf.score(table.to_cost(part), choices))
    assert cost == pytest.approx(table.predict(part.to_widths(choices)), rel=1e-5)
    with pytest.raises(ValueError, match='the table lacks'):
        table.to_cost(dataclasses.replace(SPACE, input_shape=(32, 32, 3)))


def test_widths_outside_the_space_are_refused(table):
    with pytest.raises(ValueError, match='width 7 of layer 0'):
        table.predict([7, *SPACE.smallest[1:]])


@pytest.mark.parametrize('text', ['', '[]', '{"version": 9, "entries": []}', '{"version": 1}'])
def test_what_is_not_a_table_is_refused(tmp_path, text):
    (tmp_path / 't').write_text(text)
    with pytest.raises(ValueError, match='is not'):
        LatencyTable.load(tmp_path / 't')


def test_entries_that_do_not_fit_the_space_are_refused(tmp_path):
    table = flops_table(SPACE)
    table.save(tmp_path / 't')
    stated = json.loads((tmp_path / 't').read_text())
    del stated['entries'][1]
    (tmp_path / 't').write_text(json.dumps(records.summed(stated)))
    with pytest.raises(ValueError, match='do not fit'):
        LatencyTable.load(tmp_path / 't')


def test_flops_and_parameters_are_those_counted_by_hand():
    widths = SPACE.smallest
    flops, parameters = 0, 0
    channels, size = 3, 16
    for layer, width in zip(SPACE.layers, map(int, widths), strict=True):
        out = size // layer.stride
        if layer.kind == 'conv':
            flops += 2 * out * out * 9 * channels * width
            parameters += 9 * channels * width + width
        else:
            flops += 2 * out * out * channels * (9 + width)
            parameters += 9 * channels + channels + channels * width + width
        channels, size = width, out
    assert flops_table(SPACE).predict(widths) == flops + 2 * channels * 10
    assert params_table(SPACE).predict(widths) == parameters + channels * 10 + 10
    assert flops_table(SPACE).predict_std(widths) == 0


def test_layers_of_one_signature_share_an_entry():
    signatures = Signatures(SPACE)
    assert len(set(signatures.all)) == len(signatures.all) == len(signatures)
    for widths in networks(5):
        entries = signatures.entries(SPACE.to_choices(widths))
        assert [signatures.all[e] for e in entries] == list(SPACE.signatures(widths))
    together = signatures.incidence(SPACE.to_choices(networks(5)))
    assert (together.sum(1) == SPACE.num_layers + 1).all()


def test_monotone_pairs_differ_by_one_width_alone():
    signatures = Signatures(SPACE)
    for narrow, wide in signatures.monotone_pairs:
        a, b = signatures.all[narrow], signatures.all[wide]
        assert a[:5] == b[:5]
        assert (a.in_channels < b.in_channels) != (a.out_channels < b.out_channels)


def test_work_of_strided_layers_rounds_up():
    work = work_of(LayerSignature('separable', 3, 2, 5, 5, 8, 16))
    assert (work.depthwise, work.dense) == (9 * 9 * 8, 9 * 8 * 16)


def test_peak_activations_are_what_the_greatest_operation_reads_and_writes():
    from jcw.space import mobilenet_v1

    space = mobilenet_v1((32, 32, 3), 10)
    cost, choices = activations_table(space).to_cost(), space.to_choices(space.base)
    parts = [cost.unary[0, choices[0]], *cost.pairwise[np.arange(13), choices[:-1], choices[1:]]]
    stem = 32 * 32 * 3 + 16 * 16 * 32  # its stride is 2
    first = 16 * 16 * max(32 + 32, 32 + 64)
    second = max(16 * 16 * 64 + 8 * 8 * 64, 8 * 8 * (64 + 128))
    np.testing.assert_array_equal(parts[:3], [stem, first, second])
