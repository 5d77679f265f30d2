"""A network in a file of the user's that goes wrong: a `ValueError` names the file and the line."""

import re

import pytest

from experiments.config import Config, SpaceConfig
from experiments.space import graph_of
from jcw import data

WRONG = {
    'no Python': ('def net(g:\n', 'cannot be run: SyntaxError: .*line 1'),
    'no text': ('\xff\x00', 'cannot be run'),
    'ends while it is read': ('import sys\nsys.exit(0)\n', 'cannot be run: SystemExit: 0'),
    'a missing module': ('import no_such_module\n', 'cannot be run: ModuleNotFoundError'),
    'no function': ('net = 3\n', "has no function 'net'"),
    'an error': ('def net(g):\n    return {}["stem"]\n', "line 2: KeyError: 'stem'"),
    'an error further in': (
        'def block(g):\n    return 1 / 0\n\n\ndef net(g):\n    return block(g)\n',
        'line 2: ZeroDivisionError',
    ),
    'an end': ('def net(g):\n    raise SystemExit(0)\n', 'line 2: SystemExit: 0'),
    'no end': ('def net(g):\n    return net(g)\n', 'line 2: RecursionError'),
    'an unknown site': (
        'def net(g):\n    x = g.conv(g.images, "stem")\n    return g.classify(x)\n',
        "'stem'",
    ),
    'a width of none': (
        'def net(g):\n    x = g.conv(g.images, g.site("stem", None))\n    return g.classify(x)\n',
        'line 2',
    ),
    'a huge width': (
        'def net(g):\n    x = g.conv(g.images, g.site("stem", 10**400))\n    return g.classify(x)\n',
        'line 2',
    ),
    'nothing': ('def net():\n    pass\n', 'must return a graph'),
    'an error without a builder': (
        'def net():\n    return open("/no/such/weights")\n',
        'line 2: FileNotFound',
    ),
    'nonsense to trace': ('def net():\n    return (lambda *a: 1 / 0), {}, 3\n', '.'),
    'nonsense to trace, too': ('def net():\n    return None, None, None\n', '.'),
}


@pytest.mark.parametrize('wrong', WRONG)
def test_a_file_that_goes_wrong_is_named(tmp_path, wrong):
    content, message = WRONG[wrong]
    path = tmp_path / 'mine.py'
    path.write_text(content, encoding='latin-1')
    config = Config(run=tmp_path / 'run', space=SpaceConfig(network=f'{path}:net'))
    with pytest.raises(ValueError, match=message) as said:
        graph_of(config, data.load('digits'))
    assert re.search(r'mine\.py|network', str(said.value))
