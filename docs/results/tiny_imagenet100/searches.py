"""Joint search and random search with as many trainings, several times over, by a run's latency table.

    python docs/results/tiny_imagenet100/searches.py RUN searches.json [--searches 4] [--lanes 48] [--steps N]

RUN is a folder of `compare_methods`: its table, its supernet, and what uniform widths and greedy slimming chose are
taken from it. Networks are not timed again, budgets hold as the table predicts. All searches go on in turn, and what
they train at a time are lanes of one program: masked networks of traced widths, `vmap` of the plain step, so that
nothing is compiled for a network. A lane begins, sees images and learns as with `train_subnet`, up to rounding;
short trainings begin with the supernet's weights where the run says so.
`--steps` ends every training early: does it run?
"""

import argparse
import functools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import fit_accuracy
from experiments.budget import at_budget, budget_ms, load_table
from experiments.command_line import parse
from experiments.limits import limits_of
from experiments.space import graph_of
from experiments.train_supernet import train as supernet_of
from experiments.training import load_data, optimiser_of
from jcw.accuracy import design
from jcw.accuracy.table import UNITS, refit
from jcw.data.batches import batch_rows
from jcw.field import add, independent, scores
from jcw.nets import axes
from jcw.nets.training import functions_of
from jcw.search import baselines, ows
from jcw.train import steps
from jcw.train.augment import Augmentation
from jcw.train.state import TrainState

CHUNK = 125  # steps of a call
SEEDS = (0, 1, 2)  # of each final training, besides ten times the search's number
CPU = jax.local_devices(backend='cpu')[0]


class Lanes:
    """Trains up to `count` networks at once, whatever their widths and seeds."""

    def __init__(self, config, dataset, graph, supernet, count, stop):
        self.config, self.dataset, self.graph, self.supernet = config, dataset, graph, supernet
        self.count, self.stop = count, stop
        settings = config.subnet
        # Products and shifts become batched products over lanes, native convolutions grouped ones.
        net = functions_of(graph, implementation='cpu')
        augmentation = Augmentation(config.data.crop_padding, config.data.flip, settings.mixup)
        recipe = steps.Recipe(dataset.mean, dataset.std, augmentation, settings.label_smoothing)
        sources = dataset.train, dataset.validation, dataset.test
        self.train, *self.held = (jax.device_put(tuple(part.take(slice(len(part))))) for part in sources)

        def chunk(optimiser, state, keys, first, number, rows, widths, images, labels):
            step = steps.plain_step(net, graph, optimiser, recipe)

            def one(index, state):
                own = jax.vmap(jax.random.fold_in, (0, None))(keys, first + index)
                return jax.vmap(step)(state, own, images[rows[index]], labels[rows[index]], widths)[0]

            return jax.lax.fori_loop(0, number, one, state)

        def evaluate(variables, widths, images, labels):
            def one(v, w):
                return steps.evaluate(net, v, w, images, labels, dataset.mean, dataset.std)[:2]

            return jax.vmap(one)(variables, widths)

        self.chunk, self.evaluate = jax.jit(chunk, static_argnums=0, donate_argnums=1), jax.jit(evaluate)

    def __call__(self, jobs, part=1.0):
        """Train (choices, seed) for a part of the epochs; return validation loss, test accuracy, test loss of each."""
        found = []
        for first in range(0, len(jobs), self.count):
            some, began = jobs[first : first + self.count], time.monotonic()
            found += self._at_once(some + some[-1:] * (self.count - len(some)), part)[: len(some)]
            print(f'{first + len(some)} of {len(jobs)}: {time.monotonic() - began:.0f} s', flush=True)
        return found

    def _at_once(self, jobs, part):
        shared, examples = self.config.subnet.batch, len(self.dataset.train)
        optimiser, number = _optimiser(self.config, examples, part)
        widths = np.stack([self.graph.to_widths(np.array(choices)) for choices, _ in jobs])
        seeds = [seed for _, seed in jobs]
        start = self._sliced if part < 1 and self.config.accuracy.from_supernet else self._drawn
        starts = [
            self._padded(start(tuple(own.tolist()), seed)) for own, seed in zip(widths, seeds, strict=True)
        ]
        variables = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *starts)
        params, stats = variables['params'], variables['batch_stats']
        state = TrainState(jnp.zeros(len(jobs), jnp.int32), params, stats, jax.vmap(optimiser.init)(params))
        keys = jnp.stack([jax.random.key(seed + 3) for seed in seeds])
        stop = number if self.stop is None else self.stop
        for first in range(0, stop, CHUNK):
            several = min(CHUNK, stop - first)
            orders = {
                s: [batch_rows(first + i, examples, shared, s) for i in range(several)] for s in {*seeds}
            }
            rows = np.zeros((CHUNK, len(jobs), shared), np.int32)
            rows[:several] = np.stack([orders[seed] for seed in seeds], 1)
            state = self.chunk(optimiser, state, keys, first, several, rows, widths, *self.train)
        validation, test = (self.evaluate(state.variables, widths, *held) for held in self.held)
        return np.stack([validation[0], test[1], test[0]], 1).tolist()

    def _drawn(self, widths, seed):
        with jax.default_device(CPU):
            return _initial(seed + 2, self.graph.fixed(widths))

    def _sliced(self, widths, seed):
        return axes.slice_variables(self.supernet.variables, self.graph, widths)

    def _padded(self, thin):
        """Return what a network begins with, zeros after it up to the largest widths."""
        whole = axes.shapes(self.graph)
        return jax.tree.map(
            lambda s, t: np.pad(t, [(0, a - b) for a, b in zip(s.shape, t.shape, strict=True)]), whole, thin
        )


