"""The training steps: the update they make, on one device, on four, and in parts; recalibration and evaluation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jcw.nets import segments, training
from jcw.nets.axes import slice_variables
from jcw.train import losses, mutation, parallel, sandwich, steps
from jcw.train.augment import Augmentation
from jcw.train.state import start_from
from tests import tiny_graph
from tests.compiled import compilations
from tests.tiny_graph import RESIDUAL
from tests.train.tiny_run import BATCH, GRAPH, RECIPE, build_step, examples

KEY = jax.random.key(3)
PROBABILITIES = np.asarray(mutation.even_probabilities(GRAPH))
MEAN, STD = (0.5,) * 3, (0.25,) * 3


def batch(count=BATCH):
    return examples().take(slice(count))


def random_choices(seed, *shape):
    return (np.random.default_rng(seed).random((*shape, GRAPH.num_sites)) * GRAPH.num_choices).astype(
        np.int32
    )


def trained_variables():
    """Return variables off their initial values."""
    variables = jax.jit(training.functions_of(GRAPH).init)(KEY)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + jnp.asarray(0.2 * rng.random(a.shape), a.dtype), variables)


def close(a, b, tolerance=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


class Spread(NamedTuple):
    """The step on four devices, and what it has done so far."""

    run: object
    state: object
    first: tuple
    traces: list


@pytest.fixture(scope='module')
def spread():
    state, step = build_step(parallel.AXIS)
    traces = []

    def counted(*args):
        traces.append(args)
        return step(*args)

    run = parallel.data_parallel(
        counted, batch_args=(False, False, True, True, False), batch_outputs=(False, False, True)
    )
    return Spread(run, state, run(state, KEY, *batch(), PROBABILITIES), traces)


def test_four_devices_make_one_devices_update_and_rewards(spread):
    assert jax.local_device_count() == 4
    state, alone = build_step(None)
    expected = jax.jit(alone)(state, KEY, *batch(), PROBABILITIES)
    close(spread.first, expected, 1e-4)
    np.testing.assert_array_equal(spread.first[2].choices, expected[2].choices)


@pytest.mark.slow
def test_in_float64_four_devices_take_the_steps_of_one():
    """Three steps: what float32 leaves open, whether differences are rounding, which grows with every step."""

    def wide(tree):
        return jax.tree.map(lambda a: np.asarray(a, np.float64) if a.dtype == np.float32 else a, tree)

    with jax.enable_x64(True):
        start, step = build_step(parallel.AXIS)
        mapped = parallel.data_parallel(
            step, batch_args=(False, False, True, True, False), batch_outputs=(False, False, True)
        )
        states = []
        for run in (jax.jit(build_step(None)[1]), mapped):
            state = wide(jax.device_get(start))
            for index in range(3):
                state, _, rewards = run(state, jax.random.fold_in(KEY, index), *batch(), wide(PROBABILITIES))
            states.append(jax.device_get((state.params, state.batch_stats, rewards)))
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), states[0][0], jax.device_get(start.params))
    assert max(jax.tree.leaves(moved)) > 1e-3
    close(states[1], states[0], 1e-7)


def test_segments_shared_on_four_devices_make_the_update_of_networks_apart_on_one():
    """By plain descent an update is the gradient; variables are off their initial values."""
    settings = {'draw': mutation.draw_of(GRAPH, 'site'), 'optimiser': optax.sgd(1.0)}
    shared = segments.functions_of(GRAPH, axis_name=parallel.AXIS)
    start, step = build_step(parallel.AXIS, supernet=shared, **settings)
    variables = trained_variables()
    start = start.replace(params=variables['params'])
    run = parallel.data_parallel(
        step, batch_args=(False, False, True, True, False), batch_outputs=(False, False, True)
    )
    _, alone = build_step(None, **settings)
    inputs = (PROBABILITIES, np.int32(1))
    state, metrics, rewards = run(start, KEY, *batch(), inputs)
    expected = jax.jit(alone)(start, KEY, *batch(), inputs)
    close((state, metrics, rewards), expected, 1e-5)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, start.params)
    assert min(jax.tree.leaves(moved)) > 1e-4  # ten times the tolerance


def test_the_mapped_step_compiles_once_and_new_probabilities_nothing(spread):
    state = spread.first[0]
    other = PROBABILITIES * np.linspace(0.5, 1.5, GRAPH.num_sites, dtype=np.float32)[:, None]
    with compilations() as compiled:
        for probabilities in (PROBABILITIES, other, PROBABILITIES):
            state, _, _ = spread.run(state, KEY, *batch(), probabilities)
    assert not compiled
    assert len(spread.traces) == 1
    assert state.step == 4


def test_a_batch_that_does_not_divide_by_the_devices_is_refused(spread):
    with pytest.raises(ValueError, match='a batch of 6 does not divide by 4 devices'):
        spread.run(spread.state, KEY, *batch(6), PROBABILITIES)


@pytest.mark.parametrize('graph', [GRAPH, RESIDUAL], ids=['chain', 'residual'])
def test_the_sandwich_is_the_sum_of_three_losses_and_rewards_compare_two_of_them(graph):
    """The largest learns from labels, the smallest and the mutated from the largest, whose teaching is not undone."""
    net, thin = training.functions_of(graph), training.functions_of(graph.fixed(graph.smallest))
    variables = tiny_graph.random_variables(0, graph=graph)
    images = tiny_graph.random_images(1, 6, graph=graph)
    labels = jnp.arange(6) % graph.num_classes
    choices = jnp.asarray(tiny_graph.random_choices(2, 6, graph=graph))
    targets = losses.smooth_targets(labels, graph.num_classes, 0.1)

    def logits_of(params):
        full = {'params': params, 'batch_stats': variables['batch_stats']}
        return (
            net.apply(full, images, None, True)[0],
            thin.apply(slice_variables(full, graph, graph.smallest), images, None, True)[0],
            net.apply(full, images, graph.to_widths(choices), True)[0],
        )

    def expected(params, teacher):
        largest, smallest, mutated = logits_of(params)
        soft = jax.nn.softmax(teacher)
        total = losses.cross_entropy(largest, targets)
        return (total + losses.cross_entropy(smallest, soft) + losses.cross_entropy(mutated, soft)).mean()

    def obtained(params):
        full = {'params': params, 'batch_stats': variables['batch_stats']}
        thin_variables = slice_variables(full, graph, graph.smallest)
        return sandwich.sandwich_loss(
            full, thin_variables, images, targets, labels, choices, supernet=net, smallest=thin, graph=graph
        )

    (loss, (_, rewards, metrics)), gradient = jax.jit(jax.value_and_grad(obtained, has_aux=True))(
        variables['params']
    )
    three = jax.jit(logits_of)(variables['params'])
    value, slope = jax.jit(jax.value_and_grad(expected))(variables['params'], three[0])
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    close(gradient, slope, 1e-4)
    hard = jax.nn.one_hot(labels, graph.num_classes)
    on_labels = [losses.cross_entropy(logits, hard) for logits in three]
    np.testing.assert_allclose(rewards.rewards, on_labels[0] - on_labels[2], atol=1e-5)
    np.testing.assert_allclose(metrics[:3], [each.mean() for each in on_labels], rtol=1e-5)
    np.testing.assert_array_equal(rewards.choices, choices)


def test_parts_of_a_batch_average_their_first_result_and_join_their_second():
    def part(x, y):
        gradient = jax.grad(lambda w: ((x * w - y) ** 2).mean())(2.0)
        return {'gradient': gradient}, x * 2

    x, y = jnp.arange(12.0), jnp.ones(12)
    whole, rows = part(x, y)
    means, joined = jax.jit(lambda x, y: steps.in_parts(part, 4, x, y))(x, y)
    np.testing.assert_allclose(means['gradient'], whole['gradient'], rtol=1e-6)
    np.testing.assert_array_equal(joined, rows)
    with pytest.raises(ValueError, match='does not divide into 5 parts'):
        steps.in_parts(part, 5, x, y)


def test_an_accumulated_step_makes_the_mean_of_its_parts_updates():
    """By plain descent an update is the gradient, and the draw takes its choices as they are."""
    settings = {
        'optimiser': optax.sgd(1.0),
        'recipe': RECIPE._replace(augmentation=Augmentation()),
        'draw': lambda keys, choices: choices,
    }
    (state, whole), (_, part) = build_step(None, accumulate=2, **settings), build_step(None, **settings)
    images, labels = batch()
    choices = jnp.asarray(random_choices(4, BATCH))
    after, metrics, rewards = jax.jit(whole)(state, KEY, images, labels, choices)
    single = jax.jit(part)
    halves = [
        single(state, KEY, images[rows], labels[rows], choices[rows])
        for rows in (slice(BATCH // 2), slice(BATCH // 2, None))
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, halves[0][:2], halves[1][:2])
    assert after.step == 1
    close((after.params, after.batch_stats, metrics), (mean[0].params, mean[0].batch_stats, mean[1]))
    close(rewards.rewards, jnp.concatenate([half[2].rewards for half in halves]))


def test_a_plain_step_lowers_the_loss_on_its_own_batch():
    net = training.functions_of(GRAPH.fixed(GRAPH.smallest))
    optimiser = optax.sgd(0.5, momentum=0.9)
    state = start_from(jax.jit(net.init)(KEY), optimiser)
    recipe = RECIPE._replace(augmentation=Augmentation(), label_smoothing=0.0)
    step = jax.jit(steps.plain_step(net, GRAPH, optimiser, recipe))
    history = []
    for _ in range(40):
        state, metrics = step(state, KEY, *batch())
        history.append(float(metrics.loss))
    assert history[-1] < 0.8 * history[0]


@pytest.mark.parametrize(('most', 'count'), [(1, 1), (4, 4), (4, 3)])
def test_steps_taken_at_once_are_those_taken_one_by_one(most, count):
    net, optimiser = training.functions_of(GRAPH.fixed(GRAPH.smallest)), optax.sgd(0.05, momentum=0.9)
    plain = steps.plain_step(net, GRAPH, optimiser, RECIPE)
    begin = start_from(jax.jit(net.init)(KEY), optimiser)
    images, labels = (np.stack(np.split(array, 4), axis=1)[:, :most] for array in examples(32))
    together, metrics = jax.jit(steps.at_once(plain, most))(begin, KEY, np.array([5, count]), images, labels)
    state = begin
    for i in range(count):
        state, last = jax.jit(plain)(state, jax.random.fold_in(KEY, 5 + i), images[:, i], labels[:, i])
    close((together.params, together.batch_stats, metrics), (state.params, state.batch_stats, last))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, begin.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_steps_at_once_on_four_devices_are_those_of_one():
    graph, optimiser = GRAPH.fixed(GRAPH.smallest), optax.sgd(0.05)
    begin = start_from(jax.jit(training.functions_of(graph).init)(KEY), optimiser)
    images, labels = (np.stack(np.split(array, 2), axis=1) for array in examples(32))
    states = []
    for axis in (None, parallel.AXIS):
        net = training.functions_of(graph, axis_name=axis)
        run = steps.at_once(steps.plain_step(net, GRAPH, optimiser, RECIPE, axis), 2)
        if axis is None:
            run = jax.jit(run)
        else:
            given = (False, False, False, True, True)
            run = parallel.data_parallel(run, batch_args=given, batch_outputs=(False, False))
        states.append(run(begin, KEY, np.array([3, 2], np.int32), images, labels)[0])
    close(states[0].params, states[1].params)


@pytest.mark.parametrize('per_example', [False, True])
def test_recalibration_of_whole_batches_gives_their_joint_moments(per_example):
    net, variables = training.functions_of(GRAPH), trained_variables()
    images = jnp.asarray(examples(24).images)
    one = jnp.asarray(GRAPH.to_widths(random_choices(0)))

    @jax.jit
    def recalibrated(x):
        widths = jnp.tile(one, (x.shape[1], 1)) if per_example else one
        return steps.recalibrate(net, variables, widths, x, MEAN, STD)['batch_stats']

    several, joined = (recalibrated(images.reshape(n, -1, *GRAPH.input_shape)) for n in (3, 1))
    first = GRAPH.operations[1].name  # of later ones the inputs, normalised batch by batch, differ
    close(several[first], joined[first])


def test_many_subnets_are_recalibrated_and_evaluated_by_one_program_as_if_cut_out():
    net, variables = training.functions_of(GRAPH), trained_variables()
    held = [jnp.asarray(part) for part in examples(23)]
    images = jnp.asarray(examples(24).images).reshape(2, 12, *GRAPH.input_shape)

    def measure(net, variables, widths):
        fitted = steps.recalibrate(net, variables, widths, images, MEAN, STD)
        return steps.evaluate(net, fitted, widths, *held, MEAN, STD, batch=10)

    masked = jax.jit(lambda widths: measure(net, variables, widths))
    configurations = [GRAPH.to_widths(random_choices(seed)) for seed in range(5)]
    found = [masked(widths) for widths in configurations[:1]]
    with compilations() as compiled:
        found += [masked(widths) for widths in configurations[1:]]
    assert not compiled
    for widths, result in zip(configurations[:2], found, strict=False):
        cut = slice_variables(variables, GRAPH, widths)
        alone = jax.jit(lambda v, w=widths: measure(training.functions_of(GRAPH.fixed(w)), v, None))(cut)
        np.testing.assert_allclose(result[:2], alone[:2], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(result.right, alone.right)


def test_evaluation_counts_every_example_once_whatever_the_batch():
    net, variables, some = training.functions_of(GRAPH), trained_variables(), examples(23)
    results = [
        jax.jit(lambda x, y, b=b: steps.evaluate(net, variables, None, x, y, MEAN, STD, batch=b))(*some)
        for b in (5, 23, 100)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other[:2], results[0][:2], rtol=1e-5)
        np.testing.assert_array_equal(other.right, results[0].right)
    assert results[0].right.shape == (23,)
    assert float(results[0].accuracy) == pytest.approx(results[0].right.mean())


def test_training_a_masked_network_is_training_the_sliced_one():
    """Dropped block included: by masks and traced widths, or by arrays of the widths, three steps end the same."""
    graph = RESIDUAL
    widths = graph.to_widths(tiny_graph.random_choices(0, graph=graph))
    assert (widths == 0).any()
    fixed = graph.fixed(widths)
    optimiser = optax.sgd(0.1, momentum=0.9)
    images = np.random.default_rng(0).integers(0, 256, (8, *graph.input_shape), np.uint8)
    labels = np.arange(8) % graph.num_classes
    variables = tiny_graph.random_variables(1, graph=graph)
    recipe = steps.Recipe(MEAN, STD)
    masked = jax.jit(steps.plain_step(training.functions_of(graph), graph, optimiser, recipe))
    sliced = jax.jit(steps.plain_step(training.functions_of(fixed), fixed, optimiser, recipe))
    one = start_from(variables, optimiser)
    other = start_from(slice_variables(variables, graph, widths), optimiser)
    for index in range(3):
        one, _ = masked(one, jax.random.key(index), images, labels, jnp.asarray(widths))
        other, _ = sliced(other, jax.random.key(index), images, labels)
    for found, expected in zip(
        jax.tree.leaves(slice_variables(one.variables, graph, widths)),
        jax.tree.leaves(other.variables),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
