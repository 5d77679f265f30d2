"""What a budgeted problem must look like; each message says which entry is wrong."""

import numpy as np

from jcw.mrf import ChainMRF


def check_shapes(utility: ChainMRF, costs: tuple[ChainMRF, ...]) -> None:
    """Raise `ValueError` unless all fields are [layers choices] and [layers-1 choices choices] alike."""
    for name, field in _named(utility, costs):
        shape, pairwise = np.shape(field.unary), np.shape(field.pairwise)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f'{name}.unary must be [layers choices] with at least one of each, got shape {shape}'
            )
        if shape != np.shape(utility.unary):
            raise ValueError(f'{name}.unary has shape {shape} but utility.unary {np.shape(utility.unary)}')
        expected = (shape[0] - 1, shape[1], shape[1])
        if pairwise != expected:
            raise ValueError(
                f'{name}.pairwise must have shape {expected} to fit {name}.unary, got {pairwise}'
            )


def check_values(utility: ChainMRF, costs: tuple[ChainMRF, ...]) -> None:
    """Raise `ValueError` on NaN or +inf utility, and on NaN or -inf cost where choices exist."""
    present = ~np.isneginf(utility.unary)
    pairs = present[:-1, :, None] & present[1:, None, :]
    if not present.any(1).all():
        raise ValueError(
            f'layer {int(np.argmin(present.any(1)))} has no choice: its utility.unary is all -inf'
        )
    for name, field in _named(utility, costs):
        infinity, sign = (np.inf, '+inf') if name == 'utility' else (-np.inf, '-inf')
        for part, table, where in (('unary', field.unary, present), ('pairwise', field.pairwise, pairs)):
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


def check_budget(budget: np.ndarray, num_costs: int, several: bool) -> None:
    """Raise `ValueError` on NaN or negative budgets, and unless there is one for each cost."""
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


def _named(utility: ChainMRF, costs: tuple[ChainMRF, ...]) -> list[tuple[str, ChainMRF]]:
    names = ['cost'] if len(costs) == 1 else [f'cost[{k}]' for k in range(len(costs))]
    return [('utility', utility), *zip(names, costs, strict=True)]
