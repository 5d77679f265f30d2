"""State the device that is timed, and hold this process to some of its cores."""

import os
import platform
from collections.abc import Iterable
from pathlib import Path


def pin(cores: Iterable[int]) -> None:
    """Hold the process to these cores; call it before the first JAX device is used.

    Every thread that exists is moved, and threads started later inherit it. A pool of threads keeps the size
    it was made with, so pinning after JAX has started would leave several threads to share a core.

    Raises:
      ValueError: a core that does not exist or may not be used, or a system without affinity.
    """
    cores = set(cores)
    if not hasattr(os, 'sched_setaffinity'):
        raise ValueError(f'{platform.system()} has no processor affinity; measure with cores=()')
    usable = os.sched_getaffinity(0)
    if not cores or not cores <= set(range(os.cpu_count() or 1)):
        raise ValueError(f'cannot pin to cores {sorted(cores)}; this process may use {sorted(usable)}')
    for thread in os.listdir('/proc/self/task'):
        os.sched_setaffinity(int(thread), cores)


def cpu_name() -> str:
    """Return the processor's model and how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{_cpu_model()}, {cores} core{"s" if cores != 1 else ""}'


def details() -> dict[str, str]:
    """Return what can be read of the machine: system, cores, affinity, governor, clock."""
    facts = {'system': platform.platform(), 'cores': str(os.cpu_count())}
    if hasattr(os, 'sched_getaffinity'):
        facts['affinity'] = ','.join(map(str, sorted(os.sched_getaffinity(0))))
    frequency = Path('/sys/devices/system/cpu/cpu0/cpufreq')
    for name in ('scaling_governor', 'scaling_cur_freq', 'scaling_max_freq'):
        if (frequency / name).is_file():
            facts[name] = (frequency / name).read_text().strip()
    if clock := _cpuinfo('cpu MHz'):
        facts['cpu_mhz'] = clock
    return facts


def _cpu_model() -> str:
    return _cpuinfo('model name') or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    path = Path('/proc/cpuinfo')
    if not path.is_file():
        return ''
    lines = (line.partition(':') for line in path.read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == field), '')
