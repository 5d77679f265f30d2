"""Train the supernet, and gather what its rewards say of every layer's widths."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import progress
from experiments.config import Config, parse
from experiments.run_folder import Usage, claim, read_json, save_json, space_of
from jcw import data
from jcw.nets.mobilenet import Variables, network
from jcw.search import stats
from jcw.space import SearchSpace
from jcw.train import loop, optim, parallel, sandwich, steps
from jcw.train.augment import Augmentation
from jcw.train.checkpoint import Checkpoints
from jcw.train.state import TrainState, init_state


class Supernet(NamedTuple):
    """A trained supernet."""

    variables: Variables
    width_stats: stats.WidthStats


def load_data(config: Config) -> data.Dataset:
    settings = config.data
    return data.load(
        settings.name,
        settings.data_dir,
        validation=settings.validation,
        limit=settings.limit,
        seed=config.seed,
    )


def train(config: Config, dataset: data.Dataset, space: SearchSpace) -> Supernet:
    """Train, or continue, or read back, the run's supernet."""
    settings = config.supernet
    folder = claim(
        config.run / 'supernet', data=config.data, space=config.space, supernet=settings, seed=config.seed
    )
    steps_per_epoch = len(dataset.train) // settings.batch
    num_steps = round(settings.epochs * steps_per_epoch)
    optimiser = optim.sgd(
        settings.learning_rate * settings.batch / 256,
        num_steps,
        warmup_steps=round(settings.warmup_epochs * steps_per_epoch),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    net = network(space)
    start = init_state(jax.random.key(config.seed), net, optimiser)
    carry = (start, stats.empty(*space.width_table.shape))
    if not (folder / 'result.json').exists():
        step = _step(config, dataset, space, optimiser)
        with progress.bar('Training the supernet', num_steps) as update:
            carry = loop.run(
                carry,
                step,
                num_steps,
                folder=folder,
                batch=settings.batch,
                save_every=max(steps_per_epoch, 100),
                report=lambda p: update(p.step, _note(p)),
            )
        save_json(folder / 'result.json', _validate(config, dataset, space, carry[0].variables))
    with Checkpoints(folder / 'checkpoints') as checkpoints:
        (state, width_stats), _ = checkpoints.restore(carry)
    return Supernet(state.variables, width_stats)


def _step(config: Config, dataset: data.Dataset, space: SearchSpace, optimiser):
    """Return the loop's step: a batch by its number, the sandwich on all devices, then the statistics."""
    settings = config.supernet
    largest, smallest = (network(space, w, axis_name=parallel.AXIS) for w in (space.largest, space.smallest))
    recipe = steps.Recipe(
        dataset.mean,
        dataset.std,
        Augmentation(config.data.crop_padding, config.data.flip),
        settings.label_smoothing,
    )
    draw = functools.partial(sandwich.mutate, space=space, mutation=settings.mutation)
    spread = parallel.data_parallel(
        steps.supernet_step(largest, smallest, space, optimiser, recipe, draw, parallel.AXIS),
        batch_args=(False, False, True, True, False),
        batch_outputs=(False, False, True),
    )
    collect = jax.jit(stats.update)
    key = jax.random.key(config.seed + 1)
    probabilities = sandwich.uniform_probabilities(space)

    def step(carry: tuple[TrainState, stats.WidthStats], index: int):
        state, width_stats = carry
        rows = data.batch_rows(index, len(dataset.train), settings.batch, config.seed)
        images, labels = dataset.train.take(rows)
        state, metrics, rewards = spread(state, jax.random.fold_in(key, index), images, labels, probabilities)
        return (state, collect(width_stats, *rewards)), metrics

    return step


def _note(at: loop.Progress) -> str:
    accuracy = ' / '.join(
        f'{at.metrics[f"accuracy_{name}"]:.0%}' for name in ('largest', 'smallest', 'random')
    )
    return (
        f'loss {at.metrics["loss_largest"]:.2f}, accuracy of largest / smallest / random {accuracy}, '
        f'{at.images_per_second:.0f} images/s'
    )


class SubnetLoss:
    """Validation loss of any subnet of a supernet, batch statistics re-estimated; compiles once."""

    def __init__(
        self, config: Config, dataset: data.Dataset, space: SearchSpace, variables: Variables, validation: int
    ) -> None:
        net = network(space)
        batch = min(config.supernet.batch, len(dataset.train))
        batches = max(1, min(config.supernet.recalibration_images, len(dataset.train)) // batch)
        images = dataset.train.images[: batches * batch].reshape(batches, batch, *dataset.input_shape)
        held = dataset.validation.take(slice(validation))
        mean, std = dataset.mean, dataset.std

        @jax.jit
        def measure(variables: Variables, widths: jax.Array, images, held) -> steps.Evaluation:
            fitted = steps.recalibrate(net, variables, widths, images, mean, std)
            return steps.evaluate(net, fitted, widths, held.images, held.labels, mean, std)

        arguments = jax.device_put((images, held))
        self._measure = lambda widths: measure(variables, widths, *arguments)

    def __call__(self, widths: np.ndarray) -> steps.Evaluation:
        return jax.tree.map(float, self._measure(jnp.asarray(widths, jnp.int32)))


def _validate(config: Config, dataset: data.Dataset, space: SearchSpace, variables: Variables) -> dict:
    measure = SubnetLoss(config, dataset, space, variables, len(dataset.validation))
    named = {'largest': space.largest, 'base': space.base, 'smallest': space.smallest}
    return {name: measure(widths)._asdict() for name, widths in named.items()}


def describe(config: Config) -> str:
    """Say in a line how good the supernet is."""
    path = config.run / 'supernet' / 'result.json'
    if not path.exists():
        raise Usage(f'{path} is missing: run experiments.train_supernet first')
    parts = [f'{name} {value["accuracy"]:.1%}' for name, value in read_json(path).items()]
    return f'Supernet, accuracy of subnets on validation images: {", ".join(parts)}'


def main(config: Config) -> None:
    dataset = load_data(config)
    train(config, dataset, space_of(config, dataset))
    progress.console.print(describe(config), highlight=False)


if __name__ == '__main__':
    from experiments.run_folder import run_stage

    run_stage(main, parse(__doc__))
