"""Who may import whom: the solver and latency halves work without a network, the network half without a table."""

import ast
from pathlib import Path

import pytest

import jcw

ROOT = Path(jcw.__file__).parent
ALLOWED = {
    'records': set(),
    'space': set(),
    'field': set(),
    'order': set(),
    'trellis': {'field', 'order'},
    'data': set(),
    'constraints': {'field'},
    'budget': {'field', 'trellis'},
    'latency': {'space', 'field', 'trellis'},
    'nets': {'space'},
    'trace': {'graph', 'nets'},
    'describe': {'graph'},
    'search': {'field', 'trellis', 'budget', 'space'},
    'train': {'nets', 'space'},
    'deploy': {'nets', 'space'},
}
ONLY_IN = {
    'flax': {'nets', 'train', 'deploy'},
    'optax': {'train'},
    'orbax': {'train', 'deploy'},
    'tensorflow_datasets': {'data'},
    'pickle': set(),
    'cloudpickle': set(),
}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix('.py')


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path} uses a relative import'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


FILES = sorted(path for path in ROOT.rglob('*.py') if path != ROOT / '__init__.py')


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_part_may(path):
    part = part_of(path)
    for name in imports_of(path):
        top, _, rest = name.partition('.')
        if top == 'jcw' and rest:
            other = rest.partition('.')[0]
            assert other in {part, 'records', *ALLOWED[part]}, f'{part} may not import {name}'
        if top in ONLY_IN:
            assert part in ONLY_IN[top], f'{part} may not import {name}'


def test_orbax_is_imported_only_where_checkpoints_are_read_and_written():
    users = {path.relative_to(ROOT) for path in FILES if any('orbax' in name for name in imports_of(path))}
    assert all(path.parts[0] == 'deploy' or path == Path('train/checkpoint.py') for path in users)
