"""What is said of a set before anything is trained on it."""

import numpy as np
import pytest
from PIL import Image

from experiments.check_data import once, show
from experiments.config import Config
from jcw import data
from jcw.data.checks import check, warnings_of

pytestmark = pytest.mark.filterwarnings('ignore:no (training|validation|test) image of:UserWarning')


def write(folder, name, value):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6), value, np.uint8)).save(folder / f'{name}.png')


@pytest.fixture
def root(tmp_path):
    """Write 20 ants, 12 bees, 4 cats to train on; two ants to test on, one of them trained on."""
    for number, (name, count) in enumerate((('ant', 20), ('bee', 12), ('cat', 4))):
        for index in range(count):
            write(tmp_path / 'train' / name, index, 50 * number + index)
    write(tmp_path / 'test' / 'ant', 'new', 250)
    write(tmp_path / 'test' / 'ant', 'old', 7)
    return tmp_path


def test_images_are_counted_by_class_and_part(root):
    counts = check(data.load(str(root), validation=0.25)).counts
    assert counts.shape == (3, 3)
    np.testing.assert_array_equal(counts[:2].sum(0), [20, 12, 4])
    np.testing.assert_array_equal(counts[2], [2, 0, 0])


@pytest.mark.parametrize('image_size', [None, 6])
def test_test_images_that_are_trained_on_are_named(root, image_size):
    found = check(data.load(str(root), image_size=image_size))
    assert found.looked
    assert found.repeated == ((str(root / 'test/ant/old.png'), str(root / 'train/ant/7.png')),)


def test_the_same_picture_in_another_file_format_is_found(root):
    picture = Image.open(root / 'train' / 'bee' / '3.png')
    (root / 'test' / 'bee').mkdir()
    picture.save(root / 'test' / 'bee' / 'again.bmp')
    repeated = dict(check(data.load(str(root))).repeated)
    assert repeated[str(root / 'test/bee/again.bmp')] == str(root / 'train/bee/3.png')


def test_what_should_be_mended_is_said_with_names(root):
    dataset = data.load(str(root), validation=0.1)
    said = warnings_of(check(dataset), dataset)
    assert 'no test image of bee, cat' in said
    assert 'fewer than 3 test images of ant (2)' in said
    assert any(each.startswith('fewer than 10 training images of cat (') for each in said)
    assert any(each.startswith('1 of 2 test images are trained on') for each in said)


def test_a_single_class_is_said_to_be_no_task(tmp_path):
    for index in range(30):
        write(tmp_path / 'train' / 'ant', index, index)
    dataset = data.load(str(tmp_path))
    assert 'only one class, ant: every network is right about all images' in warnings_of(
        check(dataset), dataset
    )


def test_digits_are_as_they_should_be():
    dataset = data.load('digits')
    assert warnings_of(check(dataset), dataset) == []


def test_a_run_prints_the_check_once(root, tmp_path, capsys):
    config, dataset = Config(run=tmp_path / 'run'), data.load(str(root))
    once(config, dataset)
    assert '6x6 in grey' in capsys.readouterr().out
    once(config, dataset)
    assert capsys.readouterr().out == ''


def test_many_classes_are_told_by_the_smallest(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for label in range(30):
        for index in range(2 + label):
            folder = tmp_path / 'train' / f'class_{label:02d}'
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (4, 4), np.uint8)).save(folder / f'{index}.png')
    told = show(data.load(str(tmp_path)))
    printed = capsys.readouterr().out
    assert len(told['classes']) == 30
    assert 'class_00' in printed
    assert 'class_29' not in printed.partition('Warning')[0]
    assert '24 more' in printed


def test_an_outline_is_what_loading_shows(root):
    outline, loaded = data.outline(str(root)), data.load(str(root))
    assert outline.image_shape == loaded.input_shape
    assert outline.training == len(loaded.train) + len(loaded.validation)
    assert outline.fewest == 4
    assert data.outline(str(root), image_size=8).image_shape == (8, 8, 3)
    assert data.outline('digits').training == 1437
