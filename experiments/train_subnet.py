"""Train a found network, and test it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments import launch, progress
from experiments.config import Config, DataConfig, SubnetConfig
from experiments.locks import exclusive
from experiments.paths import paths
from experiments.run_folder import Usage, claim, read_found, read_json, save_json
from experiments.space import settings_of
from experiments.start import trained_network
from experiments.train_supernet import train as read_supernet
from experiments.training import (
    EVALUATED,
    Evaluator,
    batches,
    calibration_images,
    optimiser_of,
    read_back,
    steps_per_epoch,
)
from jcw import data
from jcw.graph import Graph, Widths
from jcw.latency.table import flops_table
from jcw.nets import kernels
from jcw.nets.axes import Variables, slice_variables
from jcw.nets.training import Network, functions_of
from jcw.train import loop, optim, parallel, steps
from jcw.train.augment import Augmentation
from jcw.train.state import TrainState, init_state, start_from

TESTED = tuple(f'{part}_{of}' for part in ('validation', 'test') for of in ('accuracy', 'loss'))
"""What is known of a trained network."""
RIGHT = 'test_right'
"""Besides, a bit for each test image: whether it was right."""


def train(
    config: Config,
    dataset: data.Dataset,
    graph: Graph,
    widths: Widths,
    folder: Path,
    title: str,
    seed: int | None = None,
) -> dict[str, Any]:
    """Train a network of these widths, or continue, or read what is known of it; return its accuracies and losses.

    The seed is of this training alone, by default the run's; the supernet's stays the run's.
    """
    settings, run = config.subnet, config
    if settings.from_start and settings.from_supernet:
        raise Usage('subnet.from_start and subnet.from_supernet: one of them, or neither')
    config = config if seed is None else dataclasses.replace(config, seed=seed)
    program = program_of(config, dataset, graph, widths)
    num_steps = program.num_steps
    claim_for(config, graph, widths, folder)
    if not launch.first_says((folder / 'result.json').exists()):
        carry = _begin(run, config.seed, dataset, graph, widths, program)
        with (
            exclusive(folder, 'training'),
            batches(config, dataset, settings.batch) as batch_of,
            progress.bar(title, num_steps) as update,
        ):
            carry = loop.run(
                carry,
                _step(config, program, batch_of),
                num_steps,
                at_once=program.at_once,
                folder=folder,
                batch=settings.batch,
                report=lambda p: update(p.step, f'accuracy {p.metrics["accuracy"]:.0%}'),
                score=_score(dataset, program) if config.launch.keep_best else None,
                **launch.loop_settings(config, steps_per_epoch(len(dataset.train), settings.batch)),
            )
        final = _final(config, dataset, program.net, jax.device_get(carry))
        save_json(folder / 'result.json', _test(dataset, program, final))
    return read_json(folder / 'result.json', *TESTED)


def variables_of(
    config: Config, dataset: data.Dataset, graph: Graph, widths: Widths, folder: Path
) -> Variables:
    """Read the variables of a network that `train` has trained.

    With `subnet.ema` they are the average of the weights, batch statistics re-estimated for it.
    """
    program = program_of(config, dataset, graph, widths)
    like = jax.eval_shape(lambda: init_state(jax.random.key(0), program.net, program.optimiser))
    return _final(config, dataset, program.net, read_back(folder, like, program.num_steps))


def claim_for(config: Config, graph: Graph, widths: Widths, folder: Path) -> None:
    """Make the folder of a network's training, or see that it was made under the same settings."""
    recipe = dataclasses.replace(config.subnet, seeds=(0,))  # of which this is one, its own stated beside it
    space = settings_of(config, graph)
    start = {'start': trained_network(config, graph).digest} if config.subnet.from_start else {}
    claim(folder, data=config.data, space=space, subnet=recipe, widths=widths, seed=config.seed, **start)


MANY = 20
"""Steps of a small network that are taken in one call."""

SMALL = 2e8
"""FLOPs of a step's forward pass below which a network is small: at 5e7, coming back for each took 2 of 5.2 ms."""


class Program(NamedTuple):
    """What trains and tests networks of one configuration, whatever their seeds: compiled once."""

    net: Network
    optimiser: optax.GradientTransformation
    num_steps: int
    at_once: int  # steps that it takes
    step: Callable[..., Any]  # on all devices
    evaluate: Evaluator


def program_of(config: Config, dataset: data.Dataset, graph: Graph, widths: Widths) -> Program:
    """Return the program of a configuration, that of the last call where nothing it depends on has changed."""
    recipe = dataclasses.replace(config.subnet, from_supernet=False, from_start=False, seeds=())
    return _program(graph, widths, recipe, config.data, len(dataset.train), dataset.mean, dataset.std)


