"""Training: the supernet by sandwich rule and random mutation, and networks of one configuration."""

from jcw.train.state import TrainState, init_state, start_from
from jcw.train.steps import Recipe, evaluate, plain_step, recalibrate, supernet_step

__all__ = [
    'Recipe',
    'TrainState',
    'evaluate',
    'init_state',
    'plain_step',
    'recalibrate',
    'start_from',
    'supernet_step',
]
