"""What is timed: a runtime opens the network of given widths and times it, call by call."""

from jcw.latency.runtimes.protocol import Program, Runtime, RuntimeFailure
from jcw.latency.runtimes.xla import XlaRuntime

__all__ = ['Program', 'Runtime', 'RuntimeFailure', 'XlaRuntime']
