"""The trellis: its order of sites, and its recursions against the full table of configurations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import chi2

from jcw import recursions, trellis
from jcw.field import Field, chain_scopes, ends, independent, pad, score
from tests.solver_oracle import RESIDUAL, TREE, random_field, random_scopes, table

SIZES = [(1, 1), (1, 4), (3, 1), (2, 3), (5, 4)]
GRAPHS = [
    (3, 3, ()),
    (4, 1, RESIDUAL),
    (4, 3, TREE),
    (4, 3, RESIDUAL),
    (6, 2, (*RESIDUAL, (4, 3), (5, 3), (4, 5))),
]

max_sum, log_partition, marginals, pair_marginals, sample = (
    jax.jit(reduction)
    for reduction in (
        recursions.max_sum,
        recursions.log_partition,
        recursions.marginals,
        recursions.pair_marginals,
        recursions.sample,
    )
)


def ragged():
    """A field of sites with 3, 1 and 2 choices."""
    rng = np.random.default_rng(5)
    return pad([rng.random(n) for n in (3, 1, 2)], [rng.random((3, 1)), rng.random((2, 1))], [(0, 1), (2, 1)])


def fields():
    rng = np.random.default_rng(0)
    trees = [(sites, 2, random_scopes(rng, sites)) for sites in (2, 5, 7)]
    chains = [(*size, None) for size in SIZES]
    return [random_field(rng, *graph) for graph in chains + GRAPHS + trees] + [ragged()]


def both(configurations, field):
    """Say which choices each configuration makes, and which pairs of each factor."""
    onehot = configurations[:, :, None] == np.arange(field.unary.shape[1])
    first, second = ends(field.scopes)
    return onehot, onehot[:, first, :, None] & onehot[:, second, None, :]


def forbidding():
    """A field of three sites in which widths may not fall, so whole columns of pairs are forbidden."""
    rising = np.where(np.tri(3, dtype=bool).T, 0.0, -np.inf)
    scopes = ((0, 1), (1, 2), (0, 2))
    return Field(random_field(np.random.default_rng(0), 3, 3).unary, np.stack([rising] * 3), scopes)


@pytest.mark.parametrize('field', fields())
def test_max_sum_finds_the_best_of_the_table_and_score_agrees(field):
    configurations, scores = table(field)
    best, choices = max_sum(field)
    np.testing.assert_allclose(best, scores.max(), rtol=1e-6)
    np.testing.assert_array_equal(choices, configurations[scores.argmax()])
    np.testing.assert_allclose(score(field, choices), scores.max(), rtol=1e-6)


@pytest.mark.parametrize('temperature', [0.1, 1.0, 30.0])
@pytest.mark.parametrize('field', fields())
def test_sum_product_agrees_with_the_joint_table(field, temperature):
    configurations, scores = table(field)
    expected = logsumexp(scores / temperature)
    np.testing.assert_allclose(log_partition(field, temperature), expected, rtol=1e-5, atol=1e-5)
    joint = np.exp(scores / temperature - expected)
    singles, pairs = both(configurations, field)
    np.testing.assert_allclose(
        marginals(field, temperature), np.einsum('x,xsc->sc', joint, singles), atol=2e-5
    )
    expected_pairs = np.einsum('x,xfij->fij', joint, pairs)
    np.testing.assert_allclose(pair_marginals(field, temperature), expected_pairs, atol=2e-5)


@pytest.mark.parametrize('scopes', [None, TREE, RESIDUAL])
def test_marginals_are_the_gradient_of_the_log_partition_and_its_finite_difference(scopes):
    field = random_field(np.random.default_rng(1), 4, 3, scopes)
    gradient = jax.grad(log_partition)(jax.tree.map(jnp.asarray, field))
    np.testing.assert_allclose(marginals(field), gradient.unary, atol=1e-6)
    np.testing.assert_allclose(pair_marginals(field), gradient.tables, atol=1e-6)
    shift = np.zeros_like(field.unary)
    shift[2, 1] = 1e-2
    up, down = (log_partition(field.replace(unary=field.unary + sign * shift)) for sign in (1, -1))
    np.testing.assert_allclose((up - down) / 2e-2, marginals(field)[2, 1], atol=1e-3)


@pytest.mark.parametrize('graph', ['ragged', 'two remembered'])
def test_samples_follow_the_joint_distribution_by_chi_squared(graph):
    field = ragged() if graph == 'ragged' else random_field(np.random.default_rng(3), 4, 2, RESIDUAL)
    temperature, draws = 0.4, 20_000
    configurations, scores = table(field)
    present = scores > -np.inf
    probability = np.exp(scores[present] / temperature - logsumexp(scores / temperature))
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: sample(key, field, temperature)))(keys))
    counts = (drawn[:, None] == configurations[present]).all(-1).sum(0)
    assert counts.sum() == draws  # none forbidden
    statistic = ((counts - draws * probability) ** 2 / (draws * probability)).sum()
    assert statistic < chi2.ppf(0.999, present.sum() - 1)


@pytest.mark.parametrize('temperature', [1e-2, 1e-4, 1e-6])
def test_at_low_temperature_marginals_and_samples_concentrate_on_the_best(temperature):
    field = random_field(np.random.default_rng(2), 14, 14)
    best = np.asarray(max_sum(field)[1])
    probability = np.asarray(marginals(field, temperature))
    assert np.isfinite(probability).all()
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-4)
    if temperature <= 1e-4:
        np.testing.assert_allclose(probability[np.arange(14), best], 1, atol=1e-3)
        np.testing.assert_array_equal(sample(jax.random.key(0), field, temperature), best)


def test_choices_that_tie_share_the_probability_at_any_temperature():
    field = Field(np.array([[0.7, 0.7, 0.1], [0.3, 0.3, 0.3]]), np.zeros((1, 3, 3)), ((1, 0),))
    expected = [[0.5, 0.5, 0], [1 / 3] * 3]
    np.testing.assert_allclose(marginals(field, 1e-6), expected, atol=1e-6)
    np.testing.assert_array_equal(max_sum(field)[1], [0, 0])


def test_forbidden_pairs_have_no_probability_and_no_nan():
    field = forbidding()
    pairs = np.asarray(pair_marginals(field, 1e-6))
    assert np.isfinite(pairs).all()
    assert (pairs[:, ~np.tri(3, dtype=bool).T] == 0).all()
    gradient = jax.grad(lambda t: log_partition(field, t))(1.0)
    assert np.isfinite(gradient)
    nowhere = field.replace(tables=np.full_like(field.tables, -np.inf))
    assert log_partition(nowhere) == -np.inf
    assert np.isfinite(marginals(nowhere)).all()


@pytest.mark.parametrize('scopes', [None, TREE, RESIDUAL])
def test_jit_and_vmap_agree_with_a_loop(scopes):
    fields = [random_field(np.random.default_rng(i), 4, 3, scopes) for i in range(2)]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *fields)
    best, choices = jax.jit(jax.vmap(recursions.max_sum))(batch)
    probability = jax.jit(jax.vmap(recursions.marginals))(batch)
    for i, field in enumerate(fields):
        np.testing.assert_allclose(best[i], recursions.max_sum(field)[0], rtol=1e-6)
        np.testing.assert_array_equal(choices[i], recursions.max_sum(field)[1])
        np.testing.assert_allclose(probability[i], recursions.marginals(field), atol=1e-6)


def test_a_batch_of_fields_and_temperatures_compiles_once():
    traces = []

    @jax.jit
    def run(field, temperature):
        traces.append(1)
        return recursions.marginals(field, temperature)

    for seed in range(3):
        run(random_field(np.random.default_rng(seed), 3, 3), 0.5 + seed)
    assert len(traces) == 1


def test_potentials_that_are_not_real_are_refused():
    with pytest.raises(ValueError, match='potentials must be real numbers, got complex unary'):
        recursions.max_sum(independent(np.ones((2, 2))).replace(unary=np.ones((2, 2), complex)))


def small_graphs(sites):
    """Every graph on so many sites."""
    pairs = list(itertools.combinations(range(sites), 2))
    return [tuple(itertools.compress(pairs, kept)) for kept in itertools.product((0, 1), repeat=len(pairs))]


def least_remembered(scopes, sites):
    """Return the least, over all orders, of the most sites that must be remembered."""

    def most(order):
        before = {site: place for place, site in enumerate(order)}
        spans = [sorted((before[i], before[j])) for i, j in scopes]
        return max(len({low for low, high in spans if low < step <= high}) for step in range(sites + 1))

    return min(most(order) for order in itertools.permutations(range(sites)))


@pytest.mark.parametrize('sites', [1, 2, 3, 4, 5])
def test_as_few_sites_are_remembered_as_can_be_and_graphs_that_need_three_are_refused(sites):
    for scopes in small_graphs(sites):
        least = least_remembered(scopes, sites)
        if least > 2:
            with pytest.raises(ValueError, match='more than 2 sites remembered'):
                trellis.trellis(scopes, sites)
        else:
            way = trellis.trellis(scopes, sites)
            assert max(map(len, way.remembered)) == least
            assert sorted(way.order) == list(range(sites))


def test_every_factor_is_completed_while_its_sites_are_remembered():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scopes = random_scopes(rng, 9)
        way = trellis.trellis(scopes, 9)
        for i, j in scopes:
            later, earlier = sorted((i, j), key=way.order.index, reverse=True)
            assert earlier in way.remembered[way.order.index(later)]


def bottlenecks(blocks):
    """Scopes of a residual network's stages: each block in, middle, middle, out, and a projected first shortcut."""
    scopes, stream, site = [], 0, 0
    for count in blocks:
        for block in range(count):
            first, second = site + 1, site + 2
            site += 2
            out = stream if block else (site := site + 1)
            scopes += [(stream, first), (first, second), (second, out)]
            if block == 0:
                scopes.append((stream, out))
            stream = out
    return tuple(scopes), site + 1


