"""Search: width statistics to unary potentials, one-shot and adaptive width search, baselines, measured repair."""

from jcw.search.greedy import slim
from jcw.search.ows import to_field
from jcw.search.repair import Corrected, Repair
from jcw.search.rounds import together

__all__ = ['Corrected', 'Repair', 'slim', 'to_field', 'together']
