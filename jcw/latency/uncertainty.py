"""How well timings determine a table's entries: the distribution that prior and noisy timings leave."""

import numpy as np
from jaxtyping import Float

from jcw.latency.prior import Prior

Square = Float[np.ndarray, 'signatures signatures']


def covariance(prior: Prior, variances: Float[np.ndarray, ' terms']) -> Square:
    """Sum the prior's terms: covariance of relative deviations, in units of the noise variance."""
    return np.tensordot(np.asarray(variances, np.float64), prior.covariances, 1)


def posterior(
    before: Square,
    scale: Float[np.ndarray, ' signatures'],
    incidence: Float[np.ndarray, 'samples signatures'],
    latency_ms: Float[np.ndarray, ' samples'],
    noise: float,
) -> Square:
    """Return the covariance of a table's entries, ms^2, after timing networks; positivity is not made use of.

    With Z = incidence scale / latency and K the covariance before, noise^2 scale (K^-1 + Z'Z)^-1 scale,
    computed as K - K Z' (Z K Z' + 1)^-1 Z K for fewer networks than entries.
    """
    rows = incidence * scale / latency_ms[:, None]
    if len(rows) < len(scale):
        seen = rows @ before
        after = before - seen.T @ np.linalg.solve(seen @ rows.T + np.eye(len(rows)), seen)
    else:
        after = np.linalg.inv(np.linalg.inv(before) + rows.T @ rows)
    return noise**2 * scale[:, None] * after * scale


def variance(
    after: Square, incidence: Float[np.ndarray, 'samples signatures']
) -> Float[np.ndarray, ' samples']:
    """Return the variance of the sums that networks make of the entries, ms^2."""
    return np.maximum(np.einsum('ns,ns->n', incidence @ after, incidence), 0)
