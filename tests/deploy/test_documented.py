"""What docs/deploy.md shows runs; what it says needs no jcw runs in an environment that has none."""

import importlib.metadata as metadata
import json
import os
import re
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import numpy as np
import pytest

from jcw import deploy
from jcw.field import Field, independent
from jcw.latency.table import LatencyTable, flops_table
from tests.closeness import assert_close
from tests.deploy.conftest import GRAPH, WIDTHS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'deploy.md').read_text()
EXPORT, CHECKED, WITH_ORBAX, WITH_JAX, WITH_ONNX, REPAIR, MANY, LITERT, WITH_LITERT = re.findall(
    r'```python\n(.*?)```', PAGE, flags=re.S
)
KEPT_OUT = ('flax', 'optax', 'chex', 'tensorflow_datasets')


@pytest.fixture
def folder(trained, exported, tmp_path, monkeypatch) -> Path:
    """A working directory in which the exported network lies as `network`, with the test images beside it."""
    (tmp_path / 'network').symlink_to(exported)
    np.save(tmp_path / 'images.npy', trained.digits.test.images)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_same(logits, trained) -> None:
    assert_close(logits, trained.logits)
    np.testing.assert_array_equal(np.argmax(logits, -1), trained.logits.argmax(-1))


def field() -> Field:
    """A utility that rises with width."""
    gain = np.where(GRAPH.width_table > 0, np.sqrt(GRAPH.width_table), -np.inf)
    return independent(gain)


