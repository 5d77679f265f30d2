"""Pairwise fields: a score for every choice of every site, and for pairs of choices of some pairs of sites.

A configuration takes one choice per site and its score is a sum of potentials,

    score(x) = sum_s unary[s, x_s] + sum_f tables[f, x_i, x_j],  (i, j) = scopes[f].

Scores are maximised. The pairs of sites may form any graph; `trellis` says for which of them the recursions are cheap.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Scopes = tuple[tuple[int, int], ...]
Choices = Int[Array, ' sites'] | Int[np.ndarray, ' sites']


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Field:
    """Potentials on a graph of sites; a pytree whose leaves are NumPy or JAX arrays.

    Attributes:
      unary: [sites choices], -inf where a site has no such choice.
      tables: [factors choices choices], the choice of a scope's first site first; 0 at absent choices; -inf
        forbids a pair.
      scopes: the two sites of each factor. Several factors may have the same sites; they add up.
    """

    unary: Any  # leaves are anything while a tree is mapped
    tables: Any
    scopes: Scopes = dataclasses.field(metadata={'static': True})

    def replace(self, **changes: Any) -> 'Field':
        """Return the field with other unaries, tables or scopes."""
        return dataclasses.replace(self, **changes)


def chain_scopes(num_sites: int) -> Scopes:
    """Return the pairs of successive sites."""
    return tuple(itertools.pairwise(range(num_sites)))


def independent(unary: Float[Array, 'sites choices'] | Float[np.ndarray, 'sites choices']) -> Field:
    """Build a field without factors."""
    return Field(unary, np.zeros((0, *unary.shape[1:] * 2), unary.dtype), ())


def pad(
    unary: Sequence[Float[np.ndarray, ' _']],
    tables: Sequence[Float[np.ndarray, '_ _']] = (),
    scopes: Iterable[tuple[int, int]] = (),
) -> Field:
    """Build a field from sites with different numbers of choices.

    Raises:
      ValueError: there is not one table for each scope, or one does not fit its two sites.
    """
    scopes = tuple((int(i), int(j)) for i, j in scopes)
    sizes = [len(row) for row in unary]
    check_scopes(scopes, len(sizes))
    expected, shapes = [(sizes[i], sizes[j]) for i, j in scopes], [np.shape(table) for table in tables]
    if shapes != expected:
        raise ValueError(
            f'sites of {sizes} choices with scopes {scopes} need tables of shapes {expected}, got {shapes}'
        )
    most = max(sizes)
    field = Field(np.full((len(sizes), most), -np.inf), np.zeros((len(scopes), most, most)), scopes)
    for site, row in enumerate(unary):
        field.unary[site, : sizes[site]] = row
    for factor, table in enumerate(tables):
        field.tables[factor, : len(table), : table.shape[1]] = table
    return field


def check_scopes(scopes: Scopes, num_sites: int) -> None:
    """Raise `ValueError` unless every scope is two different sites."""
    for scope in scopes:
        if len(scope) != 2 or scope[0] == scope[1] or not all(0 <= site < num_sites for site in scope):
            raise ValueError(
                f'a scope must be two different sites from 0 to {num_sites - 1}, got {tuple(scope)}'
            )


def add(*fields: Field) -> Field:
    """Add the potentials of fields, as a utility and its constraints; of different scopes, take the union.

    Raises:
      ValueError: the fields differ in sites or choices.
    """
    shapes = [np.shape(field.unary) for field in fields]
    if len(set(shapes)) != 1:
        raise ValueError(f'fields must have the same sites and choices to be added, got shapes {shapes}')
    unary = sum((field.unary for field in fields[1:]), start=fields[0].unary)
    if len({field.scopes for field in fields}) == 1:
        return Field(
            unary, sum((field.tables for field in fields[1:]), start=fields[0].tables), fields[0].scopes
        )
    union: dict[tuple[int, int], Any] = {}
    for field in fields:
        for scope, table in zip(field.scopes, field.tables, strict=True):
            if scope[::-1] in union:
                union[scope[::-1]] = union[scope[::-1]] + table.T
            else:
                union[scope] = union[scope] + table if scope in union else table
    traced = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(fields))
    return Field(unary, (jnp if traced else np).stack(list(union.values())), tuple(union))


def score(field: Field, choices: Choices) -> Float[Array, '']:
    """Sum the potentials of one configuration."""
    unary, tables = jnp.asarray(field.unary), jnp.asarray(field.tables)
    first, second = ends(field.scopes)
    total = unary[np.arange(len(unary)), choices].sum()
    return total + tables[np.arange(len(tables)), choices[first], choices[second]].sum()


def scores(
    field: Field, choices: Int[np.ndarray, 'configurations sites']
) -> Float[np.ndarray, ' configurations']:
    """Sum the potentials of configurations on the host, in the field's own precision."""
    unary, tables = np.asarray(field.unary), np.asarray(field.tables)
    first, second = ends(field.scopes)
    pairs = tables[np.arange(len(tables)), choices[:, first], choices[:, second]]
    return np.asarray(unary[np.arange(len(unary)), choices].sum(1) + pairs.sum(1))


def to_host(field: Field) -> Field:
    """Return the field with leaves in NumPy and float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), field)


def ends(scopes: Scopes) -> tuple[Int[np.ndarray, ' factors'], Int[np.ndarray, ' factors']]:
    """Return the first sites and the second sites of all factors."""
    pairs = np.array(scopes, np.int32).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def present_pairs(
    present: Bool[np.ndarray, 'sites choices'], scopes: Scopes
) -> Bool[np.ndarray, 'factors choices choices']:
    """Say of which entries of tables both choices are present."""
    first, second = ends(scopes)
    return present[first][:, :, None] & present[second][:, None, :]
