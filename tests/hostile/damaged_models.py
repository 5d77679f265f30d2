"""Run damaged LiteRT models one after another; a program: `damaged_models.py MODEL FIRST COUNT`.

It says of each what came of it; the interpreter may end the process, and then the next one goes on after that model.
"""

import os
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    os.environ['JAX_PLATFORMS'] = 'cpu'

import numpy as np

from jcw.deploy import litert_logits, tflite
from tests.hostile import attacks

HEAD = 6000  # bytes in which most of what refers to other bytes lies


def damaged(whole: bytes, number: int) -> bytes:
    """Return the model with damage of its own number: a bit, a part, or a few bytes of its beginning."""
    rng = np.random.default_rng(number)
    if number % 3 < 2:
        return (attacks.flipped, attacks.damaged)[number % 3](whole, rng)
    changed = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        changed[rng.integers(min(len(whole), HEAD))] = rng.integers(256)
    return bytes(changed)


def main(model: str, first: str, count: str) -> None:
    whole = Path(model).read_bytes()
    images = np.random.default_rng(0).integers(0, 256, (2, *tflite.ends(whole)[0].shape[1:]), np.uint8)
    expected = litert_logits(whole, images)
    for number in range(int(first), int(count)):
        print(number, end=' ', flush=True)
        try:
            found = litert_logits(damaged(whole, number), images)
        except ValueError:
            print('refused', flush=True)
            continue
        print('the same logits' if np.array_equal(found, expected) else 'other logits', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
