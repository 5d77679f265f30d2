"""Any JAX backend: a network is compiled ahead of time and called on arguments that are on the device."""

import dataclasses
import gc
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np
from jax import export

from jcw.compilation import Options, known_options
from jcw.latency import device
from jcw.latency.runtimes.ahead import Build, CompileAhead, compile_exported
from jcw.latency.runtimes.interface import RuntimeFailure

FAST_COMPILE = {'xla_cpu_use_fusion_emitters': False, 'xla_cpu_parallel_codegen_split_count': 1}
"""On CPUs: half the time to compile; programs as fast as those of the default options (docs/latency.md)."""


@dataclasses.dataclass
class XlaProgram:
    """A compiled network and its arguments."""

    compiled: Any
    arguments: tuple[Any, ...]

    def time_ms(self) -> float:
        """Time one call, from dispatch until its result is ready."""
        start = time.perf_counter_ns()
        try:
            jax.block_until_ready(self.compiled(*self.arguments))
        except Exception as error:
            raise RuntimeFailure(f'call failed: {_brief(error)}') from error
        return (time.perf_counter_ns() - start) / 1e6

    def close(self) -> None:
        self.compiled, self.arguments = None, ()
        jax.clear_caches()
        gc.collect()


class XlaRuntime:
    """Time networks through XLA on JAX's default device.

    Args:
      build: from widths to a function and its arguments: the deployed network, normalisation folded.
      options: of the compiler, such as `FAST_COMPILE`; only those that leave the program's speed alone;
        those that this version of the compiler does not know are passed over, the others stated in `details`.
      ahead: compiles the networks that will be opened next, in another process.
    """

    name = 'xla'

    def __init__(
        self, build: Build, *, options: Options | None = None, ahead: CompileAhead | None = None
    ) -> None:
        self._build = build
        self._options = known_options(options or {})
        self._ahead = ahead
        self._first: tuple[tuple[int, ...], XlaProgram] | None = None
        self._device = jax.devices()[0]

    @property
    def device(self) -> str:
        return device.cpu_name() if self._device.platform == 'cpu' else self._device.device_kind

    @property
    def versions(self) -> Mapping[str, str]:
        return {'jax': jax.__version__, 'jaxlib': jaxlib.__version__}

    @property
    def details(self) -> Mapping[str, str]:
        options = {name: str(value) for name, value in self._options.items()}
        return {**device.details(), 'platform': self._device.platform, **options}

    def open(self, widths: Sequence[int]) -> XlaProgram:
        """Compile a network; that opened first, such as the reference of all samples, stays ready."""
        widths = tuple(widths)
        if self._first is None or self._first[0] != widths:
            try:
                program = self._load(widths) or self._compile(widths)
            except Exception as error:
                raise RuntimeFailure(f'could not compile: {_brief(error)}') from error
            if self._first is not None:
                return program
            self._first = widths, program
        return dataclasses.replace(self._first[1])

    def prefetch(self, networks: Sequence[Sequence[int]]) -> None:
        if self._ahead is not None:
            ready = self._first and self._first[0]
            self._ahead.want([widths for widths in networks if tuple(widths) != ready])

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._first = None
        jax.clear_caches()

    def _load(self, widths: Sequence[int]) -> XlaProgram | None:
        blob = None if self._ahead is None else self._ahead.take(tuple(widths))
        if blob is None:
            return None
        exported = export.deserialize(bytearray(blob))
        compiled = compile_exported(exported, self._options)
        leaves = [_random(aval) for aval in exported.in_avals]
        arguments, _ = jax.tree.unflatten(exported.in_tree, jax.device_put(leaves, self._device))
        return XlaProgram(compiled, arguments)

    def _compile(self, widths: Sequence[int]) -> XlaProgram:
        function, arguments = self._build(widths)
        arguments = jax.device_put(arguments, self._device)
        lowered = jax.jit(function).lower(*arguments)
        return XlaProgram(lowered.compile(compiler_options=self._options), arguments)


def _random(aval: Any) -> np.ndarray:
    """Fill an argument: a convolution takes the same time for all numbers that are neither 0 nor denormal."""
    if not np.issubdtype(aval.dtype, np.floating):
        return np.zeros(aval.shape, aval.dtype)
    return (0.1 * np.random.default_rng(0).standard_normal(aval.shape, np.float32)).astype(aval.dtype)


def _brief(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ""}'[:200]
