import numpy as np
import pytest

from jcw.latency import drift
from jcw.latency.location import locate
from jcw.latency.samples import Sample, Samples
from tests.latency.test_samples import HEADER, SMALL


def visits(
    rng, count: int = 5, calls: int = 20, true: float = 1.5, elasticity: float = 1.0, noise: float = 0.02
):
    """Calls of a network and the reference on a machine that is at half speed on some visits."""
    speeds = [np.full(calls, rng.choice([1.0, 1.6])) for _ in range(count)]
    reference = [s * np.exp(noise * rng.standard_normal(calls)) for s in speeds]
    network = [true * s**elasticity * np.exp(noise * rng.standard_normal(calls)) for s in speeds]
    return [v.tolist() for v in network], [v.tolist() for v in reference]


def test_the_ratio_is_recovered_within_its_error():
    rng = np.random.default_rng(0)
    ratios = [locate(*visits(rng)) for _ in range(200)]
    scores = [np.log(ratio.value / 1.5) / ratio.error for ratio in ratios]
    assert 0.7 < np.std(scores) < 1.6
    assert abs(np.mean([ratio.value for ratio in ratios]) - 1.5) < 0.005


def test_a_tenth_of_calls_gone_wrong_moves_the_ratio_little_and_is_counted():
    rng = np.random.default_rng(1)
    calls, reference = visits(rng)
    for visit in calls:
        visit[3] *= 4
        visit[7] *= 3
    ratio = locate(calls, reference)
    assert ratio.value == pytest.approx(1.5, rel=0.02)
    assert ratio.outliers >= 10


@pytest.mark.parametrize('rate', [0.1, 0.25])
def test_slices_of_time_taken_by_others_do_not_bias_the_ratio(rate):
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(100):
        calls, reference = visits(rng)
        for visit in (*calls, *reference):
            for index in np.flatnonzero(rng.random(len(visit)) < rate):
                visit[index] += rng.uniform(2, 5)
        ratios.append(locate(calls, reference).value / 1.5)
    assert abs(np.mean(ratios) - 1) < 0.005
    assert np.std(ratios) < 0.012


def test_visits_that_disagree_have_a_large_error():
    quiet, disturbed = [1.5] * 20, [1.8] * 20
    assert locate([quiet, quiet], [[1.0] * 20] * 2).error == 0
    assert locate([quiet, disturbed], [[1.0] * 20] * 2).error > 0.05


def test_one_visit_has_no_known_error():
    assert np.isnan(locate([[1.0, 1.1]], [[1.0, 1.0]]).error)


@pytest.mark.parametrize('calls', [[], [[]], [[1.0]]])
def test_unpaired_calls_are_refused(calls):
    with pytest.raises(ValueError, match='paired calls'):
        locate(calls, [[1.0, 2.0]])


def held(rng, elasticity: float, count: int = 20) -> tuple[Samples, np.ndarray]:
    true = rng.uniform(0.5, 2, count)
    made = [visits(rng, true=t * 2.0 ** (1 - elasticity), elasticity=elasticity) for t in true]
    about = [{'calls_ms': tuple(map(tuple, c)), 'reference_ms': tuple(map(tuple, r))} for c, r in made]
    return Samples(HEADER, tuple(Sample(SMALL, ms=1.0, **a) for a in about), ()), true


def test_networks_that_slow_down_less_than_the_reference_are_put_on_one_scale():
    samples, true = held(np.random.default_rng(2), elasticity=0.7)
    assert drift.estimate_elasticity(samples) == pytest.approx(0.7, abs=0.05)
    at_normal = true * 2.0 ** (1 - 0.7) * HEADER.reference_ms**0.7
    corrected = drift.corrected(samples).latency_ms / at_normal
    plain = [locate(s.calls_ms, s.reference_ms).value for s in samples.samples] / true
    assert np.std(np.log(corrected)) < 0.5 * np.std(np.log(plain))
    assert np.mean(corrected) == pytest.approx(1, rel=0.03)


def test_noise_of_the_reference_does_not_lower_the_elasticity():
    rng = np.random.default_rng(4)
    made = []
    for _ in range(300):
        speeds = np.exp(0.02 * rng.standard_normal((6, 1)))
        calls, reference = (speeds * np.exp(0.05 * rng.standard_normal((6, 10))) for _ in range(2))
        made.append({'calls_ms': calls.tolist(), 'reference_ms': reference.tolist()})
    samples = Samples(HEADER, tuple(Sample(SMALL, ms=1.0, **about) for about in made), ())
    assert drift.estimate_elasticity(samples) == pytest.approx(1, abs=0.1)
    halved = [
        {k: [[v**0.5 for v in visit] for visit in m[k]] if k == 'calls_ms' else m[k] for k in m} for m in made
    ]
    samples = Samples(HEADER, tuple(Sample(SMALL, ms=1.0, **about) for about in halved), ())
    assert drift.estimate_elasticity(samples) == pytest.approx(0.5, abs=0.15)


def calls_at(rng, speed: float, count: int, noise: float) -> Samples:
    made = [
        {
            'calls_ms': (speed * np.exp(2 * noise * rng.standard_normal((5, 10)))).tolist(),
            'reference_ms': (speed * np.exp(noise * rng.standard_normal((5, 10)))).tolist(),
        }
        for _ in range(count)
    ]
    return Samples(HEADER, tuple(Sample(SMALL, ms=1.0, **about) for about in made), ())


@pytest.mark.parametrize('seed', range(5))
def test_a_table_timed_at_constant_speed_corrects_later_timings_at_another(seed):
    rng = np.random.default_rng(seed)
    table, later = (calls_at(rng, speed, 60, 0.01) for speed in (1.0, 1.15))
    assert drift.estimate_elasticity(table) == pytest.approx(1, abs=0.35)
    corrected = drift.corrected(later, table).latency_ms
    assert np.median(corrected) == pytest.approx(np.median(drift.corrected(table).latency_ms), rel=0.05)


def test_a_few_slow_visits_are_enough_to_know_the_elasticity():
    rng = np.random.default_rng(6)
    made = []
    for _ in range(100):
        speeds = np.where(rng.random((6, 1)) < 0.06, 1.5, 1.0)
        made.append(
            {
                'calls_ms': (speeds**0.7 * np.exp(0.005 * rng.standard_normal((6, 10)))).tolist(),
                'reference_ms': (speeds * np.exp(0.005 * rng.standard_normal((6, 10)))).tolist(),
            }
        )
    samples = Samples(HEADER, tuple(Sample(SMALL, ms=1.0, **about) for about in made), ())
    assert drift.estimate_elasticity(samples) == pytest.approx(0.7, abs=0.1)


def test_on_a_machine_of_constant_speed_the_correction_changes_nothing():
    rng = np.random.default_rng(3)
    calls = tuple(tuple((1.5 * np.exp(0.01 * rng.standard_normal(20))).tolist()) for _ in range(5))
    sample = Sample(SMALL, ms=3.0, calls_ms=calls, reference_ms=((2.0,) * 20,) * 5)
    samples = Samples(HEADER, (sample, Sample(SMALL, failure='hung')), ())
    assert drift.estimate_elasticity(samples) == pytest.approx(1)
    corrected = drift.corrected(samples)
    assert corrected.latency_ms[0] == pytest.approx(1.5, rel=0.01)
    assert corrected.samples[1].failure == 'hung'


def test_without_samples_elasticity_is_one():
    assert drift.estimate_elasticity(Samples(HEADER, (), ())) == 1
