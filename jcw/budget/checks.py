"""What a budgeted problem must look like; each message says which entry is wrong."""

import jax.numpy as jnp
import numpy as np

from jcw.field import Field, check_scopes, present_pairs

MOST_LABELS = 16384  # labels are compared two by two
MOST_WANTED = MOST_LABELS // 4


def check_shapes(utility: Field, costs: tuple[Field, ...]) -> None:
    """Raise `ValueError` unless all fields are [sites choices] and [factors choices choices], and real numbers."""
    for name, field in _named(utility, costs):
        shape, tables = np.shape(field.unary), np.shape(field.tables)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f'{name}.unary must be [sites choices] with at least one of each, got shape {shape}'
            )
        if shape != np.shape(utility.unary):
            raise ValueError(f'{name}.unary has shape {shape} but utility.unary {np.shape(utility.unary)}')
        check_scopes(field.scopes, shape[0])
        expected = (len(field.scopes), shape[1], shape[1])
        if tables != expected:
            raise ValueError(
                f'{name}.tables must have shape {expected} to fit {name}.unary and its scopes, got {tables}'
            )
        for part in ('unary', 'tables'):
            dtype = jnp.result_type(getattr(field, part))
            if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
                raise ValueError(f'{name}.{part} must hold real numbers, got {dtype}')


def check_values(utility: Field, costs: tuple[Field, ...]) -> None:
    """Raise `ValueError` on NaN or +inf utility, and on NaN or -inf cost where choices exist."""
    present = ~np.isneginf(utility.unary)
    if not present.any(1).all():
        raise ValueError(
            f'site {int(np.argmin(present.any(1)))} has no choice: its utility.unary is all -inf'
        )
    for name, field in _named(utility, costs):
        infinity, sign = (np.inf, '+inf') if name == 'utility' else (-np.inf, '-inf')
        pairs = present_pairs(present, field.scopes)
        for part, table, where in (('unary', field.unary, present), ('tables', field.tables, pairs)):
            wrong = (np.isnan(table) if name == 'utility' else where & np.isnan(table)) | (
                where & (table == infinity)
            )
            if wrong.any():
                entry = tuple(int(i) for i in np.argwhere(wrong)[0])
                value = 'NaN' if np.isnan(table[entry]) else sign
                raise ValueError(
                    f'{name}.{part}{list(entry)} is {value}; a choice that is not to be taken has '
                    'utility.unary -inf'
                )


def check_labels(max_labels: int, wanted: int = 1) -> None:
    """Raise `ValueError` unless there is room for a label, and for the labels that `wanted` configurations need."""
    if not 1 <= max_labels <= MOST_LABELS:
        raise ValueError(f'max_labels must be from 1 to {MOST_LABELS}, got {max_labels}')
    if not 1 <= wanted <= MOST_WANTED:
        raise ValueError(
            f'k must be from 1 to {MOST_WANTED}, got {wanted}: memory grows with its square. '
            'For more configurations, sample them, or take those of a frontier'
        )


def check_budget(budget: np.ndarray, num_costs: int, several: bool) -> None:
    """Raise `ValueError` on NaN or negative budgets, and unless there is one for each cost, and one at all."""
    if not num_costs:
        raise ValueError('need at least one cost, got none')
    if not budget.size:
        raise ValueError(f'need at least one budget, got an empty array of shape {budget.shape}')
    if several and (budget.ndim < 1 or budget.shape[-1] != num_costs):
        raise ValueError(
            f'{num_costs} costs need {num_costs} budgets on the last axis, got shape {budget.shape}'
        )
    if not several and budget.ndim > 1:
        raise ValueError(f'budget must be a number or a vector, got shape {budget.shape}')
    wrong = np.isnan(budget) | (budget < 0)
    if wrong.any():
        entry = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = f'budget{list(entry)}' if entry else 'budget'
        raise ValueError(f'{place} must be zero or more, got {budget[entry]}')


def _named(utility: Field, costs: tuple[Field, ...]) -> list[tuple[str, Field]]:
    names = ['cost'] if len(costs) == 1 else [f'cost[{k}]' for k in range(len(costs))]
    return [('utility', utility), *zip(names, costs, strict=True)]
