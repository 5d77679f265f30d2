"""Networks of a graph as pure functions: masked, switched, with shared segments; their variables by named axes."""

from jcw.nets.axes import Variables, slice_variables
from jcw.nets.training import Network, network

__all__ = ['Network', 'Variables', 'network', 'slice_variables']
