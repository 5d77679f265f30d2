"""The networks that are timed: any of the zoo, at a size."""

import argparse
import inspect
import os
import platform
import re
from functools import partial
from pathlib import Path

QUICK_WIDTH, QUICK_LEVELS = 0.25, 4  # in a trial of a script: of the usual channels; widths of a site
CLASSES = {32: 10, 224: 1000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the network be chosen, and whether its strides are those published or made to fit small images."""
    from jcw.zoo import NETWORKS

    parser.add_argument('--network', default='mobilenet_v1', choices=list(NETWORKS))
    parser.add_argument('--strides', default='published', choices=['published', 'fitted'])
    parser.add_argument('--levels', type=int, default=14, help='widths of a site')
    parser.add_argument('--quick', action='store_true', help='narrow, few widths, few rounds: does it run?')


def forwarded(options: argparse.Namespace) -> list[str]:
    """Return the arguments of `add_arguments` as a child process reads them."""
    chosen = ['--network', options.network, '--strides', options.strides, '--levels', str(options.levels)]
    return chosen + ['--quick'] * options.quick


def graph_of(options: argparse.Namespace, size: int, classes: int, base_multiplier: float = 1.0):
    """Build the graph of the chosen network for square images; a quick trial's is narrow, of few widths."""
    from experiments.space import fitting
    from jcw.builder import build
    from jcw.zoo import NETWORKS

    network = NETWORKS[options.network]
    if options.strides == 'fitted':
        published = inspect.signature(network).parameters['strides'].default
        network = partial(network, strides=fitting(published, size))
    settings = {'base_multiplier': base_multiplier, 'levels': options.levels}
    if options.quick:
        settings = {'base_multiplier': QUICK_WIDTH, 'levels': QUICK_LEVELS}
    return build(network, (size, size, 3), classes, **settings)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def device_name() -> str:
    """Name the device that JAX uses, a processor with its cores."""
    import jax

    device = jax.devices()[0]
    if device.platform != 'cpu':
        return device.device_kind
    facts = Path('/proc/cpuinfo')
    model = re.search(r'model name\s*: (.*)', facts.read_text()) if facts.is_file() else None
    return f'{cores()} cores of {model.group(1) if model else platform.processor()}'
