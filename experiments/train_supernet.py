"""Train the supernet, and gather what its rewards say of every site's widths."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
import optax

from experiments import launch, progress, spent
from experiments.budget import budget_ms, load_table
from experiments.config import Config
from experiments.locks import exclusive
from experiments.paths import paths
from experiments.run_folder import Usage, claim, read_json, save_json
from experiments.space import graph_of, settings_of
from experiments.start import accuracy_of, recorded, trained_network
from experiments.subnet_loss import SubnetLoss, compiled_meanwhile
from experiments.training import batches, load_data, optimiser_of, read_back, steps_per_epoch
from jcw import data
from jcw.accuracy.table import AccuracyTable
from jcw.field import Field
from jcw.graph import Graph
from jcw.nets import axes, kernels, segments
from jcw.nets.axes import Variables
from jcw.nets.training import functions_of
from jcw.search import aows, ows, stats
from jcw.train import loop, mutation, parallel, steps
from jcw.train.augment import Augmentation
from jcw.train.state import TrainState, init_state, start_from

Carry = tuple[TrainState, stats.WidthStats, aows.Draws]


class Metrics(NamedTuple):
    """A step's means over the batch, and how narrow its draws were."""

    loss_largest: jax.Array
    loss_smallest: jax.Array
    loss_random: jax.Array
    accuracy_largest: jax.Array
    accuracy_smallest: jax.Array
    accuracy_random: jax.Array
    entropy: jax.Array  # of the draws' field, nats
    price: jax.Array  # nats per ms


class Supernet(NamedTuple):
    """A trained supernet."""

    variables: Variables
    width_stats: stats.WidthStats


def train(config: Config, dataset: data.Dataset, graph: Graph) -> Supernet:
    """Train, or continue, or read back, the run's supernet."""
    settings = config.supernet
    wanted = {
        'data': config.data,
        'space': settings_of(config, graph),
        'supernet': recorded(config, graph),
        'seed': config.seed,
    }
    if settings.adaptive:
        wanted['budget'] = config.search.budget_ms or config.search.budget
        wanted['ridge'] = config.search.ridge
    optimiser, num_steps = optimiser_of(settings, len(dataset.train))  # settings it refuses claim nothing
    folder = claim(paths(config).supernet, **wanted)
    begin = functools.partial(start_of, config, graph, optimiser)
    if launch.first_says((folder / 'result.json').exists()):
        state, width_stats, _ = read_back(folder, jax.eval_shape(begin), num_steps)
    else:
        if settings.start is not None:
            _say_start(accuracy_of(config, dataset, graph))
        with (
            spent.on(config.run, f'training the {"narrowed " if settings.adaptive else ""}supernet'),
            exclusive(folder, 'training'),
            batches(config, dataset, settings.batch) as batch_of,
            compiled_meanwhile(config, dataset, graph, len(dataset.validation)),
            progress.bar('Training the supernet', num_steps) as update,
        ):
            carry = loop.run(
                begin(),
                _step(config, dataset, graph, optimiser, num_steps, batch_of),
                num_steps,
                folder=folder,
                batch=settings.batch,
                report=lambda p: update(p.step, _note(p)),
                score=_score(config, dataset, graph) if config.launch.keep_best else None,
                **launch.loop_settings(config, steps_per_epoch(len(dataset.train), settings.batch)),
            )
        state, width_stats, _ = jax.device_get(carry)
        measure = SubnetLoss(config, dataset, graph, state.variables, len(dataset.validation))
        save_json(folder / 'result.json', _validate(measure, graph))
    return Supernet(state.variables, width_stats)


def _say_start(accuracy: float) -> None:
    progress.console.print(
        f'Starting from a trained network: {accuracy:.1%} of validation images right, as it came',
        highlight=False,
    )


def start_of(config: Config, graph: Graph, optimiser: optax.GradientTransformation) -> Carry:
    """Return what training begins with."""
    key = jax.random.key(config.seed)
    if config.supernet.start is None:
        state = init_state(key, functions_of(graph), optimiser)
    else:
        state = start_from(axes.widened(key, trained_network(config, graph).variables, graph), optimiser)
    return state, stats.empty(*graph.present.shape), aows.even_draws(graph)