def test_export_and_load_as_shown(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = trained.digits.test.images
    names = {'variables': trained.variables, 'graph': GRAPH, 'widths': WIDTHS, 'images': images}
    exec(EXPORT, names)
    assert names['logits'].shape == (len(images), 10)
    assert names['names'] == [str(index) for index in np.argmax(names['logits'], -1)]
    assert (tmp_path / 'network' / 'network.onnx').exists()


def test_the_onnx_example_answers_as_the_trained_network(folder, trained):
    names = {'images': trained.digits.test.images}
    exec(WITH_ONNX, names)
    assert_same(names['logits'], trained)


def test_litert_as_shown(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = trained.digits.test.images, trained.digits.test.labels
    known = {'variables': trained.variables, 'graph': GRAPH, 'widths': WIDTHS}
    exec(LITERT, {**known, 'train_images': trained.digits.train.images, 'images': images, 'labels': labels})
    said = json.loads((tmp_path / 'network' / 'network.json').read_text())['litert']
    assert said['network.int8.tflite']['accuracy'] == pytest.approx(
        said['network.tflite']['accuracy'], abs=0.02
    )
    names = {'images': images}
    exec(WITH_LITERT, names)
    model = (tmp_path / 'network' / 'network.int8.tflite').read_bytes()
    assert_close(names['logits'], deploy.litert_logits(model, images[:1]))
    exec(CHECKED, names)
    np.testing.assert_array_equal(names['logits'], deploy.litert_logits(model, images))


def test_repair_as_shown(monkeypatch):
    table = flops_table(GRAPH)
    truth = LatencyTable(GRAPH, 1.1 * table.entries)

    def measure(widths):
        return truth.predict(widths), np.full(len(widths), 0.001)

    budget = float(truth.predict(WIDTHS))
    names = {
        'graph': GRAPH,
        'utility': field(),
        'cost': table.to_cost(),
        'budget': budget,
        'measure': measure,
    }
    exec(REPAIR, names)
    assert names['result'].feasible
    assert float(truth.predict(names['result'].widths)) <= budget


def test_many_devices_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tables').mkdir()
    flops = flops_table(GRAPH)
    scale = {'phone': 8.0, 'server': 0.9}
    for name, ms in scale.items():
        entries = flops.entries / float(flops.predict(WIDTHS)) * ms
        LatencyTable(GRAPH, entries).save(tmp_path / 'tables' / f'{name}.json')
    names = {'graph': GRAPH, 'utility': field()}
    exec(MANY, names)
    assert all(best.feasible for best in (*names['answer'].each.values(), names['answer'].together))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[0] != ' '] == [
        'phone',
        'server',
        'both',
    ]


def run(python: str | Path, code: str, folder: Path, **environment: str) -> np.ndarray:
    """Run code that makes `logits` of `images` in another process, where what is kept out cannot be imported."""
    before = textwrap.dedent(f"""
        import sys

        class KeepOut:
            def find_spec(self, name, path=None, target=None):
                if name.partition('.')[0] in {KEPT_OUT}:
                    raise ImportError(name + ' is kept out')

        sys.meta_path.insert(0, KeepOut())
        import numpy
        images = numpy.load('images.npy')
        """)
    after = "\nnumpy.save('logits.npy', logits)\n"
    done = subprocess.run(
        [python, '-c', before + code + after],
        cwd=folder,
        env={'PATH': os.environ['PATH'], 'JAX_PLATFORMS': 'cpu', **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / 'logits.npy')


LOAD = """
from jcw import deploy
logits = deploy.load('network')(images)
"""
ROUND_TRIP = """
import json
import numpy as np
from jcw import deploy
from jcw.graph import Graph
said = json.load(open('said.json'))
tree = {}
with np.load('variables.npz') as arrays:
    for name in arrays.files:
        *parts, last = name.split('/')
        inner = tree
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = arrays[name]
graph = Graph.from_json(said['graph'])
deploy.export('again', tree, graph, said['widths'], mean=said['mean'], std=said['std'])
logits = deploy.load('again')(images)
assert 'flax' not in sys.modules
"""


@pytest.mark.parametrize('code', [WITH_ORBAX, WITH_JAX, LOAD], ids=['orbax', 'stablehlo', 'jcw'])
def test_consumers_need_no_training_library(folder, trained, code):
    assert_same(run(sys.executable, code, folder, PYTHONPATH=str(ROOT)), trained)


def write_variables(trained, folder: Path) -> None:
    """Write the variables as plain arrays, and beside them what export needs to know."""
    import jax

    leaves = jax.tree_util.tree_flatten_with_path(trained.variables)[0]
    np.savez(
        folder / 'variables.npz',
        **{'/'.join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves},
    )
    mean, std = list(trained.digits.mean), list(trained.digits.std)
    said = {'graph': GRAPH.to_json(), 'widths': WIDTHS, 'mean': mean, 'std': std}
    (folder / 'said.json').write_text(json.dumps(said))


def test_export_and_load_need_no_training_library(folder, trained):
    write_variables(trained, folder)
    assert_same(run(sys.executable, ROUND_TRIP, folder, PYTHONPATH=str(ROOT)), trained)


def requirements(*names: str) -> set[str]:
    """Return the distributions that these need, themselves included, of those installed here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace('_', '-')
        if name in found:
            continue
        found.add(name)
        wanted = map(Requirement, metadata.requires(name) or [])
        waiting += [r.name for r in wanted if r.marker is None or r.marker.evaluate({'extra': ''})]
        if name == 'etils':  # orbax asks for some of its extras
            waiting += ['fsspec', 'importlib-resources', 'typing-extensions', 'zipp']
    return found


def fresh_environment(folder: Path, *names: str) -> Path:
    """Make an environment that holds these distributions and what they need, linked from this one; no network."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob('lib/python*/site-packages')
    for name in requirements(*names):
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in distribution.files or [] if '..' not in file.parts}:
            source = Path(str(distribution.locate_file(top)))
            if not (packages / top).exists() and source.exists() and top != '__pycache__':
                (packages / top).symlink_to(source)
    return folder / 'bin' / 'python'


@pytest.mark.slow
def test_a_fresh_environment_without_the_training_libraries_makes_the_round_trip(folder, trained):
    """Of jcw's dependencies it has jax, orbax, flatbuffers and jaxtyping; the consumers run without jcw there."""
    python = fresh_environment(folder / 'environment', 'jax', 'orbax-checkpoint', 'flatbuffers', 'jaxtyping')
    listed = subprocess.run(
        [
            python,
            '-c',
            "import importlib.util as u; print([u.find_spec(n) for n in ('flax', 'optax', 'jcw')])",
        ],
        env={'PATH': os.environ['PATH']},  # without the caller's paths
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert listed.stdout.strip() == '[None, None, None]'
    for code in (WITH_ORBAX, WITH_JAX):
        assert_same(run(python, code, folder), trained)
    write_variables(trained, folder)
    assert_same(run(python, ROUND_TRIP, folder, PYTHONPATH=str(ROOT)), trained)


def test_what_a_package_is_tried_with_works_here(tmp_path):
    """`scripts/check_package` installs the package somewhere else, which takes minutes, and then runs this."""
    program = re.search(
        r"<<'PYTHON'\n(.*?)\nPYTHON\n", (ROOT / 'scripts' / 'check_package').read_text(), re.S
    )
    assert program is not None
    done = subprocess.run(
        [sys.executable, '-'],
        input=program[1],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f'from {ROOT}' in done.stdout
