"""Limits beside the budget, from the command line to the networks that are repaired; what cannot be met is said."""

import dataclasses

import numpy as np
import pytest

from experiments import baseline_widths, limits, repair_widths, search_widths
from experiments.budget import budget_ms
from experiments.command_line import parse
from experiments.config import AccuracyConfig, RepairConfig, SearchConfig
from experiments.paths import paths
from experiments.presets import DIGITS
from experiments.proposals import propose
from experiments.run_folder import Usage
from jcw.accuracy.table import untrained
from jcw.field import independent, scores
from jcw.latency import sizes
from jcw.latency.table import LatencyTable, flops_table, params_table
from tests.experiments.paper_device import PaperDevice
from tests.tiny_graph import mobilenet_v1

GRAPH = mobilenet_v1((8, 8, 1), 10, base_multiplier=0.5, levels=4, strides=(1,) * 14)
FLOPS = flops_table(GRAPH)
HERE = dataclasses.replace(FLOPS, entries=FLOPS.entries / 1e6, unit='ms per call')
GAIN = independent(np.where(GRAPH.present, np.sqrt(GRAPH.width_table / GRAPH.largest[:, None]), -np.inf))


def save(folder, table: LatencyTable) -> str:
    (folder / 'latency').mkdir(parents=True)
    table.save(folder / 'latency' / 'table.json')
    return str(folder)


