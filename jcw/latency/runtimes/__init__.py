"""What is timed: a runtime opens the network of given widths and times it, call by call."""

from jcw.latency.runtimes.ahead import Ahead, CompileAhead
from jcw.latency.runtimes.command import CommandRuntime
from jcw.latency.runtimes.interface import Program, Runtime, RuntimeFailure
from jcw.latency.runtimes.litert import LitertRuntime
from jcw.latency.runtimes.onnx import OnnxRuntime
from jcw.latency.runtimes.xla import FAST_COMPILE, XlaRuntime

__all__ = [
    'Ahead',
    'FAST_COMPILE',
    'CommandRuntime',
    'CompileAhead',
    'LitertRuntime',
    'OnnxRuntime',
    'Program',
    'Runtime',
    'RuntimeFailure',
    'XlaRuntime',
]
