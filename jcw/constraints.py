"""What users ask of configurations, as potentials of 0 and -inf: `field.add` them to a utility.

`widths` are those of a graph, padded: site `s` has the first `num_choices[s]` of row `s`. A width may be 0.
"""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from jcw.field import Field, Scopes, check_scopes, ends, independent, present_pairs

WidthTable = Int[np.ndarray, 'sites choices']
NumChoices = Int[np.ndarray, ' _']


def multiples_of(widths: WidthTable, num_choices: NumChoices, divisor: int) -> Field:
    """Allow only widths that are multiples of `divisor`, such as 8, 16 or 32; 0 is one.

    Raises:
      ValueError: a site has none.
    """
    if divisor < 1:
        raise ValueError(f'divisor must be positive, got {divisor}')
    return _allow(widths, num_choices, widths % divisor == 0, f'a multiple of {divisor}')


def at_least(widths: WidthTable, num_choices: NumChoices, least: int | Int[np.ndarray, '...']) -> Field:
    """Allow only widths of `least` channels or more, one number for all sites or one each.

    Raises:
      ValueError: a site has none, or `least` does not fit the sites.
    """
    if np.shape(least) not in ((), widths.shape[:1]):
        raise ValueError(f'least must be a number or {len(widths)} of them, got shape {np.shape(least)}')
    return _allow(widths, num_choices, widths >= np.reshape(least, (-1, 1)), f'at least {least}')


def fixed(widths: WidthTable, num_choices: NumChoices, sites: Mapping[int, int]) -> Field:
    """Give each site in `sites` the width stated there.

    Raises:
      ValueError: there is no such site, or it has no such width.
    """
    allowed = np.ones(widths.shape, bool)
    for site, width in sites.items():
        if not 0 <= site < len(widths):
            raise ValueError(f'site must be from 0 to {len(widths) - 1}, got {site}')
        allowed[site] = widths[site] == width
    return _allow(widths, num_choices, allowed, f'among the fixed widths {dict(sites)}')


def whole_blocks(present: Bool[np.ndarray, 'sites choices'], blocks: Iterable[tuple[int, ...]]) -> Field:
    """Let the sites of a block be 0 together or not at all; 0 is their first choice. Allow whatever is present.

    Args:
      present: which choices there are.
      blocks: sites that are dropped together, as `Graph.blocks` has them.
    """
    scopes = tuple((a, b) for block in blocks for a, b in itertools.pairwise(block))
    zero = np.arange(present.shape[1]) == 0
    mixed = zero[:, None] != zero[None]
    allowed = np.broadcast_to(~mixed, (len(scopes), *mixed.shape)) | ~present_pairs(present, scopes)
    return Field(np.where(present, 0.0, -np.inf), _potential(allowed), scopes)


def non_decreasing(widths: WidthTable, num_choices: NumChoices, pairs: Iterable[tuple[int, int]]) -> Field:
    """Allow the second site of no pair to be narrower than the first.

    Raises:
      ValueError: there is no such pair of sites, or the second has no width as great as one of the first.
    """
    return _allow_pairs(widths, num_choices, pairs, np.less_equal, 'in this order')


def tied(widths: WidthTable, num_choices: NumChoices, pairs: Iterable[tuple[int, int]]) -> Field:
    """Give both sites of each pair the same width.

    Raises:
      ValueError: there is no such pair of sites, or it has no width in common.
    """
    return _allow_pairs(widths, num_choices, pairs, np.equal, 'in common')


def _allow(widths: WidthTable, num_choices: NumChoices, allowed: Bool[np.ndarray, '...'], what: str) -> Field:
    present = _present(widths, num_choices)
    none = ~(allowed & present).any(1)
    if none.any():
        site = int(none.argmax())
        raise ValueError(f'no width of site {site} is {what}: {widths[site][present[site]].tolist()}')
    return independent(_potential(allowed | ~present))


def _allow_pairs(
    widths: WidthTable, num_choices: NumChoices, pairs: Iterable[tuple[int, int]], rule: np.ufunc, what: str
) -> Field:
    scopes: Scopes = tuple((int(i), int(j)) for i, j in pairs)
    check_scopes(scopes, len(widths))
    first, second = ends(scopes)
    allowed = rule(widths[first][:, :, None], widths[second][:, None, :])
    present = present_pairs(_present(widths, num_choices), scopes)
    none = ~(allowed & present).any((1, 2))
    if none.any():
        i, j = scopes[int(none.argmax())]
        raise ValueError(f'sites {i} and {j} have no widths {what}')
    return Field(np.zeros(widths.shape), _potential(allowed | ~present), scopes)


def _present(widths: WidthTable, num_choices: NumChoices) -> Bool[np.ndarray, 'sites choices']:
    if np.shape(num_choices) != widths.shape[:1]:
        raise ValueError(
            f'need the number of choices of {len(widths)} sites, got shape {np.shape(num_choices)}'
        )
    return np.arange(widths.shape[1]) < num_choices[:, None]


def _potential(allowed: Bool[np.ndarray, '...']) -> Float[np.ndarray, '...']:
    return np.where(allowed, 0.0, -np.inf)
