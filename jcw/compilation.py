"""How programs are compiled: options of XLA that leave their results alone and suit what they are for."""

import contextlib
import functools
import threading
from collections.abc import Mapping
from typing import Any

import jax

Options = Mapping[str, Any]

_LIBRARY, _KIND = 'xla_cpu_experimental_ynn_fusion_type', 'LIBRARY_FUSION_TYPE_'
TRAINING: Options = {_LIBRARY: f'{_KIND}DOT,{_KIND}REDUCE'}
"""On CPUs, for training and evaluation. Products and sums stay with YNNPACK, which XLA takes by default; dense
convolutions, which take 1.3 to 3 times as long there, do not (docs/benchmarks.md)."""


def known_options(options: Options) -> dict[str, Any]:
    """Keep the options that this version of the compiler knows, by trying each on a trivial program."""
    lowered = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((), 'float32'))
    known = {}
    for name, value in options.items():
        with contextlib.suppress(Exception):
            lowered.compile(compiler_options={name: value})
            known[name] = value
    return known


@functools.cache
def for_training() -> Options:
    """Return what to compile training and evaluation with, for JAX's default device."""
    return known_options(TRAINING) if jax.default_backend() == 'cpu' else {}


class ToTrain:
    """What `jax.jit` or `jax.pmap` returned, compiled by the options of training, anew for other shapes or places."""

    def __init__(self, function: Any) -> None:
        self._function, self._programs, self._compiling = function, dict[Any, Any](), threading.Lock()

    def __call__(self, *args: Any) -> Any:
        return self.program(*args)(*args)

    def program(self, *args: Any) -> Any:
        """Return the program for arguments like these, compiled once, whatever threads ask; shapes will do for them."""
        leaves, tree = jax.tree.flatten(args)
        kind = tree, *((leaf.shape, leaf.dtype, getattr(leaf, 'sharding', None)) for leaf in leaves)
        if kind not in self._programs:
            with self._compiling:
                if kind not in self._programs:
                    lowered = self._function.lower(*args)
                    self._programs[kind] = lowered.compile(compiler_options=dict(for_training()))
        return self._programs[kind]
