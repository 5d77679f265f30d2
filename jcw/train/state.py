"""What training carries from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jcw.nets.axes import Variables
from jcw.nets.training import Network


@flax.struct.dataclass
class TrainState:
    """Parameters, statistics and optimiser of a network in training."""

    step: Any  # int32 [], steps taken; a shape where the state only describes another
    params: dict[str, Any]
    batch_stats: dict[str, Any]  # running averages of the largest network's moments
    opt_state: optax.OptState

    @property
    def variables(self) -> Variables:
        return {'params': self.params, 'batch_stats': self.batch_stats}


def init_state(key: jax.Array, network: Network, optimiser: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    return start_from(network.init(key), optimiser)


def start_from(variables: Variables, optimiser: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step of training that starts at given variables."""
    params = variables['params']
    opt_state = jax.jit(optimiser.init)(params)
    return TrainState(jnp.zeros((), jnp.int32), params, variables['batch_stats'], opt_state)
