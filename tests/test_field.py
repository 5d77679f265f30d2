"""Fields: scores against plain loops, padding, sums over different graphs, and what is refused."""

import jax
import numpy as np
import pytest

from jcw import field as fields
from jcw.field import Field, chain_scopes, independent
from tests.solver_oracle import RESIDUAL, TREE, random_field, table


def drawn(scopes, seed=0):
    return random_field(np.random.default_rng(seed), 4, 3, scopes)


@pytest.mark.parametrize('scopes', [(), chain_scopes(4), TREE, RESIDUAL])
def test_score_and_evaluate_agree_with_the_table(scopes):
    field = drawn(scopes)
    configurations, scores = table(field)
    np.testing.assert_allclose(fields.scores(field, configurations), scores)
    np.testing.assert_allclose(jax.vmap(lambda x: fields.score(field, x))(configurations), scores, rtol=1e-6)


@pytest.mark.parametrize('first', [(), chain_scopes(4), TREE, RESIDUAL])
@pytest.mark.parametrize('second', [(), chain_scopes(4), TREE, RESIDUAL])
def test_the_score_of_a_sum_is_the_sum_of_scores_and_its_scopes_are_the_union(first, second):
    one, other = drawn(first), drawn(second, 1)
    total = fields.add(one, other)
    np.testing.assert_allclose(table(total)[1], table(one)[1] + table(other)[1])
    assert {frozenset(scope) for scope in total.scopes} == {frozenset(scope) for scope in first + second}


def test_adding_fields_of_one_graph_keeps_its_scopes_and_arrays_stay_on_the_host():
    field = drawn(RESIDUAL)
    total = fields.add(field, field, field)
    assert total.scopes == RESIDUAL
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(total))
    np.testing.assert_allclose(total.tables, 3 * field.tables)


def test_forbidden_and_absent_entries_survive_addition_under_jit():
    unary = np.array([[0.0, -np.inf], [1.0, 2.0]], np.float32)
    forbids = Field(
        np.zeros((2, 2), np.float32), np.array([[[0.0, -np.inf], [0.0, 0.0]]], np.float32), ((0, 1),)
    )
    total = jax.jit(fields.add)(independent(unary), forbids)
    assert total.scopes == ((0, 1),)
    np.testing.assert_array_equal(total.unary, unary)
    np.testing.assert_array_equal(total.tables, forbids.tables)


def test_a_fields_leaves_are_replaced_mapped_and_differentiated():
    field = jax.tree.map(np.float32, drawn(TREE))
    other = field.replace(unary=2 * field.unary)
    np.testing.assert_array_equal(other.unary, 2 * field.unary)
    assert other.scopes is field.scopes
    choices = np.array([0, 2, 1, 0])
    gradient = jax.grad(lambda field: fields.score(field, choices))(field)
    np.testing.assert_array_equal(np.argwhere(gradient.unary), np.stack([np.arange(4), choices], 1))
    np.testing.assert_array_equal(np.argwhere(gradient.tables)[:, 1:], choices[np.array(TREE)])


def test_padding_marks_absent_choices():
    field = fields.pad([np.ones(2), np.ones(3)], [np.full((3, 2), 5.0)], [(1, 0)])
    np.testing.assert_array_equal(field.unary, [[1, 1, -np.inf], [1, 1, 1]])
    np.testing.assert_array_equal(field.tables, [[[5, 5, 0]] * 3])


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (
            lambda: fields.pad([np.zeros(2), np.zeros(3)], [np.zeros((3, 2))], [(0, 1)]),
            r'shapes \[\(2, 3\)\], got \[\(3, 2\)\]',
        ),
        (lambda: fields.pad([np.zeros(2)], [], [(0, 1)]), r'two different sites from 0 to 0, got \(0, 1\)'),
        (lambda: fields.add(drawn(()), independent(np.zeros((4, 2)))), r'got shapes \[\(4, 3\), \(4, 2\)\]'),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
