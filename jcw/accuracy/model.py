"""The model: utility of a network from whitened parameters, with its derivatives; for NumPy and JAX arrays alike.

With x a network's one-hot choices, less their mean over those trained, and theta a priori standard normal:

    utility = centre + 3 scale theta_base + sum over sites of effect[site, choice] + own + noise
    effect = common (height_s bent_sc + deviation theta_sc)
    common = noise / (0.07 sites) exp(0.8 theta_common)
    height_s = span_s supernet_s^share exp(spread theta_s)
    bent_sc = curve_sc + 0.3 theta_bend curve_sc (1 - curve_sc)

`own` is what lasts of a network's difference from the sum (interactions of its sites): a normal of variance
`own noise^2`; `noise` that of a training, the rest of `noise^2`.
"""

from typing import Any, NamedTuple

from jcw.accuracy.prior import Prior

BASE_DEVIATION = 3.0  # of the base about the mean of what was seen, in standard deviations of that
COMMON_DEVIATION = 0.8  # of the logarithm of the common height
NOISE_SHARE = 0.07  # noise of a training expected, as a part of all sites' heights together
BEND_DEVIATION = 0.3  # of the bend that all curves share
SHARED = 3  # parameters before the heights: base, common height, bend


class Strengths(NamedTuple):
    """Prior strengths; arrays of many, or one number each."""

    noise: Any  # standard deviation of a training about the sum of effects, units of utility
    spread: Any  # standard deviation of the logarithm of heights
    deviation: Any  # standard deviation of the free deviations, common heights
    supernet: Any  # exponent of the supernet's heights, 0: all sites alike
    own: Any  # part of the noise's variance that is the network's own and lasts


class Effects(NamedTuple):
    """Effects, and their derivatives with respect to the whitened parameters."""

    base: Any  # of the network of mean one-hot choices, less `centre`
    effects: Any  # [sites choices], 0 where absent
    jacobian: Any  # [sites choices parameters]


def num_parameters(prior: Prior) -> int:
    """Count the parameters: shared ones, a height per site, a deviation per choice."""
    return SHARED + len(prior.spans) + prior.curves.size


def unpack(theta: Any, prior: Prior, strength: Strengths, scale: Any) -> tuple[Any, Any]:
    """Return base and effects [sites choices] of whitened parameters."""
    common, heights, bent, deviations = _parts(theta, prior, strength)
    return BASE_DEVIATION * scale * theta[0], common * (heights[:, None] * bent + deviations)


def linearise(theta: Any, prior: Prior, strength: Strengths, scale: Any) -> Effects:
    """Return effects with their derivatives."""
    xp = theta.__array_namespace__()
    base, effects = unpack(theta, prior, strength, scale)
    common, heights, bent, _ = _parts(theta, prior, strength)
    sites, choices = prior.curves.shape
    of_heights = strength.spread * common * heights[:, None] * bent
    bend = BEND_DEVIATION * common * heights[:, None] * prior.curves * (1 - prior.curves) * _between(prior)
    columns = [
        xp.zeros((sites, choices, 1)),
        COMMON_DEVIATION * effects[..., None],
        bend[..., None],
        of_heights[..., None] * xp.eye(sites)[:, None],
        xp.reshape(
            xp.eye(sites * choices) * (strength.deviation * common * prior.looseness.reshape(-1)),
            (sites, choices, sites * choices),
        ),
    ]
    return Effects(base, effects, xp.concatenate(columns, -1))


def variances(counts: Any, strength: Strengths) -> Any:
    """Return the variance of the mean of `counts` trainings about the sum of effects."""
    return strength.noise**2 * (strength.own + (1 - strength.own) / counts)


def _parts(theta: Any, prior: Prior, strength: Strengths) -> tuple[Any, Any, Any, Any]:
    xp = theta.__array_namespace__()
    sites = len(prior.spans)
    common = strength.noise / (NOISE_SHARE * sites) * xp.exp(COMMON_DEVIATION * theta[1])
    logarithm = strength.supernet * prior.supernet + strength.spread * theta[SHARED : SHARED + sites]
    bump = prior.curves * (1 - prior.curves) * _between(prior)
    bent = prior.curves + BEND_DEVIATION * theta[2] * bump
    deviations = theta[SHARED + sites :].reshape(prior.curves.shape) * strength.deviation * prior.looseness
    return common, prior.spans * xp.exp(logarithm), bent, deviations


def _between(prior: Prior) -> Any:
    """Say where a curve bends: between its ends; below the least positive width it goes straight on."""
    return prior.curves > 0
