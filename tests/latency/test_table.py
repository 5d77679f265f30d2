import dataclasses
import json

import jax
import numpy as np
import pytest

from jcw import deploy, records
from jcw.builder import build
from jcw.field import score, scores
from jcw.latency import design, samples
from jcw.latency.entries import Entries, layers_of, signature, work_of
from jcw.latency.measure import TimingPlan, measure
from jcw.latency.metrics import errors
from jcw.latency.table import LatencyTable, fit_samples, flops_table, params_table
from tests.latency.simulated import SimulatedRuntime, small_graph, true_table
from tests.tiny_graph import RESIDUAL, random_choices, random_graph

GRAPH = small_graph()
GRAPHS = {'chain': GRAPH, 'residual': RESIDUAL, **{f'random {seed}': random_graph(seed) for seed in range(6)}}
QUICK = TimingPlan(calls=10, min_visits=3, max_visits=4, window=4)


def networks(count: int, seed: int = 0) -> np.ndarray:
    return design.random_networks(jax.random.key(seed), GRAPH, count)


@pytest.fixture(scope='module')
def device() -> SimulatedRuntime:
    return SimulatedRuntime(
        GRAPH, true_table(GRAPH), noise=0.03, drift=lambda n: 1 + 0.3 * np.sin(n / 900), outlier_rate=0.03
    )


@pytest.fixture(scope='module')
def table(device, tmp_path_factory) -> LatencyTable:
    path = tmp_path_factory.mktemp('table') / 's.jsonl'
    list(measure(device, GRAPH, design.sequence(jax.random.key(0), GRAPH, 120), path, batch=8, plan=QUICK))
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


def test_error_bars_of_few_networks_held_out_are_as_large_as_the_errors(tmp_path):
    """A table fits few networks closely, so that its own error bars are too small for these."""
    scores_of, own = [], []
    for seed in range(6):
        device = SimulatedRuntime(
            GRAPH, true_table(GRAPH, seed, roughness=0.3), noise=0.01, own=0.01, seed=seed
        )
        path = tmp_path / f'{seed}.jsonl'
        wanted = design.sequence(jax.random.key(seed), GRAPH, 32)
        list(measure(device, GRAPH, wanted, path, batch=8, plan=QUICK))
        timed = samples.read(path)
        table, fit = fit_samples(timed)
        wrong = fit.predicted - timed.latency_ms
        scores_of += [*(wrong / fit.deviations)]
        own += [*(wrong / table.predict_std(timed.widths))]
    assert 0.85 < np.std(scores_of) < 1.25
    assert 0.9 < np.mean(np.abs(scores_of) < 2) < 0.99
    assert np.std(own) > 1.1 * np.std(scores_of)


