"""Write the found network in its deployable form."""

import importlib.util
import os
from pathlib import Path

import numpy as np

from experiments import candidates, progress
from experiments.budget import load_table
from experiments.config import Config
from experiments.paths import paths
from experiments.run_folder import Usage
from experiments.space import graph_of
from experiments.train_subnet import found, train, variables_of
from experiments.training import load_data
from jcw import data, deploy
from jcw.graph import Graph


def export(config: Config, dataset: data.Dataset, graph: Graph, method: str = 'joint') -> Path:
    """Export a method's network, with what was predicted and measured of it."""
    result = found(config)
    chosen = candidates.with_times(config, graph, {method: result['methods'][method]})[method]
    widths = chosen['widths']
    seed = config.seed + config.subnet.seeds[0]
    folder = paths(config).trained(widths, seed)
    accuracy = train(config, dataset, graph, widths, folder, f'Training {method}', seed)
    variables = variables_of(config, dataset, graph, widths, folder)
    forms = config.export
    table = load_table(config)
    return deploy.export(
        paths(config).network,
        variables,
        graph,
        widths,
        mean=dataset.mean,
        std=dataset.std,
        class_names=dataset.class_names,
        weights=forms.weights,
        onnx=forms.onnx,
        litert=forms.batch if forms.litert or forms.int8 else 0,
        calibration=from_all_over(dataset.train, forms.calibration_images) if forms.int8 else None,
        accuracy_of=lambda model: litert_accuracy(model, dataset.test),
        details={
            'accuracy': accuracy,
            'latency': {
                'budget_ms': result['budget_ms'],
                'predicted_ms': chosen['ms'],
                'measured_ms': chosen['measured_ms'],
                'measured_error': chosen['measured_error'],
                'repair_rounds': chosen.get('rounds', 0),
                'networks_timed': chosen.get('timed', 1),
                'holds_budget': chosen.get('holds'),
                **{k: table.provenance[k] for k in ('device', 'runtime', 'dtype', 'batch')},
            },
        },
    )


FORMS = (
    ('network.tflite', 'phones and small boards', 'litert'),
    ('network.int8.tflite', 'the same, smaller and mostly faster: see its accuracy in network.json', 'int8'),
    ('network.onnx', "a server's or a laptop's CPU, by ONNX Runtime; converters to other runtimes", 'onnx'),
    ('network.stablehlo', 'jax, on CPUs, GPUs and TPUs', None),
    ('weights/', 'code of your own, by orbax', None),
)
"""Files of a network, what each is for, and the setting that writes it; none for those that always are."""


PACKAGES = {'onnx': ('onnx',), 'litert': ('ai_edge_litert',), 'int8': ('ai_edge_litert', 'ai_edge_quantizer')}
"""What writes each form, and is no part of the installation unless asked for."""


def check(config: Config) -> None:
    """Refuse forms whose packages are missing, before hours of work and not after them.

    Raises:
      Usage: with the way out.
    """
    for form, packages in PACKAGES.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if getattr(config.export, form) and missing:
            extra = 'onnx' if form == 'onnx' else 'litert'
            raise Usage(
                f'--export.{form} needs {" and ".join(name.replace("_", "-") for name in missing)}: '
                f"pip install -e '.[{extra}]', or leave it out and export later"
            )


def shipped(config: Config) -> list[tuple[str, str]]:
    """Return the files to ship and on what, and how to have those that were not asked for."""
    forms = config.export
    written = {None: True, 'litert': forms.litert or forms.int8, 'int8': forms.int8, 'onnx': forms.onnx}
    return [
        (name, where if written[setting] else f'{where} (not written: --export.{setting})')
        for name, where, setting in FORMS
    ]


def from_all_over(source: data.Source, count: int) -> np.ndarray:
    """Return images from all over a set, which may be sorted by class."""
    rows = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    return source.take(rows).images


def litert_accuracy(model: bytes, source: data.Source) -> float:
    """Return the accuracy of a LiteRT file, run on this machine."""
    correct = 0
    for part in data.in_chunks(source):
        logits = deploy.litert_logits(model, part.images, threads=os.cpu_count() or 1)
        correct += int((logits.argmax(-1) == np.asarray(part.labels)).sum())
    return correct / len(source)


def main(config: Config) -> None:
    check(config)
    dataset = load_data(config)
    folder = export(config, dataset, graph_of(config, dataset))
    progress.console.print(f'Deployable network: {folder}', highlight=False)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'search', 'export'))
