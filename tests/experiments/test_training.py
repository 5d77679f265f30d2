"""What the trainings share."""

import dataclasses
import sys
import threading

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments import subnet_loss, train_subnet, training
from experiments.config import SubnetConfig
from experiments.presets import DIGITS
from experiments.subnet_loss import SubnetLoss, compiled_meanwhile
from jcw.nets.training import functions_of
from jcw.train.state import init_state
from tests.compiled import compilations
from tests.tiny_graph import chain


def test_forgotten_programs_are_let_go():
    def loaded() -> int:
        return len(jax.devices()[0].client.live_executables())

    def compile_some(first: int) -> None:
        for number in range(first, first + 8):
            jax.jit(lambda x, n=number: jnp.sin(x) @ jnp.cos(x + n))(jnp.arange(9.0 + number))

    compile_some(0)
    training.forget_programs()
    before = loaded()
    compile_some(100)
    assert loaded() == before + 8
    training.forget_programs()
    assert loaded() == before


def test_while_a_network_is_worked_on_the_next_is_made_ready():
    ready: list[str] = []
    started = {name: threading.Event() for name in 'abc'}

    def make_ready(name: str) -> None:
        started[name].set()
        ready.append(name)

    for name, following in zip(training.one_ahead('abc', make_ready), 'bc ', strict=True):
        assert name in ('a', *ready)
        if following != ' ':
            assert started[following].wait(10)  # while `name` is still worked on
        assert not any(each.is_set() for other, each in started.items() if other > max(name, following))
    assert ready == ['b', 'c']


@pytest.mark.parametrize(('share', 'expected'), [(0.0, 3), (0.5, 48)])
def test_programs_are_let_go_of_after_a_number_of_networks_whatever_the_calls(monkeypatch, share, expected):
    """Rounds of candidates are short: none of them alone has so many networks."""
    forgotten = []
    forget = training.forget_programs
    monkeypatch.setattr(training, 'mapped', lambda: share)
    monkeypatch.setattr(training, 'forget_programs', lambda: (forgotten.append(1), forget()))
    forget()
    for _ in range(training.PROGRAMS + 1):
        assert [*training.one_ahead('abc', lambda name: None)] == ['a', 'b', 'c']
    assert len(forgotten) >= expected


def test_the_share_of_memory_in_pieces_rises_with_programs():
    before = training.mapped()
    kept = [
        jax.jit(lambda x, n=n: jnp.sin(x) @ jnp.cos(x + n)).lower(jnp.arange(7.0)).compile() for n in range(8)
    ]
    if sys.platform == 'linux':
        assert 0 < before < training.mapped() < 1
    else:
        assert training.mapped() == 0
    assert len(kept) == 8


def test_what_cannot_be_made_ready_fails_when_it_is_used():
    def refuse(name: str) -> None:
        raise ValueError(name)

    assert list(training.one_ahead(['a', 'b'], refuse)) == ['a', 'b']


def test_a_network_made_ready_compiles_nothing_when_it_is_trained(tmp_path):
    recipe = SubnetConfig(epochs=0.1, batch=64, warmup_epochs=0)
    config = dataclasses.replace(DIGITS, run=tmp_path, subnet=recipe)
    dataset = training.load_data(config)
    graph = chain([('conv', 8, 3, 2), ('separable', 8, 3, 2)], (8, 8, 1), 10, levels=3, divisor=4)

    def compiled(*widths: int) -> int:
        with compilations() as found:
            train_subnet.train(config, dataset, graph, widths, tmp_path / str(widths), 'Training')
        return len(found)

    compiled(8, 8)  # and whatever is needed once
    cold = compiled(8, 12)
    train_subnet.make_ready(config, dataset, graph, (12, 8))
    assert compiled(12, 8) == 0 < cold


def test_what_measures_subnets_is_compiled_beside_training_and_no_more_after_it(tmp_path):
    """Without images: a set may be larger than what memory has to spare beside a training."""
    config = dataclasses.replace(DIGITS, run=tmp_path)
    dataset = training.load_data(config)
    graph = chain([('conv', 8, 3, 2), ('separable', 8, 3, 2)], (8, 8, 1), 10, levels=3, divisor=4)
    variables = jax.device_get(init_state(jax.random.key(0), functions_of(graph), optax.sgd(0.1)).variables)
    loss = SubnetLoss(config, dataset, graph, variables, 100)  # and whatever is needed once
    with compiled_meanwhile(config, dataset, graph, 100):
        pass
    with compilations() as found:
        measured = [loss(widths) for widths in (graph.largest, graph.smallest)]
    assert not found
    assert measured[0].loss != measured[1].loss


def test_what_measures_subnets_need_not_compile_beside_training(tmp_path, monkeypatch):
    config = dataclasses.replace(DIGITS, run=tmp_path)
    monkeypatch.setattr(subnet_loss, '_program', lambda *_: 1 / 0)
    with compiled_meanwhile(
        config, training.load_data(config), chain([('conv', 8, 3, 2)], (8, 8, 1), 10), 100
    ):
        pass