def test_residual_networks_keep_their_own_order():
    scopes, sites = bottlenecks((3, 4, 6, 3))
    way = trellis.trellis(scopes, sites)
    assert (sites, way.num_slots) == (37, 2)
    assert way.order == tuple(range(37))
    shuffled = np.random.default_rng(0).permutation(sites).tolist()
    other = trellis.trellis(tuple((shuffled[i], shuffled[j]) for i, j in scopes), sites)
    assert other.num_slots == 2


def test_inverted_residuals_remember_only_the_stream():
    stream, scopes, site = 0, [], 0
    for blocks in (1, 2, 3, 4, 3, 3, 1):
        for block in range(blocks):
            inner = site = site + 1
            out = stream if block else (site := site + 1)
            scopes += [(stream, inner), (inner, out)]
            stream = out
    way = trellis.trellis(tuple(scopes), site + 1)
    assert way.num_slots == 1


def test_a_chain_is_the_trellis_whose_state_is_the_last_choice():
    way = trellis.trellis(chain_scopes(5), 5)
    assert way.order == (0, 1, 2, 3, 4)
    assert way.remembered == ((), (0,), (1,), (2,), (3,))


def test_a_graph_that_needs_more_is_refused_by_its_sites_names():
    clique = tuple(itertools.combinations(range(4), 2))
    with pytest.raises(ValueError, match='sites stem, wide, deep'):
        trellis.trellis(clique, 4, ('stem', 'wide', 'deep', 'out'))
    with pytest.raises(ValueError, match=r'two different sites from 0 to 3, got \(1, 1\)'):
        trellis.trellis(((1, 1),), 4)
