"""ONNX Runtime on the CPU: what is deployed there, and networks open in milliseconds."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jcw.latency import device
from jcw.latency.runtimes.interface import RuntimeFailure

Build = Callable[[Sequence[int]], bytes]


DTYPES: dict[str, Any] = {
    'tensor(uint8)': np.uint8,
    'tensor(int8)': np.int8,
    'tensor(float16)': np.float16,
    'tensor(float)': np.float32,
    'tensor(double)': np.float64,
}
"""ONNX Runtime's names of the types that images come in."""


class OnnxProgram:
    """A session and the random images it is called with."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._feeds = {tensor.name: _random(tensor) for tensor in session.get_inputs()}

    def time_ms(self) -> float:
        """Time one run of the session."""
        start = time.perf_counter_ns()
        try:
            self._session.run(None, self._feeds)
        except Exception as error:
            raise RuntimeFailure(f'run failed: {error}') from error
        return (time.perf_counter_ns() - start) / 1e6

    def close(self) -> None:
        self._session, self._feeds = None, {}


class OnnxRuntime:
    """Time networks through ONNX Runtime, with as many threads as the process may use cores.

    Inputs are random, of the types and shapes that the model declares.

    Args:
      build: from widths to the bytes of an ONNX model whose input shapes are fixed.
      dtype: that networks are computed in, as the samples will state; the CPU's kernels know float32 alone.

    Raises:
      ValueError: onnxruntime is not installed, or another dtype.
    """

    name = 'onnxruntime'

    def __init__(self, build: Build, *, dtype: str = 'float32') -> None:
        if dtype != 'float32':
            raise ValueError(f"ONNX Runtime times float32 on the CPU, not {dtype}: take runtime 'xla' for it")
        try:
            import onnxruntime
        except ImportError:
            raise ValueError('this runtime needs onnxruntime: pip install onnx onnxruntime') from None
        self._onnxruntime = onnxruntime
        self._build = build
        self.device = device.cpu_name()
        self.versions: Mapping[str, str] = {'onnxruntime': onnxruntime.__version__}
        self.details: Mapping[str, str] = device.details()

    def open(self, widths: Sequence[int]) -> OnnxProgram:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            model = self._build(widths)
            session = self._onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
            return OnnxProgram(session)
        except Exception as error:
            raise RuntimeFailure(f'could not open: {error}') from error

    def prefetch(self, networks: Sequence[Sequence[int]]) -> None:
        """Do nothing: opening is cheap."""

    def close(self) -> None:
        """Do nothing: sessions close themselves."""


def _random(tensor: Any) -> np.ndarray:
    """Fill an input as it is declared.

    Raises:
      ValueError: a type that is not known here, or a size that is left open.
    """
    if tensor.type not in DTYPES:
        raise ValueError(f'input {tensor.name} is a {tensor.type}, expected one of {", ".join(DTYPES)}')
    if not all(isinstance(size, int) and size > 0 for size in tensor.shape):
        raise ValueError(f'input {tensor.name} has shape {tensor.shape}: fix its sizes, the batch included')
    rng = np.random.default_rng(0)
    dtype = DTYPES[tensor.type]
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(tensor.shape, np.float32).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, tensor.shape, dtype, endpoint=True)
