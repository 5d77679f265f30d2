"""A network's variables as a tree of arrays, and what its parts are called; deployment needs no more of the network."""

from typing import Any

Variables = dict[str, Any]
"""`{'params': ..., 'batch_stats': ...}`, nested dictionaries of arrays."""


def layer_name(index: int) -> str:
    """Return the key of a layer in `params` and `batch_stats`."""
    return f'layer_{index:02d}'
