"""Networks of a graph as pure functions: masked, switched, with shared segments; their variables by named axes."""

from jcw.nets.axes import Variables, slice_variables
from jcw.nets.training import Network, functions_of

__all__ = ['Network', 'Variables', 'functions_of', 'slice_variables']
