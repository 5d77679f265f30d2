"""What docs/own_network.md shows runs, and its table is what is printed."""

import re
from pathlib import Path

import numpy as np

PAGE = (Path(__file__).parents[2] / 'docs' / 'own_network.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, flags=re.S)
(TABLE,) = re.findall(r'```\n(site  .*?)```', PAGE, flags=re.S)


def test_a_class_of_ones_own_becomes_a_deployed_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {'__name__': 'documented'}
    exec(BLOCKS[0], names)
    exec(BLOCKS[1], names)
    assert capsys.readouterr().out.endswith(TABLE)
    exec(BLOCKS[2], names)
    assert names['best'].feasible
    assert names['best'].cost <= 0.5 * names['most']
    accuracy = (np.argmax(names['logits'], -1) == names['digits'].test.labels).mean()
    assert accuracy > 0.2  # chance is 0.1
