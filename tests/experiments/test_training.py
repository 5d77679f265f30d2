"""What the trainings share."""

import jax
import jax.numpy as jnp

from experiments import training


def test_forgotten_programs_are_let_go():
    def loaded() -> int:
        return len(jax.devices()[0].client.live_executables())

    def compile_some(first: int) -> None:
        for number in range(first, first + 8):
            jax.jit(lambda x, n=number: jnp.sin(x) @ jnp.cos(x + n))(jnp.arange(9.0 + number))

    compile_some(0)
    training.forget_programs()
    before = loaded()
    compile_some(100)
    assert loaded() == before + 8
    training.forget_programs()
    assert loaded() == before
