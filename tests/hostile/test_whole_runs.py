"""Files of a finished run, damaged in turn: a stage ends as before, or in a line that names the file."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from experiments import (
    compare_methods,
    export,
    fit_accuracy,
    fit_latency,
    measure_latency,
    repair_widths,
    results,
    search_widths,
    stage,
    train_supernet,
    training,
)
from experiments.config import Config
from experiments.space import graph_of
from jcw import records
from jcw.latency.table import flops_table
from tests.experiments.paper_device import PaperDevice
from tests.hostile import attacks
from tests.own_network import small_run

pytestmark = pytest.mark.slow

STAGES = (
    *(measure_latency, fit_latency, train_supernet, fit_accuracy, search_widths, repair_widths),
    *(results, export, compare_methods),
)
RESULTS = (
    'results.json',
    'search/0.8/repair/result.json',
    'chosen/0.8/joint.json',
    'comparison/results.json',
)
REMADE = {
    fit_accuracy: 'accuracy/0.8/table.json',
    search_widths: 'search/0.8/result.json',
    repair_widths: 'search/0.8/repair/result.json',
    compare_methods: 'chosen/0.8/joint.json',
}
"""Without what it has made, a stage reads again what it makes it from."""
REMAKING = [(STAGES.index(each), True) for each in REMADE]
SECONDS = 60


class Whole(NamedTuple):
    """A finished run, and what its stages read of it: (stage, whether it had to make anew, file)."""

    config: Config
    reads: list[tuple[int, bool, str]]


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> Iterator[Whole]:
    config, read = small_run(tmp_path_factory.mktemp('whole')), set()
    graph = graph_of(config, training.load_data(config))
    table = flops_table(graph)
    looked = records.refuse_other_than_file

    def noted(path):
        if Path(path).is_file() and Path(path).is_relative_to(config.run):
            read.add(str(Path(path).relative_to(config.run)))
        looked(path)

    with pytest.MonkeyPatch.context() as patch:
        PaperDevice(graph, dataclasses.replace(table, entries=table.entries / 1e5), 1.02).install(patch)
        for each in STAGES:
            assert told(each.main, config) == ''
        patch.setattr(records, 'refuse_other_than_file', noted)
        reads = []
        for number, anew in [*((number, False) for number in range(len(STAGES))), *REMAKING]:
            if anew:
                (config.run / REMADE[STAGES[number]]).unlink()
            read.clear()
            assert told(STAGES[number].main, config) == ''
            made = REMADE[STAGES[number]] if anew else None
            reads += [(number, anew, name) for name in sorted(read) if is_ours(name) and name != made]
        patch.setattr(records, 'refuse_other_than_file', looked)
        yield Whole(config, reads)


def is_ours(name: str) -> bool:
    """Leave out what other tests attack, and locks."""
    apart = ('checkpoints', 'network', 'samples.jsonl', 'candidates.jsonl', 'finals.jsonl', 'metrics.jsonl')
    return Path(name).suffix in ('.json', '.jsonl') and not any(part in name for part in apart)


class Hangs(BaseException):
    """Not caught by any stage."""


def told(main: Callable[[Config], None], config: Config) -> str:
    """Run a stage; return the line that it ends with, nothing where it ends well."""

    def too_long(*_):
        raise Hangs

    errors = io.StringIO()
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS if (config.run / 'results.json').exists() else 0)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            stage.run_stage(main, config)
    except SystemExit:
        return errors.getvalue()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return ''


def damages(whole: dict[str, bytes], rng: np.random.Generator) -> dict[str, Callable[[Path], object]]:
    """Return what may happen to a file; `whole` are all files of the run."""

    def another(path: Path) -> None:
        others = [content for name, content in whole.items() if Path(name).name != path.name]
        path.write_bytes(others[rng.integers(len(others))])

    return {
        'a flipped bit': lambda path: path.write_bytes(attacks.flipped(path.read_bytes(), rng)),
        'damage': lambda path: path.write_bytes(attacks.damaged(path.read_bytes(), rng)),
        'nothing': lambda path: path.write_bytes(b''),
        'null': lambda path: path.write_bytes(b'null\n'),
        'a list': lambda path: path.write_bytes(b'[]\n'),
        'an empty object': lambda path: path.write_text(json.dumps(records.summed({})) + '\n'),
        'another file of the run': another,
        'a pipe': lambda path: (path.unlink(), os.mkfifo(path)),
        'a folder': lambda path: (path.unlink(), path.mkdir()),
        'a device': lambda path: (path.unlink(), path.symlink_to('/dev/zero')),
        'no text': lambda path: path.write_bytes(b'\xff\xfe\x00' + path.read_bytes()),
        'deep nesting': lambda path: path.write_bytes(b'[' * 10**5),
    }


def values_of(run: Path) -> dict[str, bytes]:
    """Return what the results come to, where they are."""
    return {name: (run / name).read_bytes() for name in RESULTS if (run / name).exists()}


def test_a_stage_reads_what_was_written_or_names_the_file(whole, tmp_path):
    run, rng, outcomes = whole.config.run, np.random.default_rng(0), {}
    kept = shutil.copytree(run, tmp_path / 'kept')
    contents = {name: (kept / name).read_bytes() for _, _, name in whole.reads}
    expected, kinds = values_of(kept), damages(contents, rng)
    cases = [(*read, kind) for read in whole.reads for kind in rng.permutation(list(kinds))[:3]]
    for number, anew, name, kind in cases:
        shutil.rmtree(run)
        shutil.copytree(kept, run)
        if anew:
            (run / REMADE[STAGES[number]]).unlink()
        kinds[kind](run / name)
        said = told(STAGES[number].main, whole.config)
        case = f'{name}, {kind}, {STAGES[number].__name__}'
        place = run / name if Path(name).name != 'settings.json' else (run / name).parent
        assert not said or str(place) in said, f'{case}: {said}'
        found = values_of(run) if not said else {}
        assert all(expected[each] == value for each, value in found.items() if each != name), case
        outcome = 'refused' if said else 'as before'
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f'{sum(outcomes.values())} attacks on {len(contents)} files of a run: {outcomes}')
    assert {'accuracy/0.8/asked.json', 'accuracy/0.8/report.json', 'supernet/losses_50.jsonl'} <= set(
        contents
    )
    assert outcomes['refused'] > 0.8 * sum(outcomes.values())
