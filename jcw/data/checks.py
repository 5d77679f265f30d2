"""What is wrong with a set before anything is trained on it: classes of few images, and test images trained on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jcw.data.examples import Dataset, Examples, Source
from jcw.data.streaming import Streamed

PARTS = ('training', 'validation', 'test')
LEAST = (10, 3, 3)
"""Images of a class below which a part of the set tells little of it."""


class Check(NamedTuple):
    """What was found."""

    counts: Int[np.ndarray, 'parts classes'] | None  # None where labels are known only when images are read
    repeated: tuple[
        tuple[str, str], ...
    ]  # test images, and the training or validation image that each equals
    looked: bool  # whether equal images were looked for


def check(dataset: Dataset) -> Check:
    """Count the images of every class, and look for test images that are trained on.

    Images in memory are compared as they were decoded, files to be decoded later byte by byte; a prepared set that is
    streamed is not looked through.
    """
    parts = (dataset.train, dataset.validation, dataset.test)
    labels = [part.labels for part in parts if isinstance(part, Examples | Streamed)]
    known_labels = [each for each in labels if each is not None]
    counts = None
    if len(known_labels) == len(parts):
        counts = np.array([np.bincount(each, minlength=dataset.num_classes) for each in known_labels])
    contents = [_digests(part, dataset.files[i : i + 1]) for i, part in enumerate(parts)]
    if any(each is None for each in contents):
        return Check(counts, (), False)
    known: dict[bytes, str] = {}
    for i in (0, 1):
        for row, content in enumerate(contents[i] or ()):
            known.setdefault(content, _name(dataset, i, row))
    found = [
        (_name(dataset, 2, row), known[content])
        for row, content in enumerate(contents[2] or ())
        if content in known
    ]
    return Check(counts, tuple(found), True)


def warnings_of(found: Check, dataset: Dataset) -> list[str]:
    """Say what should be mended first, a sentence each."""
    said = []
    if dataset.num_classes == 1:
        said.append(f'only one class, {dataset.class_names[0]}: every network is right about all images')
    for part, least, counts in zip(PARTS, LEAST, () if found.counts is None else found.counts, strict=False):
        if none := [name for name, count in zip(dataset.class_names, counts, strict=True) if count == 0]:
            said.append(f'no {part} image of {_some(none)}')
        few = [
            f'{name} ({count})'
            for name, count in zip(dataset.class_names, counts, strict=True)
            if 0 < count < least
        ]
        if few:
            advice = ' (--data.validation sets more aside)' if part == 'validation' else ''
            said.append(f'fewer than {least} {part} images of {_some(few)}{advice}')
    if found.repeated:
        pairs = [f'{test} is {train}' for test, train in found.repeated]
        said.append(
            f'{len(pairs)} of {len(dataset.test)} test images are trained on, so that test accuracy says too much: '
            f'{_some(pairs)}'
        )
    return said


def _digests(source: Source, files: Sequence[Sequence[Path]]) -> list[bytes] | None:
    if isinstance(source, Examples):
        return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in source.images]
    if files:
        return [hashlib.blake2b(path.read_bytes(), digest_size=16).digest() for path in files[0]]
    return None


def _name(dataset: Dataset, part: int, row: int) -> str:
    return str(dataset.files[part][row]) if dataset.files else f'image {row} of {PARTS[part]}'


def _some(each: Sequence[str], most: int = 3) -> str:
    return ', '.join(each[:most]) + (f' and {len(each) - most} more' if len(each) > most else '')
