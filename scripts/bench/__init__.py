"""What the benchmarks share: networks, the same in PyTorch, processes in turn, where a step's time goes."""
