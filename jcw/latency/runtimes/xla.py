"""Any JAX backend: a network is compiled ahead of time and called on arguments that are on the device."""

import dataclasses
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jaxlib

from jcw.latency import device
from jcw.latency.runtimes.protocol import RuntimeFailure

Build = Callable[[Sequence[int]], tuple[Callable[..., Any], tuple[Any, ...]]]


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
      device_kind: overrides the device's name in the header.
    """

    name = 'xla'

    def __init__(self, build: Build, *, device_kind: str = '') -> None:
        self._build = build
        self._device = jax.devices()[0]
        self._device_kind = device_kind

    @property
    def device(self) -> str:
        if self._device_kind:
            return self._device_kind
        return device.cpu_name() if self._device.platform == 'cpu' else self._device.device_kind

    @property
    def versions(self) -> Mapping[str, str]:
        return {'jax': jax.__version__, 'jaxlib': jaxlib.__version__}

    @property
    def details(self) -> Mapping[str, str]:
        return {**device.details(), 'platform': self._device.platform}

    def open(self, widths: Sequence[int]) -> XlaProgram:
        try:
            function, arguments = self._build(widths)
            arguments = jax.device_put(arguments, self._device)
            compiled = jax.jit(function).lower(*arguments).compile()
        except Exception as error:
            raise RuntimeFailure(f'could not compile: {_brief(error)}') from error
        return XlaProgram(compiled, arguments)

    def prefetch(self, networks: Sequence[Sequence[int]]) -> None:
        """Do nothing yet: networks are compiled when they are opened."""

    def close(self) -> None:
        jax.clear_caches()


def _brief(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ""}'[:200]