@pytest.fixture
def phone(tmp_path) -> str:
    """The run folder of a device on which parameters count."""
    parameters = params_table(GRAPH)
    return save(
        tmp_path / 'phone',
        dataclasses.replace(parameters, entries=parameters.entries / 1e4, unit='ms per call'),
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose supernet is stood in for by a score; networks are timed on paper, 5 % slower than by their table."""

    def losses_of(*_):
        return lambda choices: float(-scores(GAIN, choices[None])[0])

    for module in (search_widths, repair_widths):
        monkeypatch.setattr(module, 'train', lambda *_: None)
        monkeypatch.setattr(module, 'utility_of', lambda *_: GAIN)
    monkeypatch.setattr(baseline_widths, 'losses_of', losses_of)
    PaperDevice(GRAPH, HERE, 1.05).install(monkeypatch)

    def repaired(**settings):
        search = SearchConfig(**{'frontier': 4, **settings})
        config = dataclasses.replace(
            DIGITS,
            run=tmp_path / 'run',
            search=search,
            accuracy=AccuracyConfig(trainings=0),
            repair=RepairConfig(rounds=6),
        )
        return config, repair_widths.repair(config, None, GRAPH, HERE)

    return repaired


def test_joint_and_baselines_hold_every_limit_and_what_was_not_measured_is_said(run, phone):
    parameters, base = params_table(GRAPH), float(params_table(GRAPH).predict(GRAPH.base))
    peak_kib = 1.05 * sizes.peak(GRAPH, GRAPH.base) * 4 / 1024
    settings = {
        'budget': 0.6,
        'also': (f'{phone}:{0.5 * base / 1e4:g}',),
        'multiple': 16,
        'least_width': 16,
        'parameters': int(0.52 * base),
        'peak_kib': peak_kib,
    }
    _, result = run(**settings)
    assert set(result['methods']) == {'joint', 'uniform', 'greedy'}
    for name, found in result['methods'].items():
        widths = np.array(found['widths'])
        assert found['holds'], name
        assert found['measured_ms'] <= result['budget_ms'], name
        assert (widths % 16 == 0).all(), name
        assert widths.min() >= 16, name
        assert parameters.predict(widths) <= 0.52 * base, name
        assert found['beside']['phone'] == pytest.approx(float(parameters.predict(widths)) / 1e4)
        assert found['beside']['phone'] <= 0.5 * base / 1e4, name
        assert sizes.peak(GRAPH, widths) * 4 / 1024 <= peak_kib, name
    line = repair_widths.describe(result)
    assert 'by tables alone: ' in line
    assert f'{result["methods"]["joint"]["beside"]["phone"]:.3f} ms on phone of' in line
    assert f'{result["methods"]["joint"]["beside"]["parameters"]:,.0f} parameters of' in line


def test_each_device_is_told_its_own_network_and_what_it_takes_elsewhere(run, phone):
    _, result = run(budget=0.5, also=(f'{phone}:12',))
    devices = result['devices']
    assert set(devices) == {'this device', 'phone'}
    for name, found in devices.items():
        assert found['ms'][name] <= found['budget_ms']
        value = scores(GAIN, GRAPH.to_choices([found['widths']]))[0]
        assert value == pytest.approx(found['utility'])
    lines = search_widths.describe_devices(result)
    assert [line.partition(' alone')[0] for line in lines] == ['this device', 'phone']
    assert f'{devices["phone"]["ms"]["this device"]:.3f} ms on this device' in lines[1]


def test_the_file_of_the_type_that_is_timed_is_limited(run):
    limit = 0.4 * float(sizes.file_table(GRAPH).predict(GRAPH.base)) / 1024
    _, result = run(budget=0.9, file_kib=limit)
    for found in result['methods'].values():
        size = float(sizes.file_table(GRAPH).predict(found['widths'])) / 1024
        assert size <= limit
        assert size == pytest.approx(found['beside']['file'])


def test_one_device_has_no_lines_of_devices(run):
    _, result = run(budget=0.5)
    assert result['devices'] == {}
    assert search_widths.describe_devices(result) == []
    assert 'by tables alone' not in repair_widths.describe(result)


def test_limits_have_folders_of_their_own_and_share_what_does_not_depend_on_them(run, phone):
    plain, _ = run(budget=0.5)
    config, _ = run(budget=0.5, multiple=16, also=(f'{phone}:45',))
    assert paths(config).search.name == '0.5_multiple16_phone45'
    assert paths(plain).search.name == '0.5'
    for name in ('samples', 'table', 'supernet', 'candidates'):
        assert getattr(paths(config), name) == getattr(paths(plain), name)
    assert paths(config).accuracy.parent == paths(plain).accuracy.parent
    assert paths(config).accuracy != paths(plain).accuracy


def test_another_table_of_the_other_device_is_refused(run, phone, tmp_path):
    entry = f'{phone}:30'
    run(budget=0.5, also=(entry,))
    changed = LatencyTable.load(tmp_path / 'phone' / 'latency' / 'table.json')
    dataclasses.replace(changed, base=0.01).save(tmp_path / 'phone' / 'latency' / 'table.json')
    limits.limits_of.cache_clear()
    with pytest.raises(Usage, match='holds results of other settings: also'):
        run(budget=0.5, also=(entry,))


def of(**search):
    return dataclasses.replace(DIGITS, search=SearchConfig(**search))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'parameters': 100}, r'within 100 parameters: the least reachable is [\d,]+ parameters'),
        ({'peak_kib': 0.5}, r'--search.peak-kib 0.5: the least reachable is [\d.]+ KiB, in float32'),
        ({'file_kib': 1.0}, r'within 1.0 KiB of file: the least reachable is [\d.]+ KiB of file'),
        ({'multiple': 48}, r"site 'stem' has the widths .*all its widths are multiples of 8"),
        ({'least_width': 400}, r"site 'stem' has the widths .*its multiples go up to \d+"),
        ({'multiple': 0}, '--search.multiple is at least 1'),
        ({'also': ('nowhere:3',)}, r'nowhere/latency/table.json is missing, run experiments.fit_latency'),
        ({'also': ('runs/phone',)}, 'expected FOLDER:MS, such as runs/phone:2.5'),
        ({'also': ('runs/phone:-1',)}, 'expected FOLDER:MS'),
        ({'budget': 0.01}, 'no configuration meets a budget'),
    ],
)
def test_a_limit_that_nothing_meets_is_refused_with_the_least_that_something_does(settings, message):
    with pytest.raises(Usage, match=message):
        budget_ms(of(**settings), HERE)


def test_a_budget_on_another_device_is_refused_with_the_least_reachable_there(phone, tmp_path):
    with pytest.raises(Usage, match=r'within 0.001 ms on phone: the least reachable is [\d.]+ ms on phone'):
        budget_ms(of(also=(f'{phone}:0.001',)), HERE)
    with pytest.raises(Usage, match="names 'phone' twice"):
        budget_ms(of(also=(f'{phone}:30', f'{phone}:20')), HERE)
    other = mobilenet_v1((8, 8, 1), 10, base_multiplier=0.25, levels=3)
    elsewhere = save(tmp_path / 'other', dataclasses.replace(flops_table(other), unit='ms per call'))
    with pytest.raises(Usage, match=r'the table lacks .* time the networks of this run there'):
        budget_ms(of(also=(f'{elsewhere}:30',)), HERE)


def test_limits_that_exclude_each_other_are_told_apart(tmp_path):
    """Narrow everywhere for one device, wide everywhere for the other: each alone can be met."""
    wide = dataclasses.replace(HERE, entries=np.max(HERE.entries) - HERE.entries)
    least = dataclasses.replace(wide).predict(GRAPH.largest)
    folder = save(tmp_path / 'wide', wide)
    here = float(HERE.predict(GRAPH.smallest))
    config = of(budget_ms=1.01 * here, also=(f'{folder}:{float(least) * 1.0001:g}',))
    with pytest.raises(Usage, match=r'not all at once: .* ms on this device within the others'):
        budget_ms(config, HERE)


def test_short_trainings_are_proposed_within_the_limits(phone, tmp_path, monkeypatch):
    PaperDevice(GRAPH, HERE).install(monkeypatch)
    config = dataclasses.replace(of(multiple=16, also=(f'{phone}:45',)), run=tmp_path / 'here')
    beliefs = untrained(GRAPH.site_names, GRAPH.width_choices)
    none = np.zeros((0, GRAPH.num_sites), np.int64)
    limit = 0.6 * float(HERE.predict(GRAPH.base))
    proposed = propose(config, GRAPH, HERE, beliefs, [limit], none, 6, last=False)
    widths = GRAPH.to_widths(proposed)
    assert len(proposed) == 6
    assert (widths % 16 == 0).all()
    assert (params_table(GRAPH).predict(widths) / 1e4 <= 45).all()
    assert (HERE.predict(widths) <= limit).all()


def test_the_command_line_takes_limits(tmp_path):
    args = ['--search.also', 'runs/phone:2.5', 'runs/board:9', '--search.parameters', '50000']
    search = parse(None, args=['digits', '--run', str(tmp_path), *args]).search
    assert (search.also, search.parameters) == (('runs/phone:2.5', 'runs/board:9'), 50000)
