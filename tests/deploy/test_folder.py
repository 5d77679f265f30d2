"""A folder is whole or refused, with the reason; nothing in it is executed."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from jcw import deploy
from jcw.deploy import folder as files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / 'network'))


def rewrite(folder: Path, **changes) -> None:
    """Change the description and sum it anew, as a foreign program would that knows the format."""
    description = json.loads((folder / files.DESCRIPTION).read_text())
    (folder / files.DESCRIPTION).unlink()
    files.write_description(folder, {**description, **changes})


def test_the_description_says_what_the_network_is(trained, exported):
    said = json.loads((exported / 'network.json').read_text())
    assert said['format'] == 2
    assert said['architecture'] == 'graph'
    assert said['widths'] == list(trained.widths)
    assert said['graph'] == json.loads(json.dumps(trained.graph.to_json()))
    assert (said['input_shape'], said['input_dtype']) == ([8, 8, 1], 'uint8')
    assert said['mean'] == pytest.approx(list(trained.digits.mean))
    assert said['std'] == pytest.approx(list(trained.digits.std))
    assert said['class_names'] == [str(n) for n in range(10)]
    assert said['weights'] == 'float32'
    assert said['accuracy'] == {'test_accuracy': 0.5}
    assert said['latency'] == {'budget_ms': 1.0}
    assert {'jcw', 'jax', 'orbax', 'python'} <= set(said['versions'])
    stated = {name for name in said['checksums'] if not name.startswith('weights/')}
    assert stated == {'network.json', 'network.stablehlo', 'network.onnx'}


def test_every_file_has_a_checksum(exported):
    said = json.loads((exported / 'network.json').read_text())['checksums']
    assert set(said) == {p.relative_to(exported).as_posix() for p in exported.rglob('*') if p.is_file()}


def test_without_the_extra_there_is_no_onnx_file(trained, tmp_path):
    assert not (trained.export(tmp_path / 'plain') / 'network.onnx').exists()


@pytest.mark.parametrize('name', ['network.stablehlo', 'network.onnx', 'weights/_METADATA'])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(ValueError, match=f'damaged: {name} is missing'):
        deploy.load(copy)


def test_one_flipped_bit_in_any_file_is_noticed(exported, tmp_path):
    stated = json.loads((exported / 'network.json').read_text())['checksums']
    for number, name in enumerate(stated):
        folder = Path(shutil.copytree(exported, tmp_path / str(number)))
        content = bytearray((folder / name).read_bytes())
        if not content:
            continue
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match='is damaged'):
            deploy.load(folder)


def test_a_changed_description_is_noticed(copy):
    path = copy / 'network.json'
    path.write_text(path.read_text().replace('"architecture": "graph"', '"architecture": "chain"'))
    with pytest.raises(ValueError, match=r'network.json is damaged: its checksum differs'):
        deploy.load(copy)


def test_a_newer_format_asks_for_an_upgrade(copy):
    rewrite(copy, format=files.FORMAT + 1)
    with pytest.raises(ValueError, match='has format 3, this library reads up to 2: upgrade jcw'):
        deploy.load(copy)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"format": 1', 'it is not JSON'),
        ('[]', 'it states no format'),
        ('{"name": "other"}', 'it states no format'),
        ('{"format": 2, "checksums": {}}', 'it lacks architecture'),
    ],
)
def test_a_foreign_description_is_refused(copy, content, message):
    (copy / 'network.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        deploy.load(copy)


def test_an_older_format_asks_for_another_export(copy):
    rewrite(copy, format=1)
    with pytest.raises(ValueError, match=r'has format 1.*: export the network again'):
        deploy.load(copy)


def test_another_architecture_is_refused(copy):
    rewrite(copy, architecture='resnet')
    with pytest.raises(ValueError, match="architecture 'resnet'"):
        deploy.load(copy)


@pytest.mark.parametrize(
    'graph', [None, {}, 'chain', {'sites': [], 'operations': [], 'input_shape': [8, 8, 1]}]
)
def test_what_is_no_graph_is_refused(copy, graph):
    rewrite(copy, graph=graph)
    with pytest.raises(ValueError, match='does not describe a network this library knows'):
        deploy.load(copy)


def test_checksums_that_are_no_table_are_refused(copy):
    path = copy / 'network.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'checksums': 'none'}))
    with pytest.raises(ValueError, match='checksums'):
        deploy.load(copy)


def test_a_description_that_fills_memory_is_refused_by_its_size(copy):
    os.truncate(copy / 'network.json', files.LARGEST + 1)
    with pytest.raises(
        ValueError, match=rf'network.json has {files.LARGEST + 1} bytes: a description .* at most'
    ):
        deploy.load(copy)


def test_images_that_the_graph_does_not_take_are_refused(copy):
    rewrite(copy, input_shape=[8, 8, 3])
    with pytest.raises(ValueError, match=r'it states images \[8, 8, 3\], its graph \(8, 8, 1\)'):
        deploy.load(copy)


def test_weights_without_a_checksum_are_refused(copy):
    path = copy / 'network.json'
    said = json.loads(path.read_text())
    said['checksums'] = {name: own for name, own in said['checksums'].items() if '/' not in name}
    path.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r'weights/.* is not one of its files'):
        deploy.load(copy)
    shutil.rmtree(copy / 'weights')
    with pytest.raises(ValueError, match='no checksum of its weights is stated'):
        deploy.load(copy)


def test_checksums_do_not_reach_outside_the_folder(copy):
    (copy.parent / 'secret').write_text('x')
    rewrite(copy)
    path = copy / 'network.json'
    said = json.loads(path.read_text())
    said['checksums']['../secret'] = '0'
    path.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"damaged: .*'\.\./secret' is not a file inside it"):
        deploy.load(copy)


def test_a_folder_of_something_else_and_no_folder_are_refused(tmp_path):
    (tmp_path / 'photos').mkdir()
    for name in ('photos', 'nowhere'):
        with pytest.raises(ValueError, match=r'not a deployed network: it has no network.json'):
            deploy.load(tmp_path / name)


def test_weights_of_other_widths_are_refused_and_named(copy):
    rewrite(copy, widths=[8, 16, 16, 8])
    with pytest.raises(ValueError, match=r'weights 009_conv/bias should be .*\[8\], and are .*\[12\]'):
        deploy.load(copy)


def test_widths_that_are_no_widths_are_refused(copy):
    for widths in ([8, 16], [8, 16, 16, 0], 'wide', None):
        rewrite(copy, widths=widths)
        with pytest.raises(ValueError, match='does not describe a network this library knows'):
            deploy.load(copy)


def test_weights_of_another_type_are_refused(copy):
    rewrite(copy, weights='int8')
    with pytest.raises(ValueError, match=r'should be int8 .*and are float32'):
        deploy.load(copy)
    rewrite(copy, weights='float4')
    with pytest.raises(ValueError, match="'float4'"):
        deploy.load(copy)


def test_nothing_is_unpickled(copy, monkeypatch, trained):
    def refuse(*_, **__):
        raise AssertionError('something was unpickled')

    for name in ('load', 'loads', 'Unpickler'):
        monkeypatch.setattr(pickle, name, refuse)
    assert np.isfinite(deploy.load(copy)(trained.digits.test.images[:2])).all()


def test_a_pickle_in_the_place_of_weights_is_not_run(copy, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / 'exploded'),))

    shutil.rmtree(copy / 'weights')
    (copy / 'weights').mkdir()
    (copy / 'weights' / '_METADATA').write_bytes(pickle.dumps(Bomb()))
    rewrite(copy)
    with pytest.raises(ValueError, match='weights cannot be read'):
        deploy.load(copy)
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('stage', ['weights', 'stablehlo', 'description'])
def test_an_export_that_fails_leaves_the_previous_network(trained, copy, monkeypatch, stage):
    before = {path: path.read_bytes() for path in copy.rglob('*') if path.is_file()}

    def fail(*_, **__):
        raise KeyboardInterrupt

    places = {
        'weights': (ocp.StandardCheckpointer, 'save'),
        'stablehlo': (sys.modules['jcw.deploy.export'], 'stablehlo'),
        'description': (files, 'write_description'),
    }
    monkeypatch.setattr(*places[stage], fail)
    with pytest.raises(KeyboardInterrupt):
        trained.export(copy)
    assert before == {path: path.read_bytes() for path in copy.rglob('*') if path.is_file()}
    assert [path.name for path in copy.parent.iterdir()] == ['network']
    with pytest.raises(KeyboardInterrupt):
        trained.export(copy.parent / 'first')
    with pytest.raises(ValueError, match='not a deployed network'):
        deploy.load(copy.parent / 'first')


KILLED = """
import os, signal, sys
from pathlib import Path
from jcw.deploy import folder

folder_, moves_left = Path(sys.argv[1]), int(sys.argv[2])
replace = os.replace

def counted(source, target):
    global moves_left
    if not moves_left:
        os.kill(os.getpid(), signal.SIGKILL)
    moves_left -= 1
    replace(source, target)

os.replace = counted
folder.replace(folder_, lambda partial: (partial / 'new').write_text('new'))
"""


@pytest.mark.parametrize('moves', [0, 1])
def test_a_process_killed_on_the_way_leaves_a_network_that_loads(copy, moves, trained):
    """Killed before the first move, and between the two."""
    command = [sys.executable, '-c', KILLED, str(copy), str(moves)]
    killed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert deploy.load(copy)(trained.digits.test.images[:1]).shape == (1, 10)
    trained.export(copy)
    assert deploy.load(copy).description['accuracy'] is None
    assert [path.name for path in copy.parent.iterdir()] == ['network']


def test_replacing_a_network_leaves_no_file_of_the_old_one(trained, copy):
    (copy / 'notes.txt').write_text('of the old one')
    trained.export(copy)
    assert not (copy / 'notes.txt').exists()
    assert not (copy / 'network.onnx').exists()
    deploy.load(copy)
