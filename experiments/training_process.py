"""A process that trains networks: a line of JSON in for each network, one out for each of its trainings.

Not called by hand: `trainers` starts it, and says the recipe and the cores in the first line.
"""

import contextlib
import json
import logging
import sys
from pathlib import Path

from experiments import kept, progress, train_subnet, trainers
from experiments.run_folder import Usage
from experiments.space import graph_of
from experiments.stage import disk_full
from experiments.training import forget_programs, load_data
from jcw.data import mapped
from jcw.latency.device import pin
from jcw.train import memory
from jcw.train.loop import Interrupted


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing that is printed may pass for an answer
    progress.console.quiet = True
    logging.getLogger('absl').setLevel(logging.ERROR)  # as of a stage
    request = json.loads(sys.stdin.readline())
    with contextlib.suppress(ValueError, OSError):
        pin(request['cores'])  # before JAX counts them
    memory.keep_freed()
    try:
        config = kept.revived(request['config'])
        images = request['images']
        dataset = load_data(config) if images is None else mapped.read(Path(images))
        graph = graph_of(config, dataset)
        for line in sys.stdin:
            job = json.loads(line)
            widths = tuple(job['widths'])
            train_subnet.make_ready(config, dataset, graph, widths)
            for seed, folder in job['folders'].items():
                trained = trainers.train(config, dataset, graph, widths, int(seed), Path(folder), 'Training')
                print(json.dumps(trained._asdict()), file=answers, flush=True)
            forget_programs()
    except Interrupted:
        print(
            json.dumps({'error': 'a training was stopped from outside, and saved'}), file=answers, flush=True
        )
    except (Usage, ValueError) as error:
        print(json.dumps({'error': str(error)}), file=answers, flush=True)
    except OSError as error:
        if not disk_full(error):
            raise
        print(json.dumps({'error': f'the disk is full: {error}'}), file=answers, flush=True)


if __name__ == '__main__':
    main()
