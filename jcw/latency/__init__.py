"""Latency from outside: time whole networks, fit a table of layers, know its error."""
