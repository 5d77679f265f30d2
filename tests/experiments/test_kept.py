"""The settings of a run, kept in its folder: a later stage is told the folder and what changes, nothing else."""

import dataclasses
import json
import signal

import pytest

from experiments import kept
from experiments.command_line import parse
from experiments.config import Config, LaunchConfig
from experiments.run_folder import Usage, claim
from experiments.stage import run_stage
from jcw import records
from jcw.train.loop import Interrupted


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def nothing(config: Config) -> None:
    """Do what a stage does that has nothing to do."""


def start(*args: str, main=nothing) -> Config:
    config = parse(None, args=args)
    run_stage(main, config)
    return config


def begun(config: Config) -> None:
    (config.run / 'latency').mkdir(exist_ok=True)


def test_a_later_stage_needs_the_folder_alone():
    first = start('cifar10', '--run', 'mine', '--latency.batch', '1', '--space.strides', '1', '2', main=begun)
    assert (first.latency.batch, first.space.strides) == (1, (1, 2))
    assert parse(None, args=['--run', 'mine']) == first
    assert parse(None, args=['cifar10', '--run=mine']) == first


def test_what_is_given_wins_and_is_kept_for_the_stages_to_come():
    start('digits', '--run', 'mine', main=begun)
    assert start('--run', 'mine', '--search.budget', '0.5').search.budget == 0.5
    assert parse(None, args=['--run', 'mine']).search.budget == 0.5


def test_a_fraction_takes_the_place_of_milliseconds_that_were_kept():
    start('digits', '--run', 'mine', '--search.budget-ms', '3.5', main=begun)
    assert parse(None, args=['--run', 'mine', '--search.budget', '0.4']).search.budget_ms is None
    assert parse(None, args=['--run', 'mine', '--search.greedy-images', '9']).search.budget_ms == 3.5
    for given in (['--search.budget-ms', '2'], ['--search.budget_ms=2']):
        with pytest.raises(SystemExit, match='one of them'):
            start('--run', 'mine', '--search.budget', '0.4', *given)


def test_a_change_that_contradicts_results_is_refused_by_name_and_not_kept(capsys):
    def stage(config):
        folder = claim(config.run / 'supernet', supernet=config.supernet)
        (folder / 'result.json').touch()

    start('digits', '--run', 'mine', main=stage)
    with pytest.raises(SystemExit):
        start('--run', 'mine', '--supernet.epochs', '3', main=stage)
    assert 'supernet.epochs was 16, now 3.0' in capsys.readouterr().err
    start('--run', 'mine', main=stage)


def test_attempts_command_and_time_limit_may_change_and_the_batch_may_not(tmp_path):
    latency = Config().latency
    folder = claim(tmp_path / 'latency', latency=latency)
    (folder / 'samples.jsonl').touch()
    changed = dataclasses.replace(
        latency, attempts=9, command='other', time_limit=5.0, networks=7, niceness=-5
    )
    claim(folder, latency=changed)
    with pytest.raises(Usage, match=r'latency.batch was 8, now 2. Give another --run'):
        claim(folder, latency=dataclasses.replace(changed, batch=2))


def test_a_stage_refuses_what_contradicts_the_timing_that_it_does_not_look_at():
    def timed(config):
        begun(config)
        (config.run / 'latency' / 'samples.jsonl').touch()

    start('digits', '--run', 'mine', main=timed)
    with pytest.raises(
        SystemExit, match=r'mine/latency holds results of .*: latency.batch was 32, now 2. Give'
    ):
        start('--run', 'mine', '--latency.batch', '2')
    assert start('--run', 'mine', '--latency.attempts', '7').latency.attempts == 7


def test_a_folder_without_results_takes_other_settings(tmp_path):
    latency = Config().latency
    claim(tmp_path / 'latency', latency=latency)
    claim(tmp_path / 'latency', latency=dataclasses.replace(latency, batch=2))
    (tmp_path / 'latency' / 'samples.jsonl').touch()
    with pytest.raises(Usage, match='batch was 2, now 8'):
        claim(tmp_path / 'latency', latency=latency)


def test_another_preset_is_refused():
    start('digits', '--run', 'mine', main=begun)
    with pytest.raises(SystemExit, match=r"mine was begun with the preset 'digits', not 'cifar10'"):
        parse(None, args=['cifar10', '--run', 'mine'])


def test_a_first_start_that_is_refused_leaves_nothing_and_one_that_began_leaves_its_settings():
    def refused(config):
        raise Usage('wrong')

    def refused_late(config):
        begun(config)
        raise Usage('wrong')

    with pytest.raises(SystemExit):
        start('cifar10', '--run', 'mine', main=refused)
    with pytest.raises(SystemExit, match='mine holds no run yet'):
        parse(None, args=['--run', 'mine'])
    with pytest.raises(SystemExit):
        start('cifar10', '--run', 'mine', main=refused_late)
    assert parse(None, args=['--run', 'mine']).preset == 'cifar10'


def test_a_folder_of_the_users_keeps_its_files_when_a_start_is_refused(tmp_path):
    def refused(config):
        raise Usage('wrong')

    (tmp_path / 'photo.png').write_text('a picture')
    with pytest.raises(SystemExit):
        start('digits', '--run', '.', main=refused)
    assert [path.name for path in tmp_path.iterdir()] == ['photo.png']


def test_how_a_process_was_launched_is_not_kept():
    config = dataclasses.replace(parse(None, args=['digits', '--run', 'mine']), launch=LaunchConfig(keep=7))
    assert kept.begin(config)
    assert parse(None, args=['--run', 'mine']).launch == LaunchConfig()


def test_a_file_as_a_run_is_one_line(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match='Usage: --run file is a file: give the folder of a run'):
        parse(None, args=['digits', '--run', 'file'])


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda text: text.replace('digits', 'cifar10'), 'its checksum differs'),
        (lambda text: text[: len(text) // 2], 'is damaged'),
        (lambda text: json.dumps(records.summed({'surplus': 1})), 'this version has no setting surplus'),
        (lambda text: '[1]', 'it is a list, not an object'),
    ],
)
def test_damaged_settings_are_named(tmp_path, damage, message):
    start('digits', '--run', 'mine', main=begun)
    path = tmp_path / 'mine' / 'run.json'
    path.write_text(damage(path.read_text()))
    with pytest.raises(SystemExit, match=r'Usage: mine/run.json is damaged') as ended:
        parse(None, args=['--run', 'mine'])
    assert message in str(ended.value)


@pytest.mark.parametrize(('end', 'status'), [(KeyboardInterrupt(), 130), (Interrupted('saved'), 0)])
def test_an_interrupted_start_is_one_line_and_keeps_its_settings(capsys, end, status):
    def main(config):
        begun(config)
        raise end

    with pytest.raises(SystemExit) as ended:
        start('digits', '--run', 'mine', '--search.budget', '0.7', main=main)
    assert ended.value.code == status
    assert capsys.readouterr().err.count('\n') == 1
    assert parse(None, args=['--run', 'mine']).search.budget == 0.7


def test_ctrl_c_says_that_the_same_command_goes_on(capsys):
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where tests run in the background
    with pytest.raises(SystemExit):
        start('digits', '--run', 'mine', main=lambda config: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == 'Stopped by Ctrl-C; the same command goes on where it was.\n'


def test_a_folder_that_cannot_be_written_is_one_line(capsys, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'latency').touch()
    with pytest.raises(SystemExit):
        start('digits', '--run', 'mine', main=lambda config: (config.run / 'latency' / 'x').write_text('x'))
    assert capsys.readouterr().err == 'mine/latency/x cannot be read or written: Not a directory\n'
