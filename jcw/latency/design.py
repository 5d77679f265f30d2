"""Which networks to time: cover every pair of widths first, then go where the table is least certain."""

import jax
import numpy as np
from jaxtyping import Int

from jcw.latency.signatures import Signatures
from jcw.mrf import ChainMRF, PRNGKey, max_sum
from jcw.space import SearchSpace


def random_networks(key: PRNGKey, space: SearchSpace, count: int) -> Int[np.ndarray, 'networks layers']:
    """Draw networks with every width uniform over its layer's choices."""
    draws = jax.random.randint(key, (count, space.num_layers), 0, 2**30)
    return space.to_widths(np.asarray(draws) % space.num_choices)


def coverage(key: PRNGKey, space: SearchSpace, *, visits: int = 1) -> Int[np.ndarray, 'networks layers']:
    """Choose networks until every signature has been used by `visits` of them.

    Each next network is the chain that uses most of the signatures still wanted, found exactly by the chain
    solver; ties are broken at random.
    """
    signatures = Signatures(space)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    wanted = np.full(len(signatures), visits)
    solve = jax.jit(lambda mrf: max_sum(mrf)[1])
    chosen = []
    while (wanted > 0).any():
        gain = np.sqrt(np.maximum(wanted, 0)) + 0.01 * rng.random(len(signatures))
        choices = np.asarray(solve(ChainMRF(*signatures.to_cost(gain, 0.0))))
        np.subtract.at(wanted, signatures.entries(choices), 1)
        chosen.append(choices)
    return space.to_widths(np.stack(chosen))
