"""LiteRT on the CPU: what is deployed on phones and boards, float32 or int8; networks open quickly."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from jcw.latency import device
from jcw.latency.runtimes.ahead import Ahead
from jcw.latency.runtimes.interface import RuntimeFailure

Build = Callable[[Sequence[int]], bytes]

DTYPES = ('float32', 'int8')


class LitertProgram:
    """An interpreter, its images set once."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        rng = np.random.default_rng(0)
        for tensor in interpreter.get_input_details():
            shape, dtype = tensor['shape'], tensor['dtype']
            if np.issubdtype(dtype, np.floating):
                images = rng.standard_normal(shape, np.float32).astype(dtype)
            else:
                limits = np.iinfo(dtype)
                images = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
            interpreter.set_tensor(tensor['index'], images)

    def time_ms(self) -> float:
        """Time one call, images already in place."""
        start = time.perf_counter_ns()
        try:
            self._interpreter.invoke()
        except Exception as error:
            raise RuntimeFailure(f'call failed: {error}') from error
        return (time.perf_counter_ns() - start) / 1e6

    def close(self) -> None:
        self._interpreter = None


class LitertRuntime:
    """Time networks through LiteRT, with as many threads as the process may use cores.

    Time does not depend on the weights, nor that of an int8 network on the ranges it was calibrated to: random ones
    serve for both. Accuracy is another matter, and is measured on the exported file.

    Args:
      build: from widths to the bytes of a LiteRT model.
      dtype: that networks are computed in, as the samples will state; `build` sees to it.
      ahead: writes the networks that will be opened next, in another process.

    Raises:
      ValueError: ai-edge-litert is not installed, or another dtype.
    """

    name = 'litert'

    def __init__(self, build: Build, *, dtype: str = 'float32', ahead: Ahead | None = None) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"LiteRT times {' and '.join(DTYPES)}, not {dtype}: take runtime 'xla' for it")
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise ValueError(
                'this runtime needs the package ai-edge-litert: pip install ai-edge-litert ai-edge-quantizer, '
                "or the extra 'litert'"
            ) from None
        self._interpreter = Interpreter
        self._build, self._ahead = build, ahead
        self._threads = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
        self.device = device.cpu_name()
        self.versions: Mapping[str, str] = {'ai-edge-litert': metadata.version('ai-edge-litert')}
        weights = {'weights': 'random', **({'calibration': 'random bytes'} if dtype == 'int8' else {})}
        self.details: Mapping[str, str] = {**device.details(), 'threads': str(self._threads), **weights}

    def open(self, widths: Sequence[int]) -> LitertProgram:
        try:
            model = None if self._ahead is None else self._ahead.take(tuple(widths))
            if model is None:
                model = self._build(widths)
            interpreter = self._interpreter(model_content=model, num_threads=self._threads)
            interpreter.allocate_tensors()
            return LitertProgram(interpreter)
        except Exception as error:
            raise RuntimeFailure(f'could not open: {error}') from error

    def prefetch(self, networks: Sequence[Sequence[int]]) -> None:
        if self._ahead is not None:
            self._ahead.want(networks)

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
