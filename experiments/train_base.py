"""Train the network at its base widths: what `--supernet.start` and comparisons begin with."""

from experiments import progress
from experiments.config import Config
from experiments.paths import paths
from experiments.space import graph_of
from experiments.train_subnet import train
from experiments.training import load_data


def main(config: Config) -> None:
    dataset = load_data(config)
    graph, folder = graph_of(config, dataset), paths(config).base
    result = train(config, dataset, graph, (*graph.base.tolist(),), folder, 'Training the base network')
    progress.console.print(
        f'Base network, test accuracy {result["test_accuracy"]:.1%}; to size it: --supernet.start {folder}',
        highlight=False,
    )


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'data', 'space', 'subnet', 'launch'), keep_freed=True, distributed=True)
