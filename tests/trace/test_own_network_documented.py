"""What docs/own_network.md shows runs, and its table is what is printed."""

import re
import shlex
from pathlib import Path

import numpy as np

from experiments import train_supernet
from experiments.command_line import settings
from experiments.paths import paths

PAGE = (Path(__file__).parents[2] / 'docs' / 'own_network.md').read_text()
NETWORK, GRAPH, MAKE, BY_HAND, SAVE = re.findall(r'```python\n(.*?)```', PAGE, flags=re.S)
COMMANDS = re.findall(r'^    python -m experiments\.quickstart (.*?[^\\])$', PAGE, flags=re.S | re.M)
(TABLE,) = re.findall(r'```\n(site  .*?)```', PAGE, flags=re.S)
SHORT = '--supernet.epochs 0.1 --supernet.warmup-epochs 0 --supernet.recalibration-images 64'


def run(*blocks: str) -> dict:
    names: dict = {'__name__': 'documented'}
    for block in blocks:
        exec(block, names)
    return names


def test_a_class_of_ones_own_becomes_a_deployed_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run(NETWORK, GRAPH)
    assert capsys.readouterr().out.endswith(TABLE)
    exec(BY_HAND, names)
    assert names['best'].feasible
    assert names['best'].cost <= 0.5 * names['most']
    accuracy = (np.argmax(names['logits'], -1) == names['digits'].test.labels).mean()
    assert accuracy > 0.2  # chance is 0.1


def test_the_documented_commands_begin_from_scratch_and_with_the_trained_network(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path('my_model.py').write_text(NETWORK + MAKE)
    run(NETWORK, SAVE)
    scratch, trained = (
        settings(*shlex.split(f'{command.replace(chr(92), "")} {SHORT}')) for command in COMMANDS
    )
    assert scratch.supernet.start is None
    assert trained.subnet.from_supernet
    train_supernet.main(trained)
    assert 'Starting from a trained network: ' in capsys.readouterr().out
    assert (paths(trained).supernet / 'result.json').exists()
