"""ONNX Runtime on the CPU: what is deployed there, and networks open in milliseconds."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jcw.latency import device
from jcw.latency.runtimes.protocol import RuntimeFailure

Build = Callable[[Sequence[int]], bytes]


class OnnxProgram:
    """A session and the random images it is called with."""

    def __init__(self, session: Any) -> None:
        self._session = session
        rng = np.random.default_rng(0)
        self._feeds = {
            tensor.name: rng.standard_normal(tensor.shape, np.float32) for tensor in session.get_inputs()
        }

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

    Args:
      build: from widths to the bytes of an ONNX model whose input shapes are fixed.

    Raises:
      ValueError: onnxruntime is not installed.
    """

    name = 'onnxruntime'

    def __init__(self, build: Build) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("this runtime needs onnxruntime: pip install 'jcw[onnx]'") from None
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
