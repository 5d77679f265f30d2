import json

import jax
import numpy as np
import pytest

from jcw.accuracy import storage, table
from tests.accuracy.truth import SITES, WIDTHS, truth


@pytest.fixture(scope='module')
def known():
    return truth(0)


@pytest.fixture(scope='module')
def fitted(known):
    rng = np.random.default_rng(0)
    choices = known.random(rng, 15)
    choices = np.concatenate([choices, choices[:2]])
    before = table.untrained(SITES, WIDTHS)
    return table.refit(before, choices, known.train(rng, choices), provenance={'dataset': 'simulated'})


def test_a_network_that_was_not_trained_is_the_sum_of_its_effects(fitted):
    trained = {tuple(row) for row in fitted.evidence.choices.tolist()}
    networks = np.array([row for row in truth(0).all().tolist() if tuple(row) not in trained])[:200]
    summed = fitted.base + fitted.effects[np.arange(5), networks].sum(1)
    np.testing.assert_allclose(fitted.predict(networks)[0], summed)
    mean, error = fitted.predict(networks.reshape(2, 100, 5))
    assert mean.shape == error.shape == (2, 100)


def test_a_trained_network_keeps_a_part_of_its_difference(fitted):
    choices, utility = fitted.evidence.choices, fitted.evidence.utility
    summed = fitted.base + fitted.effects[np.arange(5), choices].sum(1)
    own = fitted.predict(choices)[0] - summed
    share = own / (utility - summed)
    assert (share > 0).all()
    assert (share < 0.5).all()
    once = fitted.evidence.counts == 1
    np.testing.assert_allclose(share[once], fitted.strength.own)
    assert (share[~once] > fitted.strength.own).all()  # repeats say more of it


def test_training_a_network_narrows_its_error(fitted):
    before = table.untrained(SITES, WIDTHS)
    choices = fitted.evidence.choices
    assert (fitted.predict(choices)[1] < before.predict(choices)[1]).all()


def test_draws_scatter_as_the_covariance_says(fitted):
    draws = fitted.draw(jax.random.key(0), 3000)
    present = fitted.prior.present
    assert (draws[:, ~present] == -np.inf).all()
    covariance = fitted.covariance()
    variance = np.einsum('scsc->sc', covariance)
    steep = present & (np.arange(4) > 0)
    ratio = draws[:, steep].var(0) / variance[steep]
    assert (ratio > 0.5).all()
    assert (ratio < 2.2).all()


def test_draws_are_those_of_their_key(fitted):
    first, second = fitted.draw(jax.random.key(1), 2), fitted.draw(jax.random.key(2), 2)
    np.testing.assert_array_equal(first, fitted.draw(jax.random.key(1), 2))
    assert (first != second).any()
    assert (first[0] != first[1]).any()


def test_the_unary_potential_has_minus_infinity_where_a_choice_is_absent(fitted):
    unary = fitted.unary()
    assert unary.dtype == np.float64
    np.testing.assert_array_equal(np.isfinite(unary), fitted.prior.present)


def test_the_prior_alone_ranks_by_log_width_with_wide_errors(known):
    before = table.untrained(SITES, WIDTHS, height=0.5)
    networks = known.all()
    logs = [np.log(np.array(site) / site[0]) for site in WIDTHS]
    summed = sum(log[networks[:, site]] for site, log in enumerate(logs))
    mean, error = before.predict(networks)
    assert np.corrcoef(mean, summed)[0, 1] == pytest.approx(1)
    assert (error > 3 * before.strength.noise).all()


def test_a_table_read_is_the_table_saved(fitted, tmp_path):
    path = tmp_path / 'accuracy.json'
    fitted.save(path)
    read = table.AccuracyTable.load(path)
    networks = truth(0).all()
    for saved, found in zip(fitted.predict(networks), read.predict(networks), strict=True):
        np.testing.assert_array_equal(saved, found)
    assert read.provenance == {'dataset': 'simulated'}
    assert read.unit == fitted.unit
    np.testing.assert_array_equal(read.draw(jax.random.key(0)), fitted.draw(jax.random.key(0)))


def test_the_prior_alone_can_be_saved(tmp_path):
    path = tmp_path / 'prior.json'
    before = table.untrained(SITES, ((0, 8),) * 5)
    before.save(path)
    np.testing.assert_array_equal(table.AccuracyTable.load(path).effects, before.effects)


def damaged(path, change):
    value = json.loads(path.read_text())
    change(value)
    value['checksum'] = storage.checksum({name: part for name, part in value.items() if name != 'checksum'})
    path.write_text(json.dumps(value))


def test_a_flipped_digit_is_noticed_by_the_checksum(fitted, tmp_path):
    path = tmp_path / 'accuracy.json'
    fitted.save(path)
    value = json.loads(path.read_text())
    value['evidence']['utility'][0] += 0.001
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r'accuracy\.json.*checksum'):
        table.AccuracyTable.load(path)


def put(*names, to):
    def change(value):
        for name in names[:-1]:
            value = value[name]
        value[names[-1]] = to

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (put('version', to=99), 'version'),
        (put('extra', to=1), 'unknown'),
        (lambda value: value.pop('mode'), 'missing'),
        (put('strength', 'noise', to=0), 'positive'),
        (put('strength', 'noise', to='x'), 'noise|float'),
        (put('strength', 'spread', to=[1, 2]), 'spread'),
        (lambda value: value['strength'].pop('own'), 'own'),
        (put('evidence', 'counts', 0, to=0), 'counts'),
        (put('evidence', 'choices', 0, 1, to=3), 'does not have'),
        (put('evidence', 'choices', 0, 1, to=-1), 'choices'),
        (put('mode', 0, to=1e999), 'finite'),
        (put('mode', to=[]), 'mode'),
        (put('prior', 'spans', 0, to=-1), 'spans'),
        (put('widths', 0, to=[8]), 'other widths'),
    ],
)
def test_a_file_that_does_not_hold_a_table_is_refused_by_name(fitted, tmp_path, change, message):
    path = tmp_path / 'accuracy.json'
    fitted.save(path)
    try:
        damaged(path, change)
    except ValueError:  # infinity is no JSON: written past the checksum
        path.write_text('{"format": "jcw accuracy table", "version": 1, "mode": [Infinity]}')
        message = 'Infinity is not a number'
    with pytest.raises(ValueError, match=message) as error:
        table.AccuracyTable.load(path)
    assert 'accuracy.json' in str(error.value)


def test_half_a_file_is_refused(fitted, tmp_path):
    path = tmp_path / 'accuracy.json'
    fitted.save(path)
    path.write_text(path.read_text()[:1000])
    with pytest.raises(ValueError, match='not JSON'):
        table.AccuracyTable.load(path)


@pytest.mark.parametrize('choices', [[0, 0, 3, 0, 0, 0], [0, 3, 0, 0, 0], [0, 0, 0, 0, -1], [0.0] * 5])
def test_choices_that_sites_do_not_have_are_refused(fitted, choices):
    with pytest.raises(ValueError, match='choice'):
        fitted.predict(np.array(choices))
