"""A process that trains networks: a line of JSON in for each network, one out for each of its trainings.

Not called by hand: `trainers` starts it, and says the recipe and the cores in the first line. At the end of its input
it saves what it is at, and ends.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from experiments import kept, progress, train_subnet, trainers, training
from experiments.run_folder import Usage
from experiments.stage import disk_full
from jcw.data import mapped
from jcw.graph import Graph
from jcw.latency.device import pin
from jcw.train import memory
from jcw.train.loop import Interrupted

Lines = queue.SimpleQueue[str]


def main() -> None:
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # nothing that is printed, by whatever, may pass for an answer
    progress.console.quiet = True
    logging.getLogger('absl').setLevel(logging.ERROR)  # as of a stage
    lines, ended = Lines(), threading.Event()
    threading.Thread(target=_listen, args=(lines, ended), daemon=True).start()

    def answer(words: dict) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
            print(json.dumps(words), file=answers, flush=True)

    try:
        for trained in _trainings(lines, ended):
            answer(trained._asdict())
    except Interrupted:
        answer({'error': 'a training was stopped from outside, and saved'})
    except (Usage, ValueError) as error:
        answer({'error': str(error)})
    except OSError as error:
        if not disk_full(error):
            raise
        answer({'error': f'the disk is full: {error}'})


def _listen(lines: Lines, ended: threading.Event) -> None:
    """Pass lines on; at their end, whoever wanted this process has ended, or wants no more."""
    for line in sys.stdin:
        lines.put(line)
    ended.set()
    lines.put('')
    os.kill(os.getpid(), signal.SIGTERM)


def _trainings(lines: Lines, ended: threading.Event) -> Iterator[trainers.Trained]:
    """Train what lines ask for, until they end."""
    request = json.loads(lines.get() or '{}')
    with contextlib.suppress(ValueError, OSError):
        pin(request['cores'])  # before JAX counts them
    memory.keep_freed()
    config, graph, images = (
        kept.revived(request['config']),
        Graph.from_json(request['graph']),
        request['images'],
    )
    dataset = training.load_data(config) if images is None else mapped.read(Path(images))
    number = 0
    while line := lines.get():
        job = json.loads(line)
        widths = tuple(job['widths'])
        train_subnet.make_ready(config, dataset, graph, widths)
        for seed, folder in job['folders'].items():
            if ended.is_set():
                return
            yield trainers.train(config, dataset, graph, widths, int(seed), Path(folder), 'Training')
        number += 1
        if number % training.PROGRAMS == 0 or training.mapped() > training.MAPPED:
            training.forget_programs()


if __name__ == '__main__':
    main()
