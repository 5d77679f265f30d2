"""Search: width statistics to unary potentials, one-shot and adaptive width search, greedy slimming."""
