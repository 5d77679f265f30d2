import numpy as np
import pytest

from jcw.accuracy import report, table
from jcw.accuracy.samples import Header, Sample, Samples
from jcw.accuracy.table import UNITS
from tests.accuracy.truth import SITES, WIDTHS, truth

KNOWN = truth(0)
BEFORE = table.untrained(SITES, WIDTHS)


def trainings(count=24, *, loss_noise=0.01, accuracy_noise=0.5):
    rng = np.random.default_rng(0)
    choices = KNOWN.random(rng, count)
    true = KNOWN.utility(choices)
    accuracy = true + accuracy_noise * rng.standard_normal(count)
    loss = 10 - true / 10 + loss_noise * rng.standard_normal(count)
    rows = [
        Sample(tuple(WIDTHS[s][c] for s, c in enumerate(row)), seed, float(min(a, 100)), float(b))
        for seed, (row, a, b) in enumerate(zip(choices.tolist(), accuracy, loss, strict=True))
    ]
    return Samples(Header(SITES, WIDTHS, 'simulated', {'epochs': 1}), tuple(rows), ())


def test_errors_are_those_of_their_definitions():
    found = report.errors(np.array([1.0, 2, 3]), np.array([1.0, 2, 5]))
    assert found.rmse == pytest.approx(np.sqrt(4 / 3))
    assert found.rank == 1


def test_the_unit_that_ranks_better_is_chosen():
    assert report.fit_samples(BEFORE, trainings()).unit == UNITS[1]
    assert report.fit_samples(BEFORE, trainings(loss_noise=0.2, accuracy_noise=0.05)).unit == UNITS[0]
    assert report.fit_samples(BEFORE, trainings(), unit=UNITS[0]).unit == UNITS[0]


def test_where_it_came_from_is_kept():
    found = report.fit_samples(BEFORE, trainings())
    assert found.provenance['dataset'] == 'simulated'
    assert found.provenance['trainings'] == 24


def test_the_table_is_compared_with_others_predictors_in_their_favour():
    found = report.fit_samples(BEFORE, trainings(accuracy_noise=0.05), unit=UNITS[0])
    measured = found.evidence.utility
    noise = np.random.default_rng(1).standard_normal(len(measured))
    compared = report.compare(
        found, {'FLOPs': noise, 'oracle': -5 + 2 * measured, 'constant': np.ones(len(measured))}
    )
    assert compared.table.rmse == pytest.approx(np.sqrt(((compared.predicted - measured) ** 2).mean()))
    assert compared.others['oracle'].rmse == pytest.approx(0, abs=1e-6)
    assert compared.others['oracle'].rank == pytest.approx(1)
    assert compared.others['constant'].rmse == pytest.approx(measured.std())
    assert compared.table.rank > compared.others['FLOPs'].rank
    assert 'oracle predicts better' in str(compared)
    assert 'FLOPs predicts' not in str(compared)


def test_trainings_of_other_sites_are_refused():
    other = trainings()._replace(header=Header(SITES, ((8, 16),) * 5, 'simulated'))
    with pytest.raises(ValueError, match='other sites or widths'):
        report.fit_samples(BEFORE, other)


def test_predictors_of_other_networks_are_refused():
    found = report.fit_samples(BEFORE, trainings(), unit=UNITS[0])
    with pytest.raises(ValueError, match='predictions of'):
        report.compare(found, {'FLOPs': np.ones(3)})
    with pytest.raises(ValueError, match='two or more'):
        report.errors(np.ones(1), np.ones(1))
