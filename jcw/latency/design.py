"""Which networks to time: cover every pair of widths first, then go where the table is least certain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.graph import Graph
from jcw.latency import prior, uncertainty
from jcw.latency.entries import Entries
from jcw.recursions import PRNGKey, max_sum

Networks = Int[np.ndarray, 'networks sites']

VARIANCES = (1000.0, 30.0, 30.0, 3.0)
"""Assumed of the prior's terms before anything is timed, in units of the noise variance (docs/latency.md)."""


def random_networks(key: PRNGKey, graph: Graph, count: int) -> Networks:
    """Draw networks with every width uniform over its site's choices."""
    draws = jax.random.randint(key, (count, graph.num_sites), 0, 2**30)
    return graph.to_widths(graph.settled(np.asarray(draws) % graph.num_choices))


def networks_of_all_sizes(key: PRNGKey, graph: Graph, count: int, *, jitter: float = 0.5) -> Networks:
    """Draw networks from the smallest to the largest: sites are wide or narrow together.

    Every site's width stands at `reflect(level + jitter * unevenness * noise_l)` of its choices: level and unevenness
    even on [0, 1] and shared by all sites, noise even on [-1, 1]. Networks of independent widths are all about
    as large as the base network and as uneven as each other; a table fitted to them alone says little of small
    or even ones.
    """
    shared_key, noise_key = jax.random.split(key)
    level, unevenness = jax.random.uniform(shared_key, (2, count, 1))
    noise = jax.random.uniform(noise_key, (count, graph.num_sites), minval=-1, maxval=1)
    place = jnp.abs(level + jitter * unevenness * noise)
    choices = np.asarray(jnp.minimum(place, 2 - place)) * graph.num_choices
    return graph.to_widths(graph.settled(np.minimum(choices.astype(np.int32), graph.num_choices - 1)))


def likely_networks(key: PRNGKey, graph: Graph, count: int) -> Networks:
    """Draw the networks that a search may ask about: in turn of independent widths, and of all sizes."""
    independent_key, sizes_key = jax.random.split(key)
    networks = np.empty((count, graph.num_sites), np.int32)
    networks[::2] = random_networks(independent_key, graph, len(networks[::2]))
    networks[1::2] = networks_of_all_sizes(sizes_key, graph, len(networks[1::2]))
    return networks


def coverage(key: PRNGKey, graph: Graph, *, visits: int = 1) -> Networks:
    """Choose networks until every signature has been used by `visits` of them.

    Each next network is the one that uses most of the signatures still wanted, found exactly by max-sum; ties are
    broken at random.
    """
    entries = Entries(graph)
    wanted = np.full(len(entries), visits)
    noise = np.asarray(jax.random.uniform(key, (len(entries) * visits, len(entries)))) * 0.01
    solve = jax.jit(lambda field: max_sum(field)[1])
    chosen: list[np.ndarray] = []
    while (wanted > 0).any():
        gain = np.sqrt(np.maximum(wanted, 0)) + noise[len(chosen)]
        choices = graph.settled(np.asarray(solve(entries.to_field(gain, 0.0))))
        used = entries.used(choices)
        np.subtract.at(wanted, used[used >= 0], 1)
        chosen.append(choices)
    return graph.to_widths(np.stack(chosen))


def informative(
    key: PRNGKey,
    graph: Graph,
    count: int,
    *,
    timed: Int[np.ndarray, 'timed sites'] | None = None,
    scale: Float[np.ndarray, ' signatures'] | None = None,
    variances: tuple[float, ...] = VARIANCES,
    pool: int = 1536,
    targets: int = 512,
) -> Networks:
    """Choose the networks to time next: those after which the times of likely networks are best known.

    I-optimal design (Atkinson and Donev, 1992, ch. 10), greedily: of a pool of `likely_networks`, take again
    and again the one that lowers most the summed posterior variance of `targets` other ones.

    Args:
      key: of the pool and the targets.
      graph: of the networks.
      count: networks to choose; where the pool has fewer that are new, those.
      timed: networks already timed.
      scale: time of every entry as the prior has it; by default every kind of work takes an equal share.
      variances: of the prior's terms, in units of the noise variance.
      pool: networks to choose from.
      targets: networks whose times one wants to know.

    Raises:
      ValueError: more networks wanted than the pool has.
    """
    if count > pool:
        raise ValueError(f'cannot choose {count} networks from a pool of {pool}; enlarge the pool')
    entries = Entries(graph)
    believed = prior.roofline(entries)
    scale = equal_shares(believed, entries) if scale is None else scale
    timed = np.zeros((0, graph.num_sites), np.int32) if timed is None else np.asarray(timed)
    drawn = likely_networks(key, graph, pool + targets)
    candidates = _distinct(drawn[:pool], timed)
    if not len(candidates):
        return candidates
    covariance = uncertainty.covariance(believed, np.array(variances))
    rows = entries.incidence(graph.to_choices(np.concatenate([candidates, drawn[pool:]]))) * scale
    rows /= rows.sum(1, keepdims=True)
    if len(timed):
        known = entries.incidence(graph.to_choices(timed))
        ones = np.ones(len(entries))
        covariance = uncertainty.posterior(covariance, ones, known * scale, (known @ scale), 1.0)
    split = len(candidates)
    among = rows @ covariance @ rows[:split].T
    among, across = (jnp.asarray(part, jnp.float32) for part in (among[:split], among[split:]))
    return candidates[np.asarray(_select(among, across, min(count, split)))]


def sequence(key: PRNGKey, graph: Graph, count: int) -> Networks:
    """Choose networks to time, in order: a coverage of all pairs of widths, then the most informative.

    In a space of few networks they are fewer than `count`: none comes twice.
    """
    first = coverage(key, graph)[:count]
    more = count - len(first)
    further = informative(jax.random.fold_in(key, 1), graph, more, timed=first, pool=max(1536, 2 * more))
    return np.concatenate([first, further])


def _distinct(networks: Networks, known: Int[np.ndarray, 'known sites']) -> Int[np.ndarray, 'distinct sites']:
    """Leave out what is known, and repetitions."""
    found = dict.fromkeys(map(tuple, networks.tolist()))
    for widths in map(tuple, known.tolist()):
        found.pop(widths, None)
    return np.array(list(found), np.int32).reshape(-1, networks.shape[1])


def equal_shares(believed: prior.Prior, entries: Entries) -> Float[np.ndarray, ' signatures']:
    """Guess entries' times before anything is timed: all features share the base network's time equally."""
    graph = entries.graph
    used = entries.incidence(graph.to_choices(graph.base[None]))[0]
    return (believed.features / (used @ believed.features)).sum(1).astype(np.float64)


@functools.partial(jax.jit, static_argnames='count')
def _select(
    pool: Float[Array, 'pool pool'], targets: Float[Array, 'targets pool'], count: int
) -> Int[Array, ' count']:
    """Pick greedily by sum over targets of cov(target, i)^2 / (var(i) + 1), conditioning on every pick."""

    def pick(state: tuple, _: None) -> tuple:
        pool, targets, free = state
        gain = (targets**2).sum(0) / (jnp.diag(pool) + 1)
        best = jnp.argmax(jnp.where(free, gain, -jnp.inf))
        along = pool[best] / (pool[best, best] + 1)
        pool, targets = pool - pool[best][:, None] * along, targets - targets[:, best, None] * along
        return (pool, targets, free.at[best].set(False)), best

    return jax.lax.scan(pick, (pool, targets, jnp.ones(len(pool), bool)), length=count)[1]
