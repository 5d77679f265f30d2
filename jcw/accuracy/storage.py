"""Accuracy tables on disk: readable JSON, checked field by field on reading."""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jcw import records
from jcw.accuracy import model
from jcw.accuracy.fit import Evidence
from jcw.accuracy.model import Strengths
from jcw.accuracy.prior import Prior

if TYPE_CHECKING:
    from jcw.accuracy.table import AccuracyTable

FORMAT = 'jcw accuracy table'
VERSION = 1
KEYS = {
    'format', 'version', 'unit', 'provenance', 'sites', 'widths', 'prior', 'strength', 'evidence', 'mode', 'columns',
    'effects', 'checksum',
}  # fmt: skip


def save(table: 'AccuracyTable', path: str | Path) -> None:
    """Write a table; the lines of effects are for the reader, the rest is what they follow from."""
    effects, deviations = table.effects, table.deviations
    value = {
        'format': FORMAT,
        'version': VERSION,
        'unit': table.unit,
        'provenance': dict(table.provenance),
        'sites': list(table.sites),
        'widths': [list(site) for site in table.widths],
        'prior': {name: part.tolist() for name, part in table.prior._asdict().items()},
        'strength': {name: float(part) for name, part in table.strength._asdict().items()},
        'evidence': {
            'choices': table.evidence.choices.tolist(),
            'utility': table.evidence.utility.tolist(),
            'counts': table.evidence.counts.tolist(),
            'squares': table.evidence.squares,
            'freedom': table.evidence.freedom,
        },
        'mode': table.mode.tolist(),
        'columns': ['site', 'width', 'effect', 'deviation'],
        'effects': [
            [name, width, float(effects[site, choice]), float(deviations[site, choice])]
            for site, name in enumerate(table.sites)
            for choice, width in enumerate(table.widths[site])
        ],
    }
    value['checksum'] = checksum(value)
    rows = ',\n'.join(json.dumps(row, allow_nan=False) for row in value.pop('effects'))
    head = json.dumps(value, allow_nan=False)[:-1]
    records.write(path, f'{head},\n"effects": [\n{rows}\n]}}\n')


def load(path: str | Path) -> dict[str, Any]:
    """Read and check what `save` wrote; return the fields of a table.

    Raises:
      ValueError: see `AccuracyTable.load`.
    """
    try:
        value = records.parse(records.read(path))
    except ValueError as error:
        raise ValueError(f'{path} is not JSON: {error}') from None
    if not isinstance(value, dict) or value.get('format') != FORMAT or value.get('version') != VERSION:
        raise ValueError(f'{path} is not an accuracy table of version {VERSION}')
    if set(value) != KEYS:
        raise ValueError(f'{path}: keys missing or unknown: {sorted(set(value) ^ KEYS)}')
    if value['checksum'] != checksum({name: part for name, part in value.items() if name != 'checksum'}):
        raise ValueError(f'{path} was changed or damaged: its checksum does not fit; fit the table again')
    try:
        return _fields(value)
    except (KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        raise ValueError(f'{path}: not the fields of an accuracy table: {error!r}') from None
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


def checksum(value: Mapping[str, Any]) -> str:
    """Return the CRC-32 of a record's sorted JSON, eight hexadecimal digits."""
    return f'{zlib.crc32(json.dumps(value, sort_keys=True, allow_nan=False).encode()):08x}'


def _fields(value: Mapping[str, Any]) -> dict[str, Any]:
    sites, widths = tuple(value['sites']), tuple(tuple(int(w) for w in site) for site in value['widths'])
    shape = (len(sites), max(map(len, widths)))
    if len(widths) != len(sites) or not all(isinstance(name, str) for name in sites):
        raise ValueError(f'{len(sites)} names of sites but widths of {len(widths)}')
    part = value['prior']
    prior = Prior(
        curves=_numbers(part, 'curves', shape),
        present=np.array(part['present'], bool),
        looseness=_numbers(part, 'looseness', shape, lambda x: x >= 0),
        spans=_numbers(part, 'spans', shape[:1], lambda x: x > 0),
        supernet=_numbers(part, 'supernet', shape[:1]),
        heard=np.array(part['heard'], bool),
    )
    if prior.heard.shape != shape[:1]:
        raise ValueError(f'heard has shape {prior.heard.shape}, expected {shape[:1]}')
    if not np.array_equal(prior.present, np.arange(shape[1]) < np.array([[len(site)] for site in widths])):
        raise ValueError('the prior is of other widths')
    strength = Strengths(*(float(_numbers(value['strength'], name, ())) for name in Strengths._fields))
    if not (min(strength.noise, strength.spread, strength.deviation) > 0 and 0 <= strength.own < 1):
        raise ValueError(f'strengths must be positive, own below 1: {strength}')
    part = value['evidence']
    count = len(part['utility'])
    choices = _numbers(part, 'choices', (count, len(sites)), lambda x: (x >= 0) & (x < shape[1])).astype(
        np.int64
    )
    if not prior.present[np.arange(len(sites)), choices].all():
        raise ValueError('a trained network has a choice that its site does not have')
    evidence = Evidence(
        choices=choices,
        utility=_numbers(part, 'utility', (count,)),
        counts=_numbers(part, 'counts', (count,), lambda x: x >= 1),
        squares=float(_numbers(part, 'squares', (), lambda x: x >= 0)),
        freedom=int(_numbers(part, 'freedom', (), lambda x: x >= 0)),
    )
    mode = _numbers(value, 'mode', (model.num_parameters(prior),))
    provenance, unit = dict(value['provenance']), str(value['unit'])
    return {
        'sites': sites, 'widths': widths, 'prior': prior, 'evidence': evidence, 'strength': strength, 'mode': mode,
        'unit': unit, 'provenance': provenance,
    }  # fmt: skip


def _numbers(
    record: Mapping[str, Any],
    name: str,
    shape: tuple[int, ...],
    holds: Callable[[np.ndarray], Any] = lambda x: np.ones(x.shape, bool),
) -> np.ndarray:
    array = (
        np.array(record[name], np.float64).reshape(shape)
        if 0 in shape
        else np.array(record[name], np.float64)
    )
    if array.shape != shape:
        raise ValueError(f'{name} has shape {array.shape}, expected {shape}')
    if not np.isfinite(array).all() or not np.all(holds(array)):
        raise ValueError(f'{name} has numbers that are not finite or out of range')
    return array
