"""Where the largest network's time goes, from a profile: by kind of work, and after each site.

Every instant is shared evenly between the instructions that run in it. Each instruction belongs to the operation that
its name in the program says; one fused of several has the name of its last.
"""

import collections
import contextlib
import gzip
import json
import re
import tempfile
from pathlib import Path
from unittest import mock

import jax

from jcw.graph import NORMALISED
from jcw.nets.segments import begins_of, halves_of, site_segments
from jcw.nets.training import Forms

PARTS = ('convolutions and products', 'depthwise', 'normalisation', 'rest')


@contextlib.contextmanager
def named_operations():
    """Have programs that are traced here name their operations: `PLACE.linear`, and `PLACE.finish` for normalising."""
    linear, finish = Forms.linear, Forms.finish

    def named_linear(forms, op, own, *reads):
        with jax.named_scope(f'op{forms.graph.operations.index(op)}.linear'):
            return linear(forms, op, own, *reads)

    def named_finish(forms, place, x, normalise):
        with jax.named_scope(f'op{place}.finish'):
            return finish(forms, place, x, normalise)

    with mock.patch.multiple(Forms, linear=named_linear, finish=named_finish):
        yield


def of_time(graph, step, text, calls=5):
    """Return each part's share of a step's time, and the mean over sites of the share after their segment's begin."""
    names = dict(
        re.findall(r'^\s+(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', text[text.index('ENTRY') :], re.M)
    )
    spent = _divide(_events(step, calls), {name: _owner(path) for name, path in names.items()})
    total = sum(spent.values())
    if not total:
        return {}, float('nan')
    shares = dict.fromkeys(PARTS, 0.0)
    for owner, time in spent.items():
        shares[_part(graph, owner)] += time / total
    return shares, _after_sites(graph, spent) / total


def _events(step, calls):
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                step()
        (path,) = Path(folder).rglob('*.trace.json.gz')
        with gzip.open(path) as file:
            return json.load(file)['traceEvents']


def _divide(events, owners):
    """Return the time of each owner, an instant shared between those who run in it."""
    marks = []
    for event in events:
        name = event.get('args', {}).get('hlo_op')
        if event.get('ph') == 'X' and name in owners:
            marks += [(event['ts'], 1, owners[name]), (event['ts'] + event['dur'], -1, owners[name])]
    running, spent = collections.Counter(), collections.Counter()
    previous = 0.0
    for at, change, owner in sorted(marks, key=lambda mark: mark[:2]):
        active = sum(running.values())
        for each, count in running.items() if active else ():
            spent[each] += (at - previous) * count / active
        running[owner] += change
        previous = at
    return spent


def _owner(path):
    """Return (place, stage) of the operation that an instruction's name ends with; none for what is outside of all."""
    found = re.findall(r'op(\d+)\.(linear|finish)', path)
    return (int(found[-1][0]), found[-1][1]) if found else None


def _part(graph, owner):
    if owner is None:
        return PARTS[3]
    kind, stage = graph.operations[owner[0]].kind, owner[1]
    if stage == 'finish':
        return PARTS[2] if kind in NORMALISED else PARTS[3]
    return PARTS[1] if kind == 'depthwise' else PARTS[0] if kind in ('conv', 'dense') else PARTS[3]


def _after_sites(graph, spent):
    """Return the mean over sites of the time of all halves from the begin of the site's segment on, and of the rest."""
    halves = halves_of(graph)
    begins = begins_of(graph, halves)
    place_of = {(half.place, half.part): index for index, half in enumerate(halves)}

    def index(owner):
        if owner is None:
            return len(halves)
        return place_of.get(owner, place_of.get((owner[0], 'whole'), len(halves)))

    entries = [begins[segment] for segment in site_segments(graph, halves, begins)]
    after = [sum(time for owner, time in spent.items() if index(owner) >= entry) for entry in entries]
    return sum(after) / len(after)
