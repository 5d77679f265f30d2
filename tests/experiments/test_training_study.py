"""The study of what ranks networks near a budget, through real trainings."""

import dataclasses
import json

import pytest

from experiments import training_study
from experiments.config import RankingConfig
from tests.own_network import on_a_device, small_run

pytestmark = pytest.mark.slow


def test_every_way_of_ranking_stands_against_whole_trainings_and_a_second_call_trains_nothing(tmp_path):
    config = on_a_device(small_run(tmp_path))
    config = dataclasses.replace(config, ranking=RankingConfig(standalone=3, seeds=(0, 1)))
    training_study.main(config)
    folder = config.run / 'training_study'
    found = json.loads((folder / 'results.json').read_text())
    assert len(found['networks']) == 3
    names = {row['ranks'] for row in found['rows']}
    assert {'FLOPs', 'log(width)', "supernet's loss", "supernet's rewards", '1 of the epochs, loss'} <= names
    for start in ('', ' from the supernet'):
        assert {f'0.25 of the epochs{start}, accuracy', f'0.5 of the epochs{start}, loss'} <= names
    trained = {path: path.stat().st_mtime_ns for path in folder.glob('*/*/result.json')}
    assert len(trained) == 3 * (2 + 1 + 2 * 2)
    training_study.main(config)
    assert trained == {path: path.stat().st_mtime_ns for path in folder.glob('*/*/result.json')}
    assert json.loads((folder / 'results.json').read_text())['whole'] == found['whole']