def _step(config: Config, dataset: data.Dataset, graph: Graph, optimiser, num_steps: int, batch_of):
    """Return the loop's step: a batch by its number, the sandwich on all devices, then the statistics."""
    settings = config.supernet
    parts = jax.device_count() * settings.accumulate
    if settings.batch % parts:
        raise Usage(
            f'supernet.batch {settings.batch} does not divide into {parts} parts, on {jax.device_count()} devices'
        )
    form = segments.functions_of if settings.mutation == 'site' else functions_of
    how = kernels.here()
    supernet = form(graph, implementation=how, axis_name=parallel.AXIS)
    smallest = functions_of(graph.fixed(graph.smallest), implementation=how, axis_name=parallel.AXIS)
    recipe = steps.Recipe(
        dataset.mean,
        dataset.std,
        Augmentation(config.data.crop_padding, config.data.flip),
        settings.label_smoothing,
    )
    sandwich_step = steps.supernet_step(
        supernet,
        smallest,
        graph,
        optimiser,
        recipe,
        mutation.draw_of(graph, settings.mutation),
        parallel.AXIS,
        accumulate=settings.accumulate,
        distil=settings.distillation,
    )

    def everywhere(*args):
        state, metrics, rewards = sandwich_step(*args)
        return state, metrics, parallel.gathered(rewards)

    on_all_devices = parallel.data_parallel(
        everywhere, batch_args=(False, False, True, True, False), batch_outputs=(False, False, False)
    )
    keep = 0.5 ** (1 / max(settings.half_life * num_steps, 1))
    collect = jax.jit(functools.partial(stats.update, keep=keep))
    narrow = narrowing(config, graph, num_steps) if settings.adaptive else lambda index, _, draws: draws
    key = jax.random.key(config.seed + 1)

    def step(carry: Carry, index: int):
        state, width_stats, draws = carry
        draws = narrow(index, width_stats, draws)
        images, labels = batch_of(index)
        site = np.int32(mutation.turn(config.seed, index, graph.num_sites))
        state, metrics, rewards = on_all_devices(
            state, jax.random.fold_in(key, index), images, labels, (draws.probabilities, site)
        )
        logged = Metrics(**metrics._asdict(), entropy=draws.entropy, price=draws.price)
        return (state, collect(width_stats, *rewards), draws), logged

    return step


def _score(config: Config, dataset: data.Dataset, graph: Graph):
    """Return the mean validation accuracy of the largest, base and smallest subnet, as a function of the carry."""
    measure = SubnetLoss(config, dataset, graph, {}, len(dataset.validation))

    def score(carry: Carry) -> float:
        measure.variables = jax.device_get(carry[0].variables)
        sizes = (graph.largest, graph.base, graph.smallest)
        return float(np.mean([measure(widths).accuracy for widths in sizes]))

    return score


def narrowing(config: Config, graph: Graph, num_steps: int):
    """Return `(index, stats, draws) -> draws`, which follows the fitted field, or else the statistics.

    The draws travel with the training state, so an interrupted run goes on with the same ones.
    """
    settings, table = config.supernet, load_table(config)
    limit, cost = budget_ms(config, table), table.to_cost()
    schedule = aows.Schedule(settings.adaptive_warmup, settings.hottest, settings.coldest, settings.floor)
    every = max(num_steps // settings.refreshes, 1)
    fitted = _fitted(config, graph)

    def narrow(index: int, width_stats: stats.WidthStats, draws: aows.Draws) -> aows.Draws:
        if index % every or index / num_steps < schedule.warmup or index == 0:
            return draws
        utility = fitted
        if utility is None:
            utility = aows.warm(stats.to_unary(width_stats, graph.num_choices, config.search.ridge), graph)
        return aows.refreshed(utility, graph, cost, limit, index / num_steps, schedule)

    return narrow


def _fitted(config: Config, graph: Graph) -> Field | None:
    """Return the field fitted to short trainings at this budget, if it was there when the supernet began.

    The supernet's folder keeps a copy, so that a run that goes on draws as it did.
    """
    own = paths(config).supernet / 'field.json'
    plain = dataclasses.replace(config, supernet=dataclasses.replace(config.supernet, adaptive=False))
    source = paths(plain).accuracy / 'table.json'
    begun = own.exists() or (own.parent / 'checkpoints').exists()
    if launch.is_first() and not begun and source.exists():
        AccuracyTable.load(source).save(own)
    launch.meet('field of the draws')
    return ows.fitted(AccuracyTable.load(own), graph) if own.exists() else None


def _note(at: loop.Progress) -> str:
    accuracy = ' / '.join(
        f'{at.metrics[f"accuracy_{name}"]:.0%}' for name in ('largest', 'smallest', 'random')
    )
    return (
        f'loss {at.metrics["loss_largest"]:.2f}, accuracy of largest / smallest / random {accuracy}, '
        f'{at.images_per_second:.0f} images/s'
    )


def _validate(measure: SubnetLoss, graph: Graph) -> dict:
    named = {'largest': graph.largest, 'base': graph.base, 'smallest': graph.smallest}
    found = {name: measure(widths) for name, widths in named.items()}
    return {name: {'loss': float(e.loss), 'accuracy': float(e.accuracy)} for name, e in found.items()}


def describe(config: Config) -> str:
    """Say in a line how good the supernet is."""
    path = paths(config).supernet / 'result.json'
    if not path.exists():
        raise Usage(f'{path} is missing: run experiments.train_supernet first')
    parts = [
        f'{name} {value["accuracy"]:.1%}'
        for name, value in read_json(path, 'largest', 'base', 'smallest').items()
    ]
    return f'Supernet, accuracy of subnets on validation images: {", ".join(parts)}'


def main(config: Config) -> None:
    dataset = load_data(config)
    train(config, dataset, graph_of(config, dataset))
    progress.console.print(describe(config), highlight=False)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'data', 'space', 'supernet', 'launch'), keep_freed=True, distributed=True)
