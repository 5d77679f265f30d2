"""The graph of a run: a network of the zoo, or a function in a file of one's own, and the widths its sites may take."""

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from experiments.config import Config, SpaceConfig
from jcw.builder import build, with_dropped_blocks
from jcw.data import Dataset
from jcw.graph import Graph
from jcw.nets.axes import Variables
from jcw.trace import trace
from jcw.zoo import NETWORKS, NetworkFunction

Traceable = tuple[Callable[[Any, Any], Any], Any, Any]
"""A network of one's own: (apply, variables, example), see `jcw.trace.trace`."""


def graph_of(config: Config, dataset: Dataset) -> Graph:
    """Build the graph of a run.

    Raises:
      ValueError: there is no such network, it cannot be expressed, or it takes no strides; one's own file is named.
    """
    name = config.space.network
    try:
        return _graph(config, dataset)
    except ValueError as error:
        if ':' not in name or name.rpartition(':')[0] in str(error):
            raise
        raise ValueError(f'space.network: {name}: {error}') from error


def _graph(config: Config, dataset: Dataset) -> Graph:
    settings = config.space
    made = made_by(settings.network)
    if made is not None:
        return _own(config, dataset, made)
    network = network_of(settings.network)
    published = inspect.signature(network).parameters.get('strides')
    if published is not None:
        strides = settings.strides or fitting(published.default, min(dataset.input_shape[:2]))
        network = functools.partial(network, strides=strides)
    elif settings.strides is not None:
        raise ValueError(f'space.strides: {settings.network} takes none, its function decides them')
    return build(
        network,
        dataset.input_shape,
        dataset.num_classes,
        base_multiplier=settings.base_multiplier,
        min_multiplier=settings.min_multiplier,
        max_multiplier=settings.max_multiplier,
        levels=settings.levels,
        divisor=settings.divisor,
        drop_blocks=settings.drop_blocks,
    )


def made_by(name: str) -> Graph | Traceable | None:
    """Return what a function of one's own that takes nothing returns; none for networks written with a builder.

    Raises:
      ValueError: it is neither a graph nor (apply, variables, example).
    """
    network = network_of(name)
    if ':' not in name or inspect.signature(network).parameters:
        return None
    made: Any = cast(Any, network)()
    if isinstance(made, tuple) and len(made) == 3 and callable(made[0]):
        return _telling(name.rpartition(':')[0], made[0]), *made[1:]
    if not isinstance(made, Graph):
        raise ValueError(
            f'space.network: {name} must return a graph or (apply, variables, example), got {type(made).__name__}'
        )
    return made


def traced(settings: SpaceConfig, own: Traceable) -> tuple[Graph, Variables]:
    """Return the graph of (apply, variables, example), and its variables at the base widths."""
    graph, variables = trace(
        *own,
        min_multiplier=settings.min_multiplier,
        max_multiplier=settings.max_multiplier,
        levels=settings.levels,
        divisor=settings.divisor,
    )
    return (with_dropped_blocks(graph) if settings.drop_blocks else graph), variables


def _own(config: Config, dataset: Dataset, made: Graph | Traceable) -> Graph:
    """Return the graph that a function made, or the one of the network (apply, variables, example) that it made."""
    settings = config.space
    if settings.strides is not None or settings.base_multiplier != 1:
        raise ValueError(f'space.network: {settings.network} decides strides and base widths, leave them out')
    graph = made if isinstance(made, Graph) else traced(settings, made)[0]
    asked = dataset.input_shape, dataset.num_classes
    if (graph.input_shape, graph.num_classes) != asked:
        raise ValueError(
            f'space.network: {settings.network} is for images of {graph.input_shape} and {graph.num_classes} '
            f'classes, the data has {asked[0]} and {asked[1]}'
        )
    return graph


def fitting(strides: tuple[int, ...], side: int) -> tuple[int, ...]:
    """Return published strides, made for 224x224, for images of another side: the earliest are left out.

    The last map keeps a side of 4 to 7 where the image allows.
    """
    excess = sum(stride > 1 for stride in strides) - max(int(np.log2(max(side, 4) / 4)), 0)
    fitted = list(strides)
    for place, stride in enumerate(strides):
        if stride > 1 and excess > 0:
            fitted[place], excess = 1, excess - 1
    return tuple(fitted)


def network_of(name: str) -> NetworkFunction:
    """Return a network of the zoo by its name, or a function from `FILE.py:function`.

    The function appends operations to a builder, or takes nothing and returns a graph, or (apply, variables, example).

    Raises:
      ValueError: there is none.
    """
    path, colon, function = name.rpartition(':')
    if not colon:
        if name not in NETWORKS:
            raise ValueError(
                f'space.network: no network {name!r}; take FILE.py:function or one of {", ".join(NETWORKS)}'
            )
        return NETWORKS[name]
    if not Path(path).is_file():
        raise ValueError(f'space.network: there is no file {path}')
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f'space.network: {path} is no Python file')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f'space.network: {path} cannot be run: {type(error).__name__}: {error}') from error
    if not callable(getattr(module, function, None)):
        raise ValueError(f'space.network: {path} has no function {function!r}')
    return cast(NetworkFunction, _telling(path, getattr(module, function)))


def _telling(path: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose errors say which line of its file they come from."""

    @functools.wraps(function)
    def call(*args: Any, **settings: Any) -> Any:
        try:
            return function(*args, **settings)
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = [f', line {frame.lineno}' for frame in frames if frame.filename == path][-1:]
            kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
            raise ValueError(f'space.network: {path}{"".join(line)}: {kind}{error}') from error

    return call


def settings_of(config: Config, graph: Graph) -> dict[str, Any]:
    """Return what results depend on: the settings, and the graph's digest, so that a changed file is another run."""
    bare = [dataclasses.replace(op, note='') for op in graph.operations]
    bare_graph = dataclasses.replace(graph, operations=tuple(bare))
    digest = hashlib.sha256(json.dumps(bare_graph.to_json()).encode()).hexdigest()
    return {**vars(config.space), 'graph': digest}
