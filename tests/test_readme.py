"""What the README shows runs."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jcw.latency.table import LatencyTable
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
    assert names['graph'].num_sites == 3
    assert names['graph'].base.tolist() == [32, 64, 128]


def test_the_api_in_one_screen_runs_from_graph_to_deployed_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table_of_flops(tmp_path / 'runs' / 'mine' / 'latency' / 'table.json')
    graph = mobilenet_v1((32, 32, 3), 100, base_multiplier=0.25)
    rng = np.random.default_rng(0)
    choices = rng.integers(0, graph.num_choices, (4000, graph.num_sites)).astype(np.int32)
    rewards = -0.1 * (graph.num_choices - choices).sum(1) + rng.normal(size=len(choices))
    names = {'choices': jnp.asarray(choices), 'rewards': jnp.asarray(rewards, jnp.float32)}
    exec(BLOCKS[1], names)
    best = names['best']
    assert best.feasible
    assert names['cost'].unary.shape == graph.width_table.shape
    np.testing.assert_allclose(best.upper_bound, best.utility, rtol=1e-9)
    assert names['table'].predict(names['widths']) <= 3.5
    logits = names['deploy'].load('network')(np.zeros((2, 32, 32, 3), np.uint8))
    assert logits.shape == (2, 100)