@functools.lru_cache(maxsize=4)
def _program(
    graph: Graph,
    widths: Widths,
    settings: SubnetConfig,
    images: DataConfig,
    examples: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Program:
    optimiser, num_steps = optimiser_of(settings, examples)
    if settings.ema:
        optimiser = optim.with_average(optimiser, settings.ema)
    augmentation = Augmentation(images.crop_padding, images.flip, settings.mixup)
    recipe = steps.Recipe(mean, std, augmentation, settings.label_smoothing)
    fixed = graph.fixed(widths)
    form = functools.partial(functions_of, fixed, implementation=kernels.here())
    net, mapped = form(), form(axis_name=parallel.AXIS)
    plain = steps.plain_step(mapped, graph, optimiser, recipe, parallel.AXIS, accumulate=settings.accumulate)
    at_once = MANY if float(flops_table(graph).predict(widths)) * settings.batch < SMALL else 1
    step = parallel.data_parallel(
        steps.at_once(plain, at_once),
        batch_args=(False, False, False, True, True),
        batch_outputs=(False, False),
    )
    return Program(net, optimiser, num_steps, at_once, step, Evaluator(fixed, mean, std))


def make_ready(config: Config, dataset: data.Dataset, graph: Graph, widths: Widths) -> None:
    """Compile what trains and tests networks of these widths, by using each once."""
    program = program_of(config, dataset, graph, widths)
    state = init_state(jax.random.key(0), program.net, program.optimiser)
    batch = dataset.train.take(slice(config.subnet.batch))
    state, _ = program.step(state, jax.random.key(0), *_stacked([batch], program.at_once, 0))
    program.evaluate(jax.device_get(state.variables), dataset.validation.take(slice(EVALUATED)))


def _begin(
    config: Config, seed: int, dataset: data.Dataset, graph: Graph, widths: Widths, program: Program
) -> TrainState:
    """Return the state before the first step: drawn by the seed, or of a trained network's channels."""
    if config.subnet.from_supernet:
        variables = read_supernet(config, dataset, graph).variables
    elif config.subnet.from_start:
        variables = trained_network(config, graph).variables
    else:
        return init_state(jax.random.key(seed + 2), program.net, program.optimiser)
    return start_from(slice_variables(variables, graph, widths), program.optimiser)


def _step(config: Config, program: Program, batch_of: data.Batches) -> Callable[..., Any]:
    key = jax.random.key(config.seed + 3)

    def step(state: TrainState, index: int) -> Any:
        last = min(index + program.at_once, program.num_steps)
        taken = [batch_of(each) for each in range(index, last)]
        return program.step(state, key, *_stacked(taken, program.at_once, index))

    return step


def _stacked(taken: list[data.Examples], most: int, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the span of steps, and their images and labels [batch most ...]."""
    span = np.array([first, len(taken)], np.int32)
    filled = taken + taken[-1:] * (most - len(taken))
    images, labels = (np.stack(arrays, axis=1) for arrays in zip(*filled, strict=True))
    return span, images, labels


def _final(config: Config, dataset: data.Dataset, net: Network, state: TrainState) -> Variables:
    """Return the variables of the end of training, or their average, with batch statistics of its own."""
    if not config.subnet.ema:
        return state.variables
    averaged = {'params': state.opt_state.average, 'batch_stats': state.batch_stats}
    images = calibration_images(config, dataset, config.subnet.batch)
    return jax.jit(lambda v, x: steps.recalibrate(net, v, None, x, dataset.mean, dataset.std))(
        averaged, images
    )


def _test(dataset: data.Dataset, program: Program, variables: Variables) -> dict[str, Any]:
    validation, test = (program.evaluate(variables, part) for part in (dataset.validation, dataset.test))
    return {
        'validation_accuracy': float(validation.accuracy),
        'validation_loss': float(validation.loss),
        'test_accuracy': float(test.accuracy),
        'test_loss': float(test.loss),
        RIGHT: np.packbits(test.right).tobytes().hex(),
    }


def right_of(result: Mapping[str, Any], images: int) -> np.ndarray | None:
    """Return which of the test images a trained network classifies right; nothing where its record is older."""
    if RIGHT not in result:
        return None
    return np.unpackbits(np.frombuffer(bytes.fromhex(result[RIGHT]), np.uint8), count=images).astype(bool)


def _score(dataset: data.Dataset, program: Program) -> Callable[[TrainState], float]:
    """Return the accuracy on validation images as a function of what training carries."""
    return lambda state: float(program.evaluate(jax.device_get(state.variables), dataset.validation).accuracy)


def found(config: Config) -> dict[str, Any]:
    """Read what was found at the configured budget, repaired unless the configuration says otherwise."""
    path = paths(config).found
    if not path.exists():
        stage = 'repair_widths' if config.repair.rounds else 'search_widths'
        raise Usage(f'{path} is missing: run experiments.{stage} first')
    return read_found(path)


if __name__ == '__main__':
    from experiments import results
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(
        results.main,
        parse(__doc__, 'search', 'subnet', 'report', 'launch'),
        keep_freed=True,
        distributed=True,
    )
