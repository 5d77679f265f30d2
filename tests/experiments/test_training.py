"""What the trainings share."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import training


@pytest.mark.skipif(not Path('/proc/self/maps').exists(), reason='counts memory maps, as Linux lists them')
def test_forgotten_programs_give_their_memory_back():
    def maps() -> int:
        return len(Path('/proc/self/maps').read_text().splitlines())

    def compile_some(first: int) -> None:
        for number in range(first, first + 8):
            jax.jit(lambda x, n=number: jnp.sin(x) @ jnp.cos(x + n))(jnp.arange(9.0 + number))

    compile_some(0)
    training.forget_programs()
    before = maps()
    compile_some(100)
    grown = maps() - before
    assert grown > 10
    training.forget_programs()
    assert maps() - before < grown / 4
