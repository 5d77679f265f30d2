"""Write the found network in its deployable form."""

from pathlib import Path

from experiments import progress
from experiments.budget import load_table
from experiments.config import Config
from experiments.paths import paths
from experiments.presets import parse
from experiments.space import graph_of
from experiments.train_subnet import found, timed, train
from experiments.training import load_data
from jcw import data, deploy
from jcw.graph import Graph


def export(config: Config, dataset: data.Dataset, graph: Graph, method: str = 'joint') -> Path:
    """Export a method's network, with what was predicted and measured of it."""
    result = found(config)
    chosen = timed(config, graph, {method: result['methods'][method]})[method]
    widths = chosen['widths']
    variables, accuracy = train(
        config,
        dataset,
        graph,
        widths,
        paths(config).subnet(method),
        f'Training {method}',
        config.seed + config.subnet.seeds[0],
    )
    table = load_table(config)
    return deploy.export(
        paths(config).network,
        variables,
        graph,
        widths,
        mean=dataset.mean,
        std=dataset.std,
        class_names=dataset.class_names,
        details={
            'accuracy': accuracy,
            'latency': {
                'budget_ms': result['budget_ms'],
                'predicted_ms': chosen['ms'],
                'measured_ms': chosen['measured_ms'],
                'measured_error': chosen['measured_error'],
                'repair_rounds': chosen.get('rounds', 0),
                'networks_timed': chosen.get('timed', 1),
                'holds_budget': chosen.get('holds'),
                **{k: table.provenance[k] for k in ('device', 'runtime', 'dtype', 'batch')},
            },
        },
    )


def main(config: Config) -> None:
    dataset = load_data(config)
    folder = export(config, dataset, graph_of(config, dataset))
    progress.console.print(f'Deployable network: {folder}', highlight=False)


if __name__ == '__main__':
    from experiments.run_folder import run_stage

    run_stage(main, parse(__doc__))
