"""What is believed of accuracy before anything is trained: a curve and a height for every site."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

SHAPE_DEVIATION = 0.15
"""How far a site's true curve is thought to stray from the logarithm, as a part of its height."""

SIGNIFICANT = 2.0
"""Standard errors by which a supernet's height must exceed 0 to be listened to."""


AT_ZERO = 5.0
"""How much more freely a dropped branch may stray from its curve than a width: there the curve is a guess."""


class Prior(NamedTuple):
    """The effect of a width is its site's height times the site's curve, plus a small deviation.

    Curves are 0 at the least positive width and 1 at the greatest, increasing and concave in the width, and below 0 at
    width 0.
    """

    curves: Float[np.ndarray, 'sites choices']  # 0 where absent
    present: Bool[np.ndarray, 'sites choices']  # choices that the site has
    looseness: Float[np.ndarray, 'sites choices']  # deviation of each choice, relative; 0 where absent
    spans: Float[np.ndarray, ' sites']  # expected heights relative to the common one, mean 1
    supernet: Float[
        np.ndarray, ' sites'
    ]  # logarithm of the supernet's heights relative to `spans`; 0 where not heard
    heard: Bool[np.ndarray, ' sites']  # sites where the supernet's height is significant


def log_width(widths: Sequence[Sequence[int]]) -> Prior:
    """Build the prior of diminishing returns: every site gains `log(width)`, all sites alike.

    Width 0 (a dropped branch) has no logarithm. Its value is that of the tangent at the least positive width,
    `log(least) - 1`, which is the least loss that keeps the curve concave.

    Raises:
      ValueError: a site without choices, or with widths that do not increase from 0 or more.
    """
    _check(widths)
    present = np.arange(max(map(len, widths))) < np.array([[len(site)] for site in widths])
    logs = [_logarithms(np.asarray(site, np.float64)) for site in widths]
    spans = np.array([log.max() or 1.0 for log in logs])  # of one positive width: what dropping it costs
    curves, looseness = np.zeros(present.shape), present.astype(np.float64)
    for site, (log, span) in enumerate(zip(logs, spans, strict=True)):
        curves[site, : len(log)] = log / span
        looseness[site, : len(log)][log < 0] = AT_ZERO
    silent = np.zeros(len(spans), bool)
    return Prior(curves, present, looseness, spans / spans.mean(), np.zeros(len(spans)), silent)


def from_supernet(
    widths: Sequence[Sequence[int]],
    mean: Float[np.ndarray, 'sites choices'],
    std: Float[np.ndarray, 'sites choices'],
) -> Prior:
    """Build the prior that also listens to a supernet's effects, where these are significant.

    With r = (mean - mean[least]) / (mean[greatest] - mean[least]) a site's curve by the supernet, and e its relative
    standard error, the curve is log + w (r - log), w = d^2 / (d^2 + e^2), d = `SHAPE_DEVIATION`, made increasing
    and concave. How far its height counts is left to the evidence (`fit`).

    Args:
      widths: of every site.
      mean: effects by the supernet, any unit; -inf where never drawn.
      std: their standard errors.

    Raises:
      ValueError: shapes that do not fit the widths, or numbers that are none.
    """
    prior = log_width(widths)
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if mean.shape != prior.curves.shape or std.shape != mean.shape:
        raise ValueError(
            f'expected effects and errors of shape {prior.curves.shape}, got {mean.shape}, {std.shape}'
        )
    if np.isnan(mean).any() or np.isnan(std).any() or (std < 0).any():
        raise ValueError('effects of the supernet must be numbers and their standard errors not negative')
    curves, heights = prior.curves.copy(), np.zeros(len(mean))
    for site, chosen in enumerate(widths):
        first = int(chosen[0] == 0)
        last = len(chosen) - 1
        height = mean[site, last] - mean[site, first]
        if not height > SIGNIFICANT * np.hypot(
            std[site, last], std[site, first]
        ):  # nor if an end was never drawn
            continue
        heights[site] = height
        curve = (mean[site, : last + 1] - mean[site, first]) / height
        weight = SHAPE_DEVIATION**2 / (SHAPE_DEVIATION**2 + (std[site, : last + 1] / height) ** 2)
        drawn = np.isfinite(curve)
        stray = np.where(drawn, weight * (np.where(drawn, curve, 0) - curves[site, : last + 1]), 0)
        blend = curves[site, : last + 1] + stray
        steps = np.asarray(chosen, np.float64)
        curves[site, first : last + 1] = concave(steps[first:], blend[first:])
        if first:  # not above the tangent
            slope = curves[site, 2] / (steps[2] - steps[1])
            curves[site, 0] = min(blend[0], -slope * steps[1])
    heard = heights > 0
    relative = np.log(np.where(heard, heights, 1) / prior.spans)
    if heard.any():
        relative -= relative[heard].mean()
    return prior._replace(curves=curves, supernet=np.where(heard, relative, 0), heard=heard)


def concave(
    widths: Float[np.ndarray, ' choices'], values: Float[np.ndarray, ' choices']
) -> Float[np.ndarray, ' choices']:
    """Return the increasing concave curve from 0 to 1 whose slopes are nearest to those of values that end higher.

    Slopes between neighbours are averaged until none exceeds the one before it (pool adjacent violators), weighted by
    their steps; negative ones become 0.
    """
    steps = np.diff(widths)
    pools: list[tuple[float, float, int]] = []  # rise, step, members
    for rise, step in zip(np.diff(values), steps, strict=True):
        pool = (rise, step, 1)
        while pools and pool[0] / pool[1] > pools[-1][0] / pools[-1][1]:
            before = pools.pop()
            pool = (before[0] + pool[0], before[1] + pool[1], before[2] + pool[2])
        pools.append(pool)
    slopes = np.concatenate([np.full(members, max(rise / step, 0)) for rise, step, members in pools])
    curve = np.concatenate([[0.0], np.cumsum(slopes * steps)])
    return curve / curve[-1]


def _logarithms(widths: np.ndarray) -> np.ndarray:
    """Return log(width / least positive width), and -1 for width 0."""
    least = widths[widths > 0].min()
    return np.where(widths > 0, np.log(np.where(widths > 0, widths, least) / least), -1.0)


def _check(widths: Sequence[Sequence[int]]) -> None:
    if not len(widths):
        raise ValueError('no sites: a prior needs the widths of at least one')
    for site, chosen in enumerate(widths):
        numbers = np.asarray(chosen)
        if not numbers.size or numbers.min() < 0 or numbers.max() <= 0 or (np.diff(numbers) <= 0).any():
            raise ValueError(
                f'site {site}: widths must increase from 0 or more and end above 0, got {list(chosen)}'
            )
