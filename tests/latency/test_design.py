import jax
import numpy as np
import pytest

from jcw.graph import Graph
from jcw.latency import design, prior, uncertainty
from jcw.latency.entries import Entries
from tests.latency.simulated import small_graph
from tests.tiny_graph import RESIDUAL, chain, random_graph

GRAPH = small_graph()
ENTRIES = Entries(GRAPH)


def uses(widths: np.ndarray, graph: Graph = GRAPH) -> np.ndarray:
    return Entries(graph).incidence(graph.to_choices(widths)).sum(0)


def expected_error(timed: np.ndarray) -> float:
    """Root mean posterior variance of likely networks, relative to their times."""
    believed = prior.roofline(ENTRIES)
    scale = design.equal_shares(believed, ENTRIES)
    before = uncertainty.covariance(believed, np.array(design.VARIANCES))
    incidence = ENTRIES.incidence(GRAPH.to_choices(timed))
    after = uncertainty.posterior(before, scale, incidence, incidence @ scale, 0.01)
    targets = ENTRIES.incidence(GRAPH.to_choices(design.likely_networks(jax.random.key(99), GRAPH, 200)))
    return float(np.sqrt((uncertainty.variance(after, targets) / (targets @ scale) ** 2).mean()))


def test_coverage_uses_every_pair_of_widths_with_the_fewest_networks():
    chosen = design.coverage(jax.random.key(0), GRAPH)
    assert uses(chosen).min() >= 1
    assert len(chosen) <= 1.3 * 5 * 5
    assert uses(design.coverage(jax.random.key(0), GRAPH, visits=2)).min() >= 2


@pytest.mark.parametrize('graph', [RESIDUAL, random_graph(0), random_graph(1)], ids=['residual', 'a', 'b'])
def test_coverage_of_any_graph_uses_every_entry_and_drops_blocks_as_a_whole(graph):
    chosen = design.coverage(jax.random.key(0), graph)
    assert uses(chosen, graph).min() >= 1
    for draw in (design.random_networks, design.networks_of_all_sizes):
        chosen = np.concatenate([chosen, draw(jax.random.key(1), graph, 200)])
    for block in graph.blocks:
        zero = chosen[:, list(block)] == 0
        np.testing.assert_array_equal(zero.any(1), zero.all(1))
        assert zero.any()
        assert not zero.all()


def test_random_networks_would_need_many_more_to_cover_all_pairs():
    chosen = design.coverage(jax.random.key(0), GRAPH)
    assert uses(design.random_networks(jax.random.key(0), GRAPH, len(chosen))).min() == 0


def test_random_widths_are_uniform():
    chosen = GRAPH.to_choices(design.random_networks(jax.random.key(0), GRAPH, 2000))
    counts = np.apply_along_axis(np.bincount, 0, chosen, minlength=5)
    assert (np.abs(counts / 2000 - 0.2) < 0.04).all()


def test_networks_of_all_sizes_reach_where_random_ones_do_not():
    sizes = design.networks_of_all_sizes(jax.random.key(0), GRAPH, 2000) / GRAPH.largest
    random = design.random_networks(jax.random.key(0), GRAPH, 2000) / GRAPH.largest
    assert (sizes.mean(1) < 0.45).mean() > 5 * (random.mean(1) < 0.45).mean()
    assert sizes.mean(1).std() > 2 * random.mean(1).std()


def test_widths_of_networks_of_all_sizes_are_uniform_in_each_site():
    chosen = GRAPH.to_choices(design.networks_of_all_sizes(jax.random.key(0), GRAPH, 4000))
    counts = np.apply_along_axis(np.bincount, 0, chosen, minlength=5)
    assert (np.abs(counts / 4000 - 0.2) < 0.04).all()


@pytest.mark.parametrize('count', [15, 40])
@pytest.mark.parametrize(
    'draw', [design.random_networks, design.networks_of_all_sizes, design.likely_networks]
)
def test_informative_networks_leave_less_uncertainty_than_random_ones(count, draw):
    chosen = design.informative(jax.random.key(1), GRAPH, count, pool=400, targets=200)
    random = [expected_error(draw(jax.random.key(s), GRAPH, count)) for s in range(5)]
    assert expected_error(chosen) < min(random)


def test_each_choice_is_the_best_of_the_pool():
    covariance = np.cov(np.random.default_rng(0).standard_normal((12, 40))).astype(np.float32)
    first, second = design._select(covariance[:8, :8], covariance[8:, :8], 2).tolist()

    def left(chosen: list[int]) -> float:
        seen = covariance[np.ix_(chosen, chosen)] + np.eye(len(chosen))
        across = covariance[8:, chosen]
        return float(np.trace(covariance[8:, 8:] - across @ np.linalg.solve(seen, across.T)))

    assert left([first]) == pytest.approx(min(left([i]) for i in range(8)), rel=1e-5)
    rest = [left([first, i]) for i in range(8) if i != first]
    assert left([first, second]) == pytest.approx(min(rest), rel=1e-5)


def test_a_sequence_covers_first_and_never_repeats_a_choice_of_the_pool():
    chosen = design.sequence(jax.random.key(0), GRAPH, 60)
    covering = design.coverage(jax.random.key(0), GRAPH)
    np.testing.assert_array_equal(chosen[: len(covering)], covering)
    assert chosen.shape == (60, GRAPH.num_sites)
    assert design.sequence(jax.random.key(0), GRAPH, 10).shape == (10, GRAPH.num_sites)


def test_no_network_is_chosen_twice():
    layers = [('conv', 16, 3, 1), ('separable', 32, 3, 1)]
    graph = chain(layers, (16, 16, 3), 10, min_multiplier=0.5, levels=5, divisor=4)
    chosen = design.sequence(jax.random.key(0), graph, 60)
    assert len(chosen) == len(np.unique(chosen, axis=0)) == 25


def test_more_networks_than_the_pool_has_is_an_error():
    with pytest.raises(ValueError, match='enlarge the pool'):
        design.informative(jax.random.key(0), GRAPH, 20, pool=10)