def test_the_fields_score_is_the_prediction(table):
    cost = table.to_cost(GRAPH)
    for widths in [GRAPH.smallest, GRAPH.base, GRAPH.largest, *networks(5)]:
        expected = table.predict(widths)
        assert float(score(cost, GRAPH.to_choices(widths))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('name', GRAPHS)
def test_the_fields_score_is_the_prediction_on_any_graph(name):
    graph = GRAPHS[name]
    table = LatencyTable(graph, np.random.default_rng(0).uniform(1, 2, len(Entries(graph))), base=0.5)
    choices = random_choices(1, 50, graph=graph)
    predicted = table.predict(graph.to_widths(choices))
    np.testing.assert_allclose(scores(table.to_cost(), choices), predicted, rtol=1e-12)
    assert (predicted > 0.5).all()


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    table.save(tmp_path / 'table.json')
    again = LatencyTable.load(tmp_path / 'table.json')
    widths = networks(20)
    np.testing.assert_array_equal(again.predict(widths), table.predict(widths))
    np.testing.assert_allclose(again.predict_std(widths), table.predict_std(widths), rtol=1e-6)
    assert again.provenance['device'] == 'paper, 1 core'
    assert again.provenance['held_out']['nrmse'] < 0.1
    assert again.provenance['batch'] == 8


def test_a_narrower_graph_is_served_and_a_foreign_one_refused(table):
    sites = tuple(dataclasses.replace(site, choices=site.choices[1:3]) for site in GRAPH.sites)
    part = dataclasses.replace(GRAPH, sites=sites)
    choices = np.ones(6, np.int32)
    cost = float(score(table.to_cost(part), choices))
    assert cost == pytest.approx(table.predict(part.to_widths(choices)), rel=1e-5)
    with pytest.raises(ValueError, match='the table lacks'):
        table.to_cost(dataclasses.replace(GRAPH, input_shape=(32, 32, 3)))


def test_widths_outside_the_graph_are_refused(table):
    with pytest.raises(ValueError, match="width 7 of site 'site_0'"):
        table.predict([7, *GRAPH.smallest[1:]])


@pytest.mark.parametrize('text', ['', '[]', '{"version": 9, "entries": []}', '{"version": 1}'])
def test_what_is_not_a_table_is_refused(tmp_path, text):
    (tmp_path / 't').write_text(text)
    with pytest.raises(ValueError, match='is not'):
        LatencyTable.load(tmp_path / 't')


def test_entries_that_do_not_fit_the_graph_are_refused(tmp_path):
    table = flops_table(GRAPH)
    table.save(tmp_path / 't')
    stated = json.loads((tmp_path / 't').read_text())
    del stated['entries'][1]
    (tmp_path / 't').write_text(json.dumps(records.summed(stated)))
    with pytest.raises(ValueError, match='do not fit'):
        LatencyTable.load(tmp_path / 't')


def counted(graph, widths) -> tuple[int, int]:
    """Count FLOPs and parameters of the deployed weights: a kernel works once at each of its positions."""
    fixed, flops, parameters = graph.fixed(widths), 0, 0
    shapes = deploy.shapes(fixed)
    for op, (height, width) in zip(fixed.operations, fixed.sizes, strict=True):
        if op.kind == 'images':
            continue
        for name, leaf in shapes.get(op.name, {}).items():
            parameters += leaf.size
            if name.endswith('kernel'):
                flops += 2 * leaf.size * (1 if op.kind == 'gate' else height * width)
    return flops, parameters


@pytest.mark.parametrize('name', GRAPHS)
def test_flops_and_parameters_are_those_of_the_deployed_weights(name):
    graph = GRAPHS[name]
    for widths in graph.to_widths(random_choices(0, 10, graph=graph)):
        found = flops_table(graph).predict(widths), params_table(graph).predict(widths)
        assert found == counted(graph, widths)
    assert flops_table(graph).predict_std(graph.smallest) == 0


def test_flops_and_parameters_are_those_counted_by_hand():
    flops, parameters = 0, 0
    channels, size = 3, 16
    for site, (width, stride) in enumerate(zip(GRAPH.smallest.tolist(), (1, 1, 2, 1, 1, 2), strict=True)):
        out = size // stride
        if site == 0:
            flops += 2 * out * out * 9 * channels * width
            parameters += 9 * channels * width + width
        else:
            flops += 2 * out * out * channels * (9 + width)
            parameters += 9 * channels + channels + channels * width + width
        channels, size = width, out
    assert flops_table(GRAPH).predict(GRAPH.smallest) == flops + 2 * channels * 10
    assert params_table(GRAPH).predict(GRAPH.smallest) == parameters + channels * 10 + 10


@pytest.mark.parametrize('name', GRAPHS)
def test_layers_of_one_signature_share_an_entry_and_dropped_ones_have_none(name):
    graph = GRAPHS[name]
    entries = Entries(graph)
    assert len(set(entries.all)) == len(entries.all) == len(entries)
    parts = sorted(place for layer in entries.layers for place in layer.operations)
    assert parts == list(range(1, len(graph.operations)))
    choices = random_choices(0, 20, graph=graph)
    for used, widths in zip(entries.used(choices), graph.to_widths(choices), strict=True):
        zero = {site.name for site, width in zip(graph.sites, widths, strict=True) if width == 0}
        for entry, layer in zip(used, entries.layers, strict=True):
            assert (entry < 0) == bool(graph.drops[layer.anchor] & zero)
            ends = (graph.width(end, widths) for end in layer.ends)
            assert entry < 0 or entries.all[entry] == signature(graph, layer, *ends)
    np.testing.assert_array_equal(entries.incidence(choices).sum(1), (entries.used(choices) >= 0).sum(1))


def test_two_layers_of_a_chain_share_their_entries():
    used = Entries(GRAPH).used(np.zeros(GRAPH.num_sites, np.int32))
    assert len(set(used.tolist())) == len(used) - 1


@pytest.mark.parametrize('graph', [GRAPH, RESIDUAL], ids=['chain', 'residual'])
def test_monotone_pairs_differ_by_one_width_alone(graph):
    entries = Entries(graph)
    assert len(entries.monotone_pairs)
    for narrow, wide in entries.monotone_pairs:
        a, b = entries.all[narrow], entries.all[wide]
        assert a[:3] == b[:3]
        assert (a.in_channels < b.in_channels) != (a.out_channels < b.out_channels)


def test_a_layer_from_a_width_to_the_same_has_an_entry_for_each_width_and_grows_in_both():
    def net(g):
        x = g.conv(g.images, g.site('stream', 16, (8, 16, 24)), kernel=3)
        return g.classify(g.conv(x, 'stream', kernel=3))

    entries = Entries(build(net, (5, 5, 3), 10))
    index = entries.index[1]
    np.testing.assert_array_equal(index >= 0, np.eye(3, dtype=bool))
    pairs = {tuple(pair) for pair in entries.monotone_pairs.tolist()}
    assert {(index[0, 0], index[1, 1]), (index[1, 1], index[2, 2])} <= pairs


def test_work_of_strided_layers_rounds_up():
    def net(g):
        x = g.conv(g.images, g.site('a', 8, (8,)))
        return g.classify(g.conv(g.depthwise(x, stride=2), g.site('b', 16, (16,))))

    graph = build(net, (5, 5, 3), 10)
    work = work_of(graph, layers_of(graph)[1], 8, 16)
    assert (work.depthwise, work.pointwise, work.spatial) == (9 * 9 * 8, 9 * 8 * 16, 0)


def test_an_operation_that_would_be_timed_with_one_that_stays_is_refused():
    def net(g):
        x = g.conv(g.images, g.site('stream', 8, (8,)))
        y = g.conv(g.conv(x, g.site('inner', 8, (0, 8))), 'stream')
        return g.classify(g.add(x, g.depthwise(y)))

    told = r"'004_depthwise' would be timed with '007_dense', which stays where site 'inner' is 0"
    with pytest.raises(ValueError, match=told):
        layers_of(build(net, (5, 5, 3), 10))
