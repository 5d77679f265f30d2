"""What a run has taken, by part of the work; and what is said of a budget."""

import time

import numpy as np
import pytest

from experiments import spent
from experiments.budget import budget_ms, describe
from experiments.config import Config, SearchConfig
from experiments.run_folder import Usage
from jcw.latency.table import LatencyTable, flops_table
from tests.tiny_graph import GRAPH


def test_a_part_within_another_is_counted_once(tmp_path):
    with spent.on(tmp_path, 'outer'):
        time.sleep(0.15)
        with spent.on(tmp_path, 'inner'):
            time.sleep(0.3)
    found = spent.of_run(tmp_path)
    assert list(found) == ['inner', 'outer']
    assert 0.3 <= found['inner'] < 0.45
    assert 0.1 <= found['outer'] < 0.3


def failing(run):
    with spent.on(run, 'work'):
        time.sleep(0.3)
        raise ValueError('wrong')


def test_parts_at_work_count_so_far(tmp_path, monkeypatch):
    clock = iter(
        [0, 2, 6, 7, 7, 7]
    )  # one part after another begins, then all are asked how long they have taken
    monkeypatch.setattr(spent.time, 'monotonic', clock.__next__)
    with spent.on(tmp_path, 'outer'), spent.on(tmp_path, 'inner'), spent.on(tmp_path / 'another', 'inner'):
        found = spent.of_run(tmp_path)
        monkeypatch.undo()
    assert found == {'inner': 4, 'outer': 2}


def test_what_was_spent_before_an_error_counts_and_starts_add_up(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match='wrong'):
            failing(tmp_path)
    assert spent.of_run(tmp_path)['work'] >= 0.6
    assert spent.describe(tmp_path) == '1 s: work 1 s.'


def test_a_damaged_line_of_the_log_is_left_out(tmp_path):
    (tmp_path / 'spent.jsonl').write_text('{"part": "work", "seconds": 2.5}\n[1]\n{"part": 3}\n{"part": "wo')
    assert spent.of_run(tmp_path) == {'work': 2.5}


def table() -> LatencyTable:
    entries = flops_table(GRAPH).entries / 1e5
    return LatencyTable(GRAPH, entries, base=0.1, provenance={'batch': 1})


def config(**search) -> Config:
    return Config(search=SearchConfig(**search))


def test_a_budget_says_of_how_many_images_it_is():
    assert 'ms per call of 1 image, 90% of the base network' in describe(config(budget=0.9), table())
    assert 'excludes nothing' not in describe(config(budget=0.9), table())


def test_a_budget_that_excludes_nothing_is_said():
    largest = float(table().predict(GRAPH.largest))
    said = describe(config(budget_ms=np.ceil(largest + 1)), table())
    assert f'excludes nothing, since the largest network takes {largest:.3f} ms' in said


def test_a_budget_in_per_cent_is_refused_with_the_fraction():
    with pytest.raises(Usage, match=r'--search.budget 60 looks like per cent: .* such as 0.6'):
        budget_ms(config(budget=60.0), table())
