"""A small network of a user's own, as the stages read it from a file."""

import dataclasses
from pathlib import Path

from experiments.config import CompareConfig, Config
from experiments.presets import DIGITS

NETWORK = """
from jcw.zoo import inverted_residual


def net(g):
    x = g.conv(g.images, g.site('stream', 16), kernel=3, stride=2)
    x = inverted_residual(g, x, 'stream', g.site('inner', 32))
    return g.classify(g.conv(x, g.site('head', 32)))
"""


def small_run(root: Path) -> Config:
    """Return the settings of a run of all stages in a minute or two, and write the network's file that they name."""
    (root / 'net.py').write_text(NETWORK)
    change = dataclasses.replace
    return change(
        DIGITS,
        run=root / 'run',
        data=change(DIGITS.data, limit=200),
        space=change(
            DIGITS.space,
            network=f'{root / "net.py"}:net',
            strides=None,
            base_multiplier=0.5,
            levels=6,
            divisor=2,
        ),
        latency=change(DIGITS.latency, networks=30, batch=2),
        supernet=change(DIGITS.supernet, epochs=0.5, batch=32, warmup_epochs=0, recalibration_images=64),
        accuracy=change(DIGITS.accuracy, trainings=3, epochs=0.5, seeds=(0,)),
        search=change(DIGITS.search, budget=0.8, frontier=8, greedy_images=50),
        repair=change(DIGITS.repair, rounds=3),
        subnet=change(DIGITS.subnet, epochs=1, batch=32, warmup_epochs=0, seeds=(0,)),
        compare=CompareConfig(budgets=(0.8,), methods=('joint', 'uniform'), seeds=(0,)),
    )


def on_a_device(config: Config) -> Config:
    """Return the run with a network and a batch so large that a real device takes longer for wider ones."""
    change = dataclasses.replace
    return change(
        config,
        space=change(config.space, base_multiplier=2.0),
        latency=change(config.latency, batch=64),
        search=change(config.search, budget=0.9),
    )
