"""Look at the images before anything is trained: how many of each class, which are too few, which come twice."""

from typing import Any

import numpy as np
from rich.table import Table

from experiments import launch, progress
from experiments.config import Config
from experiments.run_folder import write_json
from experiments.training import load_data
from jcw import data
from jcw.data.checks import PARTS, check, warnings_of

MOST_ROWS = 12


def once(config: Config, dataset: data.Dataset) -> None:
    """Check a run's images and print what was found, unless a stage of the run did so before."""
    path = config.run / 'data.json'
    if path.exists() or not launch.is_first():
        return
    write_json(path, show(dataset))


def show(dataset: data.Dataset) -> dict[str, Any]:
    """Print what a set holds and what is wrong with it; return it as JSON."""
    found = check(dataset)
    height, width, channels = dataset.input_shape
    sizes = [len(part) for part in (dataset.train, dataset.validation, dataset.test)]
    progress.console.print(
        f'{dataset.name}: {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test images of '
        f'{dataset.num_classes} classes, {height}x{width} in {"grey" if channels == 1 else "colour"}',
        highlight=False,
    )
    if found.counts is not None:
        progress.console.print(_table(found.counts, dataset.class_names))
    warnings = warnings_of(found, dataset)
    for warning in warnings:
        progress.console.print(f'Warning: {warning}.', highlight=False)
    if not found.looked:
        progress.console.print('Test images that are trained on were not looked for in a streamed set.')
    return {
        'classes': dataset.class_names,
        'images': found.counts,
        'repeated': found.repeated,
        'warnings': warnings,
    }


def _table(counts: np.ndarray, names: tuple[str, ...]) -> Table:
    """Return a row per class; of many classes the smallest, and the range of the others."""
    order = np.argsort(counts[0], kind='stable')
    shown = sorted(order[: MOST_ROWS if len(order) <= MOST_ROWS else MOST_ROWS // 2])
    table = Table('class', *PARTS)
    for label in shown:
        table.add_row(names[label], *map(str, counts[:, label]))
    if left := list(order[len(shown) :]):
        ranges = [f'{rest.min()} to {rest.max()}' for rest in counts[:, left]]
        table.add_row(f'{len(left)} more', *ranges)
    return table


def main(config: Config) -> None:
    write_json(config.run / 'data.json', show(load_data(config)))


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'data'))
