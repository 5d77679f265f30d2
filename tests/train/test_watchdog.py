"""The watchdog, in a process that it may end."""

import subprocess
import sys

from jcw.train import watchdog


def outcome(code):
    """Run a program with a watchdog of a tenth of a second."""
    program = (
        'import time\nfrom jcw.train.watchdog import Watchdog\nwith Watchdog(0.1) as dog:\n'
        f'    {code}\nprint("done")'
    )
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.strip(), done.stderr


def test_silence_ends_the_process_with_its_message():
    code, printed, errors = outcome("dog.beat('start all again'); time.sleep(30)")
    assert code == watchdog.EXIT_CODE == 75
    assert not printed
    assert 'no step finished within 0.1 s' in errors
    assert 'start all again' in errors


def test_the_first_beat_may_take_longer_but_not_for_ever():
    assert outcome("time.sleep(0.4); dog.beat('')")[:2] == (0, 'done')
    code, _, errors = outcome('time.sleep(30)')
    assert code == 75
    assert 'within 1 s: a peer hangs or is lost; nothing has run yet' in errors


def test_a_finished_context_ends_nothing():
    code, printed, _ = outcome("dog.beat('')\ntime.sleep(0.5)")
    assert (code, printed) == (0, 'done')


def test_without_a_limit_nothing_is_watched():
    with watchdog.Watchdog(None) as dog:
        dog.beat('never said')
