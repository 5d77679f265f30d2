"""What is believed of accuracy before anything is trained: a curve and a height for every site."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

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
    """Build the prior that also listens to a supernet's heights, where these are significant.

    Its curves within a site are not listened to: fits predicted networks left out worse with them (docs/accuracy.md).
    How far the heights count is left to the evidence (`fit`).

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
    sites = np.arange(len(mean))
    first = np.array([int(chosen[0] == 0) for chosen in widths])  # dropped branches have no part in a height
    last = np.array([len(chosen) - 1 for chosen in widths])
    with np.errstate(invalid='ignore'):  # an end that was never drawn
        height = mean[sites, last] - mean[sites, first]
        heard = np.isfinite(height) & (height > SIGNIFICANT * np.hypot(std[sites, last], std[sites, first]))
    relative = np.log(np.where(heard, height, 1) / prior.spans)
    if heard.any():
        relative -= relative[heard].mean()
    return prior._replace(supernet=np.where(heard, relative, 0), heard=heard)


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
