"""Presets by name, the preset for one's own images, help for a stage, and misspelt words."""

import numpy as np
import pytest
from PIL import Image

from experiments.command_line import parse


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path):
    """Return a folder of 24 images of two classes, 20x24 in colour."""
    for index in range(24):
        folder = tmp_path / 'pets' / 'train' / ('cat', 'dog')[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 24, 3), index, np.uint8)).save(folder / f'{index}.png')
    return tmp_path / 'pets'


def test_a_misspelt_preset_names_the_nearest():
    with pytest.raises(
        SystemExit, match=r"no preset 'cifar'; did you mean 'cifar10'\? There are own, digits"
    ):
        parse(None, args=['cifar'])


def test_a_folder_in_place_of_a_preset_is_known_for_one(images):
    with pytest.raises(SystemExit, match=r'pets is a folder: --data.name pets for its images, --run pets'):
        parse(None, args=['pets'])


def test_a_run_that_nobody_began_is_not_taken_for_digits():
    with pytest.raises(SystemExit, match=r'mistyped holds no run yet: begin it with --data.name'):
        parse(None, args=['--run', 'mistyped'])


def test_a_misspelt_setting_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        parse(None, args=['digits', '--latency.bach', '1'])
    assert '--latency.batch' in capsys.readouterr().err


def test_a_warm_up_longer_than_the_training_is_refused_before_anything_runs():
    with pytest.raises(SystemExit, match=r'leave nothing of 1: lower --subnet.warmup-epochs, too'):
        parse(None, args=['digits', '--subnet.epochs', '1'])


def test_help_shows_the_settings_of_the_stage_and_the_rest_is_one_option_away(capsys):
    for option, shown in (('--help', False), ('--help-all', True)):
        with pytest.raises(SystemExit) as ended:
            parse('Time networks.', 'latency', args=[option])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert '--latency.batch' in said
        assert ('--supernet.epochs' in said) == shown
    with pytest.raises(SystemExit):
        parse('Time networks.', 'latency', args=['cifar10', '--help'])
    assert 'runs/cifar10' in capsys.readouterr().out


def test_images_of_ones_own_without_a_preset_are_sized_by_what_they_are(images):
    config = parse(None, args=['--data.name', str(images)])
    assert config == parse(None, args=['own', '--data.name', str(images)])
    assert (config.preset, config.run.as_posix()) == ('own', 'runs/pets')
    assert config.space.strides is None
    assert config.latency.batch == 1
    assert config.supernet.batch <= 24 * (1 - config.data.validation)
    assert config.data.validation * 12 == pytest.approx(3)
    assert config.subnet.epochs > config.supernet.epochs > 20


def test_what_is_given_beside_the_images_wins(images):
    config = parse(None, args=['--data.name', str(images), '--latency.batch', '4', '--subnet.epochs', '3'])
    assert (config.latency.batch, config.subnet.epochs) == (4, 3)
    assert config.preset == 'own'


def test_more_images_are_seen_less_often():
    few = parse(None, args=['own', '--data.limit', '100'])
    many = parse(None, args=['own'])
    assert few.supernet.epochs > many.supernet.epochs
    assert few.supernet.batch < many.supernet.batch


def test_a_set_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(
        SystemExit, match=r'ValueError: .*empty holds no images: expected a folder of train/CLASS'
    ):
        parse(None, args=['--data.name', str(tmp_path / 'empty')])