@functools.lru_cache(maxsize=256)
def _initial(seed, fixed):
    return jax.device_get(axes.initial(jax.random.key(seed), fixed))


@functools.cache
def _optimiser(config, examples, part) -> tuple[optax.GradientTransformation, int]:
    settings = config.subnet
    if part < 1:
        settings = fit_accuracy.shortened(config)
    return optimiser_of(settings, examples)


class Search:
    """One joint search and one random search of as many trainings, under one budget."""

    def __init__(self, setting, number, budget, entrants):
        config, self.graph, self.table, self.before = setting
        self.number, self.budget = number, budget
        self.limit, self.cost = budget_ms(at_budget(config, budget), self.table), self.table.to_cost()
        self.within, self.whole = limits_of(config, self.graph), ows.flat(self.graph)
        self.most = config.accuracy.trainings
        self.choices, self.utility = [tuple(each) for each in entrants], []
        key = jax.random.fold_in(jax.random.key(8000), number)
        drawn = baselines.random_within(key, self.graph, self.cost, self.limit, self.most, self.within)
        self.drawn = [tuple(each) for each in drawn.tolist()]

    def solve(self, unary, limit):
        utility = add(independent(np.where(self.graph.present, unary, -np.inf)), self.whole)
        return np.asarray(self.within.solve(utility, self.cost, limit).choices)

    def fitted(self):
        return refit(self.before, np.array(self.choices[: len(self.utility)]), np.array(self.utility))

    def propose(self):
        """Add what is to be trained next."""
        known, left = np.array(self.choices), self.most - len(self.choices)
        count = min(design.EACH if self.utility else design.FIRST - len(known), left)
        if count < 1:
            return
        table = self.fitted() if self.utility else self.before
        key = jax.random.fold_in(jax.random.key(7000 + self.number), len(known))
        new = design.propose(key, table, self.solve, [self.limit], count, trained=known, last=count == left)
        self.choices += map(tuple, new.tolist())

    def winner(self):
        table = self.fitted()
        candidates = np.array([*self.choices, self.solve(table.unary(), self.limit)])
        holds = scores(self.cost, candidates.astype(np.int32)) <= self.limit * (1 + 1e-6)
        return tuple(candidates[design.winner(table, candidates, holds)].tolist())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('run', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--searches', type=int, default=4)
    parser.add_argument('--lanes', type=int, default=48)
    parser.add_argument('--steps', type=int)
    options = parser.parse_args()
    config = parse(None, args=['--run', str(options.run)])
    dataset = load_data(config)
    graph, table = graph_of(config, dataset), load_table(config)
    supernet = supernet_of(config, dataset, graph)
    before = fit_accuracy.believed(config, graph, supernet, UNITS[1])
    searches = []
    for number in range(options.searches):
        for budget in config.compare.budgets:
            chosen = [
                json.loads((options.run / f'chosen/{budget:g}/{name}.json').read_text())['widths']
                for name in ('uniform', 'greedy')
            ]
            with jax.default_device(CPU):
                searches.append(
                    Search((config, graph, table, before), number, budget, graph.to_choices(chosen).tolist())
                )
    lanes = Lanes(config, dataset, graph, supernet, options.lanes, options.steps)

    def short(jobs):
        return [-found[0] for found in lanes(jobs, config.accuracy.epochs)]

    while True:
        with jax.default_device(CPU):
            for each in searches:
                each.propose()
        jobs = [(c, each) for each in searches for c in each.choices[len(each.utility) :]]
        if not jobs:
            break
        for (_, each), utility in zip(
            jobs, short([(c, 1000 + each.number) for c, each in jobs]), strict=True
        ):
            each.utility.append(utility)
    rivals = iter(short([(c, 1000 + each.number) for each in searches for c in each.drawn]))
    rows = []
    for each in searches:
        drawn = [next(rivals) for _ in each.drawn]
        with jax.default_device(CPU):
            winners = {'joint': each.winner(), 'random': each.drawn[int(np.argmax(drawn))]}
        tried = {'joint': (each.choices, each.utility), 'random': (each.drawn, drawn)}
        for method, winner in winners.items():
            networks, utility = tried[method]
            rows.append(
                {
                    'search': each.number,
                    'budget': each.budget,
                    'method': method,
                    'candidates': graph.networks(np.array(networks)),
                    'validation_loss': [-u for u in utility],
                    'choices': winner,
                    'widths': graph.networks(np.array([winner]))[0],
                }
            )
    jobs = [(row['choices'], 10 * row['search'] + seed) for row in rows for seed in SEEDS]
    found = np.array(lanes(jobs)).reshape(len(rows), len(SEEDS), 3)
    for row, own in zip(rows, found, strict=True):
        del row['choices']
        row |= {'test_accuracy': own[:, 1].tolist(), 'test_loss': own[:, 2].tolist()}
    options.out.write_text(json.dumps(rows, indent=1))


if __name__ == '__main__':
    main()
