"""Damaged files of an exported network: noticed by their checksums before anything else reads them."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jcw import deploy
from jcw.deploy import folder as files
from jcw.deploy import tflite
from tests.hostile import attacks, damaged_models

MODELS = (files.LITERT, files.LITERT_INT8)
FILES = (*MODELS, files.ONNX, files.STABLEHLO)


@pytest.fixture(scope='module')
def network(trained, tmp_path_factory) -> Path:
    images = trained.digits.train.take(slice(64)).images
    folder = tmp_path_factory.mktemp('exported') / 'network'
    return trained.export(folder, onnx=True, litert=2, calibration=images)


@pytest.fixture
def no_interpreter(monkeypatch):
    """Have every interpreter fail the test that lets damage come so far."""
    interpreter = pytest.importorskip('ai_edge_litert.interpreter')

    def begin(*_, **__):
        pytest.fail('a damaged file came to the interpreter')

    monkeypatch.setattr(interpreter, 'Interpreter', begin)


@pytest.mark.parametrize('name', FILES)
def test_a_file_is_read_as_it_was_written(network, name):
    assert deploy.read_file(network, name) == (network / name).read_bytes()


def test_litert_files_answer_as_read(network, trained):
    images = trained.digits.test.images[:4]
    for name in MODELS:
        logits = deploy.litert_logits(deploy.read_file(network, name), images)
        np.testing.assert_array_equal(logits, deploy.litert_logits((network / name).read_bytes(), images))


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('count', [20, pytest.param(200, marks=pytest.mark.slow)])
def test_a_changed_file_is_refused_before_an_interpreter_sees_it(
    network, tmp_path, no_interpreter, name, count
):
    rng, refused = np.random.default_rng(0), 0
    (folder,) = attacks.copies(network, tmp_path / 'network', 1)
    whole = (folder / name).read_bytes()
    for number in range(count):
        content = damaged_models.damaged(whole, number)
        if content == whole:
            continue
        (folder / name).write_bytes(content)
        readers = [deploy.load, *(lambda place, read=read: deploy.read_file(place, read) for read in FILES)]
        with pytest.raises(ValueError, match=f'{folder} is damaged: the checksum of {name} differs'):
            readers[rng.integers(len(readers))](folder)
        refused += 1
    print(f'{refused} changed {name} refused')
    assert refused > 0.9 * count


def test_a_file_changed_between_the_look_at_it_and_its_reading_is_refused(network, tmp_path, monkeypatch):
    (folder,) = attacks.copies(network, tmp_path / 'network', 1)
    looked = files.read_description

    def look_and_change(place):
        description = looked(place)
        (place / files.LITERT).write_bytes(b'another')
        return description

    monkeypatch.setattr(files, 'read_description', look_and_change)
    with pytest.raises(ValueError, match=f'the checksum of {files.LITERT} differs'):
        deploy.read_file(folder, files.LITERT)


@pytest.mark.parametrize('name', ['network.json', 'network.tfl', '../network/network.tflite', '', '\0'])
def test_what_is_no_file_of_the_network_is_refused_with_those_that_are(network, name):
    with pytest.raises(ValueError, match=r'has no file .*, only .*network.int8.tflite, .*network.tflite'):
        deploy.read_file(network, name)


def outcomes(model: Path, count: int) -> Counter[str]:
    """Run damaged copies of a model without its folder, in processes that their damage may end."""
    found: Counter[str] = Counter()
    while found.total() < count:
        command = [sys.executable, damaged_models.__file__, str(model), str(found.total()), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = [line.partition(' ')[2] for line in done.stdout.splitlines()]
        if done.returncode > 0:
            pytest.fail(done.stderr)
        if done.returncode < 0:
            told[-1] = 'the process ended'
        found.update(told)
    return found


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('count', [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_without_its_folder_a_damaged_model_is_refused_or_run_or_ends_the_process(network, name, count):
    """The interpreter is not written for damage: what it takes may give other logits, or end the process."""
    found = outcomes(network / name, count)
    print(f'{count} damaged {name} without their folder: {dict(found)}')
    assert set(found) <= {'refused', 'the same logits', 'other logits', 'the process ended'}
    assert found['refused'] > 0.2 * count
    assert found['the process ended'] < 0.01 * count


def test_a_model_that_lacks_what_it_computes_with_is_refused_when_it_is_run(network, trained):
    read = tflite.from_bytes((network / files.LITERT).read_bytes())
    kernel = next(t for t in read.subgraphs[0].tensors if t.name.endswith(b'kernel'))
    kernel.buffer = 0
    with pytest.raises(ValueError, match='LiteRT model'):
        deploy.litert_logits(tflite.to_bytes(read), trained.digits.test.images[:2])
