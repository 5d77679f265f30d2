"""Who may import whom: the solver and latency halves work without a network, the network half without a table."""

import ast
from pathlib import Path

import pytest

import jcw

ROOT = Path(jcw.__file__).parent
ALLOWED = {
    'records': set(),
    'compilation': set(),
    'field': set(),
    'order': set(),
    'trellis': {'field', 'order'},
    'recursions': {'field', 'trellis'},
    'windows': set(),
    'operations': {'windows'},
    'graph_checks': {'operations', 'graph'},  # the graph for its type alone
    'graph': {'operations', 'graph_checks', 'trellis', 'windows'},
    'builder': {'graph', 'windows'},
    'zoo': {'graph', 'builder'},
    'data': set(),
    'constraints': {'field'},
    'budget': {'field', 'trellis', 'recursions'},
    'ranks': set(),
    'latency': {'graph', 'field', 'recursions', 'records', 'ranks', 'compilation'},
    'accuracy': {'ranks', 'records'},
    'nets': {'graph', 'windows'},
    'search': {'field', 'recursions', 'budget', 'graph', 'constraints', 'accuracy'},
    'train': {'nets', 'graph', 'records', 'compilation'},
    'deploy': {'nets', 'graph', 'records', 'windows'},
    'trace': {'graph', 'builder', 'operations', 'nets', 'windows'},
    'describe': {'graph'},
}
ONLY_IN = {
    'flax': {'train'},
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
            assert other in {part, *ALLOWED[part]}, f'{part} may not import {name}'
        if top in ONLY_IN:
            assert part in ONLY_IN[top], f'{part} may not import {name}'


def test_orbax_is_imported_only_where_checkpoints_are_read_and_written():
    users = {path.relative_to(ROOT) for path in FILES if any('orbax' in name for name in imports_of(path))}
    assert all(
        path.parts[0] == 'deploy' or path in (Path('train/checkpoint.py'), Path('train/reading.py'))
        for path in users
    )


def test_the_stages_import_each_other_without_cycles():
    """Imports inside functions count, but not those of a script that is run."""
    folder = Path(__file__).parents[1] / 'experiments'
    names = {path.stem: path for path in folder.glob('*.py') if path.stem != '__init__'}
    reads = {}
    for stem, path in names.items():
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == 'experiments':
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('experiments.'):
                found.add(node.module.partition('.')[2])
        reads[stem] = found & set(names)
    done: set[str] = set()
    while ready := {stem for stem, others in reads.items() if stem not in done and others <= done}:
        done |= ready
    assert done == set(names), f'cycles among {sorted(set(names) - done)}'
