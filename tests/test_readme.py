"""What the README shows runs."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command_line
from jcw.builder import build
from jcw.latency.table import LatencyTable
from jcw.zoo import NETWORKS
from tests.tiny_graph import mobilenet_v1

README = (Path(__file__).parents[1] / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', README, flags=re.S)


def table_of_flops(path: Path) -> None:
    """Save a stand-in for a measured table: a millisecond per ten million FLOPs."""
    from jcw.latency.table import flops_table

    graph = mobilenet_v1((32, 32, 3), 100, base_multiplier=0.25)
    path.parent.mkdir(parents=True)
    LatencyTable(graph, flops_table(graph).entries / 1e7, base=0.1).save(path)


def test_a_network_of_ones_own_becomes_a_graph():
    names: dict = {}
    exec(BLOCKS[0], names)
    graph = build(names['net'], (16, 16, 3), 10)
    assert graph.site_names == ('stream', 'inner_1', 'inner_2', 'wide', 'head')


def test_the_networks_page_runs_as_it_stands(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / 'docs' / 'networks.md').read_text()
    file, use = re.findall(r'```python\n(.*?)```', page, flags=re.S)
    (tmp_path / 'my_net.py').write_text(file)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {}
    exec(use, names)
    assert names['graph'].site_names[:3] == ('stream', 'inner_1', 'inner_2')
    assert len(names['graph'].blocks) == 2
    assert names['small'].num_configurations == 1


@pytest.mark.parametrize('name', NETWORKS)
def test_every_network_of_the_zoo_stands_on_the_networks_page(name):
    page = (Path(__file__).parents[1] / 'docs' / 'networks.md').read_text()
    assert f'`{name}`' in page or f'`{name[:-1]}0`' in page


def test_the_parts_of_the_library_run_from_space_to_deployed_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table_of_flops(tmp_path / 'runs' / 'mine' / 'latency' / 'table.json')
    graph = mobilenet_v1((32, 32, 3), 100, base_multiplier=0.25)
    rng = np.random.default_rng(0)
    choices = rng.integers(0, graph.num_choices, (4000, graph.num_sites)).astype(np.int32)
    rewards = -0.1 * (graph.num_choices - choices).sum(1) + rng.normal(size=len(choices))
    names = {'choices': jnp.asarray(choices), 'rewards': jnp.asarray(rewards, jnp.float32)}
    exec(BLOCKS[2], names)
    best = names['best']
    assert best.feasible
    assert names['cost'].unary.shape == graph.width_table.shape
    np.testing.assert_allclose(best.upper_bound, best.utility, rtol=1e-9)
    assert names['table'].predict(names['widths']) <= 3.5
    logits = names['deploy'].load('network')(np.zeros((2, 32, 32, 3), np.uint8))
    assert logits.shape == (2, 100)


SMALL = (
    *('--space.base-multiplier=0.125', '--space.levels=2', '--latency.networks=24', '--supernet.epochs=0.5'),
    *(
        '--supernet.warmup-epochs=0',
        '--subnet.warmup-epochs=0',
        '--subnet.epochs=1',
        '--accuracy.trainings=2',
    ),
    *('--accuracy.epochs=0.5', '--search.greedy-images=50', '--repair.rounds=2', '--report.no-base'),
    '--search.budget=0.9',
)


@pytest.mark.slow
def test_the_whole_job_runs_from_python_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = command_line.settings
    monkeypatch.setattr(command_line, 'settings', lambda *args: asked(*args, *SMALL))
    names: dict = {}
    exec(BLOCKS[1], names)
    assert names['config'].preset == 'own'
    assert names['best']['measured_ms'] > 0
    assert names['logits'].shape == (360, 10)
    assert len(BLOCKS[1].strip().splitlines()) <= 26
    assert command_line.settings('--run=runs/mine') == names['config']
