"""Settings and run folders."""

import dataclasses

import pytest

from experiments.command_line import parse
from experiments.config import Config
from experiments.presets import DIGITS, PRESETS
from experiments.run_folder import Usage, claim, read_json, save_json


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Stand where no run has left its settings."""
    monkeypatch.chdir(tmp_path)


def test_every_preset_parses_by_name():
    for name, (_, config) in PRESETS.items():
        assert parse(None, args=[name]) == config


def test_without_a_name_the_preset_is_digits_and_settings_may_change_it():
    config = parse(None, args=['--supernet.epochs', '3'])
    assert config.supernet == dataclasses.replace(DIGITS.supernet, epochs=3)
    assert config.run == DIGITS.run


def test_the_imagenet_preset_is_the_published_recipe():
    config = PRESETS['imagenet2012'][1]
    supernet, subnet = config.supernet, config.subnet
    assert (supernet.epochs, supernet.batch, supernet.learning_rate) == (20, 512, 0.1)
    assert (supernet.momentum, supernet.weight_decay) == (0.9, 1e-5)
    assert subnet.epochs == 200
    assert subnet.mixup > 0
    assert subnet.label_smoothing > 0


def test_a_wrong_value_names_its_option(capsys):
    with pytest.raises(SystemExit):
        parse(None, args=['digits', '--latency.batch', 'many'])
    assert '--latency.batch' in capsys.readouterr().err


@pytest.mark.parametrize(('option', 'value'), [('--latency.networks', '-3'), ('--supernet.refreshes', '0')])
def test_a_count_below_one_names_its_option(option, value):
    with pytest.raises(SystemExit, match=f'{option} must be at least 1, got {value}'):
        parse(None, args=['digits', option, value])


def test_a_folder_is_claimed_once_and_refuses_other_settings(tmp_path):
    config = Config()
    claim(tmp_path / 'stage', supernet=config.supernet, seed=0)
    claim(tmp_path / 'stage', supernet=config.supernet, seed=0)
    (tmp_path / 'stage' / 'result.json').touch()
    other = dataclasses.replace(config.supernet, epochs=1)
    with pytest.raises(Usage, match=r'supernet.epochs was 20, now 1'):
        claim(tmp_path / 'stage', supernet=other, seed=0)


def test_json_is_written_whole(tmp_path):
    path = tmp_path / 'a' / 'value.json'
    save_json(path, {'x': 1})
    with pytest.raises(TypeError):
        save_json(path, {'x': object()})
    assert read_json(path) == {'x': 1}


def test_what_a_preset_says_of_its_own_network_is_not_taken_for_another():
    assert parse(None, args=['digits']).space.strides == DIGITS.space.strides
    other = parse(None, args=['digits', '--space.network', 'mobilenet_v2']).space
    assert (other.strides, other.base_multiplier) == (None, 0.25)
    own = parse(None, args=['digits', '--space.network', 'my_net.py:net']).space
    assert (own.strides, own.base_multiplier) == (None, 1.0)
    asked = parse(
        None, args=['digits', '--space.network', 'my_net.py:net', '--space.base-multiplier', '0.5']
    ).space
    assert asked.base_multiplier == 0.5
