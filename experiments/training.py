"""What the training of the supernet and that of a found network share: images, optimiser, calibration."""

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import optax

from experiments.config import Config, SubnetConfig, SupernetConfig
from experiments.run_folder import Usage
from jcw import compilation, data, deploy
from jcw.graph import Graph
from jcw.nets import kernels
from jcw.nets.axes import Variables
from jcw.train import losses, optim, steps
from jcw.train.checkpoint import Checkpoints

Carry = TypeVar('Carry')
Each = TypeVar('Each')

EVALUATED = 250
"""Images evaluated at a time."""

PROGRAMS = 16
"""Networks trained, by whichever stage, before their programs are let go of."""
MAPPED = 1 / 3
"""Of the pieces of memory that Linux lets a process have: a greater share makes programs let go of earlier."""

_trained = [0]
"""Networks since programs were last let go of."""


def load_data(config: Config) -> data.Dataset:
    settings = config.data
    return data.load(
        settings.name,
        settings.data_dir,
        validation=settings.validation,
        limit=settings.limit,
        seed=config.seed,
        image_size=settings.image_size,
    )


def batches(config: Config, dataset: data.Dataset, batch: int) -> data.Batches:
    """Return this process's part of every batch of training."""
    share = data.share_of(batch, jax.process_index(), jax.process_count())
    return data.Batches(dataset.train, batch, config.seed, share=share, threads=config.data.threads)


def optimiser_of(
    settings: SupernetConfig | SubnetConfig, examples: int
) -> tuple[optax.GradientTransformation, int]:
    """Return the optimiser of the settings and the number of its steps.

    Raises:
      Usage: there is not a single step.
    """
    epoch = steps_per_epoch(examples, settings.batch)
    num_steps = round(settings.epochs * epoch) if settings.epochs > 0 else 0
    if num_steps < 1:
        raise Usage(
            f'{settings.epochs:g} epochs of {examples} training images in batches of {settings.batch} '
            'are no step at all: take a smaller batch or more epochs'
        )
    optimiser = optim.sgd(
        settings.learning_rate * settings.batch / 256,
        num_steps,
        warmup_steps=round(settings.warmup_epochs * epoch),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )
    return optimiser, num_steps


def steps_per_epoch(examples: int, batch: int) -> int:
    """Return how many whole batches an epoch has; none where the batch is not positive."""
    return examples // batch if batch > 0 else 0


def calibration_batches(config: Config, dataset: data.Dataset, batch: int) -> tuple[int, int]:
    """Return how many batches of training images batch statistics are re-estimated from, and how large each is."""
    batch = min(batch, len(dataset.train))
    return max(1, min(config.supernet.recalibration_images, len(dataset.train)) // batch), batch


def calibration_images(config: Config, dataset: data.Dataset, batch: int) -> np.ndarray:
    """Return whole batches of training images, from which batch statistics are re-estimated."""
    count, batch = calibration_batches(config, dataset, batch)
    return dataset.train.take(slice(count * batch)).images.reshape(count, batch, *dataset.input_shape)


class Evaluator:
    """What a network comes to on a set in the form that ships, `EVALUATED` images at a time: one program for any set.

    For a small network that form compiles in half the time that the trained one takes.
    """

    def __init__(self, graph: Graph, mean: Sequence[float], std: Sequence[float]) -> None:
        def part(folded: deploy.Folded, images: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
            logits = deploy.forward(folded, images, graph, implementation=kernels.here())
            targets = losses.smooth_targets(labels, logits.shape[-1])
            return losses.cross_entropy(logits, targets), losses.correct(logits, labels)

        self._fold = functools.partial(deploy.fold, graph=graph, mean=mean, std=std)
        self._part = compilation.ToTrain(jax.jit(part))

    def __call__(self, variables: Variables, source: data.Source) -> steps.Evaluation:
        folded, counts, found = jax.device_put(self._fold(variables)), [], []
        for part in data.in_chunks(source, EVALUATED):
            counts.append(len(part))
            found.append(self._part(folded, *map(_filled, part)))
        live = [
            [values[:count] for values in each]
            for count, each in zip(counts, jax.device_get(found), strict=True)
        ]
        loss, right = (np.concatenate(values) for values in zip(*live, strict=True))
        return steps.Evaluation(loss.mean(dtype=np.float64), right.mean(dtype=np.float64), right > 0)


def _filled(array: np.ndarray) -> np.ndarray:
    """Return rows with zeros after them, as many as are evaluated at a time."""
    return np.concatenate([array, np.zeros((EVALUATED - len(array), *array.shape[1:]), array.dtype)])


def read_back(folder: Path, like: Carry, num_steps: int) -> Carry:
    """Return what a finished training carried at its end.

    Raises:
      Usage: its last checkpoint is gone, or was set aside as damaged.
    """
    with Checkpoints(folder / 'checkpoints') as checkpoints:
        carry, meta = checkpoints.restore(like)
    if meta['step'] != num_steps:
        raise Usage(
            f'{folder} has no whole checkpoint of its last step, {num_steps}, only of step {meta["step"]}: '
            f'remove {folder / "result.json"}, and the same command trains the rest again'
        )
    return carry


def one_ahead(networks: Sequence[Each], make_ready: Callable[[Each], None]) -> Iterator[Each]:
    """Yield networks in their order; while one is worked on, another thread makes the next one ready.

    For processes that train many networks one after another, where compiling a small one takes as long as training it.
    Programs are let go of every `PROGRAMS` networks, those of earlier calls counted, or where memory gets short of
    pieces. What goes wrong on the way shows when the network itself is used.
    Several processes of one run must do the same things in the same order, so there nothing is made ready.
    """
    alone = jax.process_count() == 1
    coming: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:
        for place, network in enumerate(networks):
            wait(coming)
            if _trained[0] >= PROGRAMS or mapped() > MAPPED:
                forget_programs()
            _trained[0] += 1
            coming = [pool.submit(make_ready, each) for each in networks[place + 1 : place + 2] if alone]
            yield network


def mapped() -> float:
    """Return which share of the pieces of memory that it may have this process has; 0 where there is no such limit."""
    try:
        most = int(Path('/proc/sys/vm/max_map_count').read_text())
        return Path('/proc/self/maps').read_bytes().count(b'\n') / most
    except (OSError, ValueError):
        return 0.0


def forget_programs() -> None:
    """Let go of compiled programs but those of the last few networks; what is needed again is compiled again.

    A program takes hundreds of pieces of memory, of which a
    process may have only so many (65,530 where Linux is left as it comes).
    """
    _trained[0] = 0
    jax.clear_caches()
    gc.collect()
