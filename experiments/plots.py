"""Plots in one style."""

import io
from pathlib import Path
from typing import Any

COLOURS = {
    'joint': '#0b6e4f',
    'rewards': '#e09f3e',
    'adaptive': '#6bbf59',
    'greedy': '#3d5a80',
    'uniform': '#b0413e',
    'random': '#c69c6d',
    'random_trained': '#8c5a3c',
    'flops': '#7b5ea7',
    'other_table': '#d1798f',
    'base': '#9a9a9a',
}


def axes(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its axes, inches wide and high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    drawn = figure.subplots()
    drawn.spines[['top', 'right']].set_visible(False)
    return figure, drawn


def png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
    return buffer.getvalue()


def save(path: Path, figure: Any) -> None:
    path.write_bytes(png(figure))
