"""How long a large file of latency samples takes to read and join, and how much memory."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jcw.graph import Graph
from jcw.latency import lines, samples
from jcw.latency.samples import Header

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = 1000


def report(graph: Graph, count: int, folder: Path) -> None:
    """Print a table: `count` lines as short as they can be, and a tenth as many of the length that the stages write."""
    folder.mkdir(parents=True, exist_ok=True)
    print('| lines | of each, visits x calls | file, MB | read and joined, s of one core | memory, MB |')
    print('|---:|---:|---:|---:|---:|')
    for number, visits, calls in ((count, 1, 2), (count // 10, 5, 10)):
        path = folder / f'{visits}x{calls}.jsonl'
        write(path, graph, number, visits, calls)
        size = path.stat().st_size / 1e6
        command = [sys.executable, '-m', 'scripts.bench.joining', str(path)]
        read = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        print(f'| {number:,} | {visits}x{calls} | {size:.0f} | {read.stdout.strip()} |', flush=True)
        path.unlink()


def write(path: Path, graph: Graph, count: int, visits: int, calls: int) -> None:
    """Write timings of `NETWORKS` networks by turns, drawn at random, a file as `samples` appends them line by line."""
    rng = np.random.default_rng(0)
    choices = (rng.random((NETWORKS, graph.num_sites)) * graph.num_choices).astype(np.int32)
    widths = graph.to_widths(graph.settled(choices)).tolist()
    path.unlink(missing_ok=True)
    samples.create(path, Header(graph, 'paper', 'drawn', 'float32', 1, tuple(graph.base.tolist()), 2.0))
    with path.open('ab') as file:
        for number in range(count):
            times = np.exp(0.01 * rng.standard_normal((2, visits, calls))).round(6)
            about = {'ms': 1.0, 'error': 0.01, 'calls_ms': times[0].tolist(), 'opening_s': 0.1}
            record = {'widths': widths[number % NETWORKS], **about, 'reference_ms': times[1].tolist()}
            file.write(lines.write(record))


def read(path: Path) -> str:
    """Read a file, and return the processor's seconds, and the megabytes that this process has grown by at most."""
    before, start = _peak(), time.process_time()
    held = samples.read(path)
    seconds, grown = time.process_time() - start, _peak() - before
    if len(held.samples) > NETWORKS:
        raise SystemExit(f'{len(held.samples)} networks instead of {NETWORKS} at most')
    return f'{seconds:.1f} | {grown:.0f}'


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == '__main__':
    print(read(Path(sys.argv[1])))
