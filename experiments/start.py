"""A trained network to begin with: read, compared with the graph, and its channels sorted."""

import dataclasses
import functools
import hashlib
from typing import NamedTuple

import numpy as np

from experiments.config import Config, SpaceConfig, SupernetConfig
from experiments.run_folder import Usage
from experiments.space import Traceable, made_by, traced
from experiments.training import Evaluator
from jcw import data
from jcw.graph import Graph
from jcw.nets import axes
from jcw.nets.axes import Variables
from jcw.trace import by_importance
from jcw.train import reading

OWN = 'own'


class Start(NamedTuple):
    """A trained network.

    Attributes:
      variables: at the base widths, the most important channels of every site first.
      digest: of the variables as they came.
    """

    variables: Variables
    digest: str


def trained_network(config: Config, graph: Graph) -> Start:
    """Read the network that `supernet.start` names; once in a process.

    Raises:
      Usage: there is none, it is damaged, or it is not of this graph.
    """
    if config.supernet.start is None:
        raise Usage("supernet.start: no trained network is named; give an orbax checkpoint, or 'own'")
    return _read(config.supernet.start, config.space, graph)


def recorded(config: Config, graph: Graph) -> SupernetConfig:
    """Return the supernet's settings as they are claimed: a trained network by what it holds, wherever it lies."""
    settings = config.supernet
    if settings.start is None:
        return settings
    return dataclasses.replace(settings, start=trained_network(config, graph).digest)


def accuracy_of(config: Config, dataset: data.Dataset, graph: Graph) -> float:
    """Return the accuracy of the trained network on validation images, as it came."""
    evaluate = Evaluator(graph.fixed(graph.base), dataset.mean, dataset.std)
    return float(evaluate(trained_network(config, graph).variables, dataset.validation).accuracy)


@functools.lru_cache(maxsize=1)
def _read(start: str, space: SpaceConfig, graph: Graph) -> Start:
    made = made_by(space.network)
    own = made if isinstance(made, tuple) else None
    base = graph.fixed(graph.base)
    if start == OWN:
        if own is None:
            raise Usage(
                f'supernet.start: {space.network} returns no (apply, variables, example), so it has no variables '
                "of its own to begin with; './own' is a checkpoint of that name"
            )
        variables = _traced(space, graph, own)
    else:
        variables = _fitted(start, space, graph, own)
    digest = hashlib.sha256()
    for name, leaf in sorted(reading.named(variables).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return Start(by_importance(variables, base), f'sha256 {digest.hexdigest()}')


def _fitted(path: str, space: SpaceConfig, graph: Graph, own: Traceable | None) -> Variables:
    """Read a checkpoint of the graph's variables, or of those of the function that the graph was traced from."""
    try:
        found = reading.read(path)
    except ValueError as error:
        raise Usage(f'supernet.start: {error}') from None
    like = axes.shapes(graph, graph.base)
    differ = reading.fits(found, like)
    if not differ:
        return reading.as_tree(found, like)
    if own is not None:
        theirs = reading.fits(found, own[1])
        if not theirs:
            return _traced(space, graph, (own[0], reading.as_tree(found, own[1]), own[2]))
        if len(theirs) < len(differ):
            differ = theirs
    more = f' and {len(differ) - 3} more' if len(differ) > 3 else ''
    raise Usage(
        f'supernet.start: {path} is not of the base widths of {space.network}: {"; ".join(differ[:3])}{more}'
    )


def _traced(space: SpaceConfig, graph: Graph, own: Traceable) -> Variables:
    found, variables = traced(space, own)
    if found != graph:
        raise Usage(
            f'supernet.start: with these variables {space.network} is another network than with those it returns, as '
            'where a scale of 1 has been left out: let the function return the trained ones, and start from own'
        )
    return variables
