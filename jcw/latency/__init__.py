"""Latency from outside: time whole networks, fit a table of layers, know its error."""

from jcw.latency.table import LatencyTable, fit_samples, flops_table, params_table

__all__ = ['LatencyTable', 'fit_samples', 'flops_table', 'params_table']
