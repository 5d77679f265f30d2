"""What is believed of accuracy before anything is trained: a curve and a height for every site."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

SHAPE_DEVIATION = 0.15
"""How far a site's true curve is thought to stray from the logarithm, as a part of its height."""

SIGNIFICANT = 2.0
"""Standard errors by which a supernet's height must exceed 0 to be listened to."""


class Prior(NamedTuple):
    """The effect of a width is its site's height times the site's curve, plus a small deviation.

    Curves are 0 at the least positive width and 1 at the greatest, increasing and concave in the width.
    """

    curves: Float[np.ndarray, 'sites choices']  # 0 where absent
    present: Bool[np.ndarray, 'sites choices']  # choices that the site has
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
    spans = np.array([log.max() for log in logs])
    curves = np.zeros(present.shape)
    for site, (log, span) in enumerate(zip(logs, spans, strict=True)):
        curves[site, : len(log)] = log / (span or 1.0)
    silent = np.zeros(len(spans), bool)
    return Prior(curves, present, spans / (spans.mean() or 1.0), np.zeros(len(spans)), silent)


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
      ValueError: shapes that do not fit the widths, or a standard error that is not positive.
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
        positive = np.flatnonzero(np.asarray(chosen) > 0)
        least, greatest = positive[0], positive[-1]
        height = mean[site, greatest] - mean[site, least]
        error = np.hypot(std[site, greatest], std[site, least])
        if not height > SIGNIFICANT * error:  # NaN of two absent ends too
            continue
        heights[site] = height
        own = slice(0, len(chosen))
        curve = (mean[site, own] - mean[site, least]) / height
        weight = SHAPE_DEVIATION**2 / (SHAPE_DEVIATION**2 + (std[site, own] / height) ** 2)
        blend = np.where(
            np.isfinite(curve), weight * (np.where(np.isfinite(curve), curve, 0) - curves[site, own]), 0
        )
        curves[site, own] = concave(np.asarray(chosen, np.float64), curves[site, own] + blend, least)
    heard = heights > 0
    relative = np.log(np.where(heard, heights, 1) / np.where(prior.spans > 0, prior.spans, 1))
    if heard.any():
        relative -= relative[heard].mean()
    return prior._replace(curves=curves, supernet=np.where(heard, relative, 0), heard=heard)


def concave(
    widths: Float[np.ndarray, ' choices'], values: Float[np.ndarray, ' choices'], least: int
) -> Float[np.ndarray, ' choices']:
    """Return the increasing concave curve from 0 at `least` to 1 at the end whose slopes are nearest.

    Slopes between neighbours are averaged until none exceeds the one before it (pool adjacent violators), weighted by
    their steps; negative ones become 0.
    """
    steps = np.diff(widths)
    pools: list[list[float]] = []  # [slope, step, members]
    for rise, step in zip(np.diff(values), steps, strict=True):
        pools.append([rise / step, step, 1])
        while len(pools) > 1 and pools[-1][0] > pools[-2][0]:
            slope, step_, members = pools.pop()
            before = pools[-1]
            total = before[1] + step_
            pools[-1] = [(before[0] * before[1] + slope * step_) / total, total, before[2] + members]
    slopes = np.concatenate([[max(slope, 0.0)] * int(members) for slope, _, members in pools])
    curve = np.concatenate([[0.0], np.cumsum(slopes * steps)])
    curve -= curve[least]
    return curve / curve[-1] if curve[-1] > 0 else _logarithms(widths) / _logarithms(widths).max()


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
