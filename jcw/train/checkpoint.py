"""Checkpoints of a run by orbax: atomic, asynchronous, summed, the last few and the best few kept."""

import functools
import hashlib
import math
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jcw import records
from jcw.train import parallel

Carry = TypeVar('Carry')
Result = TypeVar('Result')


class Checkpoints:
    """The checkpoints of one run, in one folder; use as a context, which waits for writes in flight.

    Every step carries a checksum of each of its arrays, and one of all that stands beside them. A step that differs
    is never used: it is renamed to `damaged_STEP`, a warning says so, and the newest whole one takes its place. The
    processes of a distributed run share the folder: damage that one of them reads counts for all.

    Attributes:
      folder: where they lie, one folder per step; the best lie in a folder beside it, its name ending in `_best`.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, keep_best: int = 0) -> None:
        self.folder = Path(folder).resolve()
        self._best_folder = self.folder.with_name(self.folder.name + '_best')
        self._keep, self._keep_best = keep, keep_best

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: Any) -> None:
        for name in ('_last', '_best'):
            if name in vars(self):
                getattr(self, name).close()

    @property
    def latest_step(self) -> int | None:
        return self._last.latest_step()

    def preempted(self, step: int) -> bool:
        """Return whether all processes of a distributed run shall stop after `step`, one of them having had SIGTERM."""
        return jax.process_count() > 1 and self._last.reached_preemption(step)

    def save(self, step: int, carry: Any, meta: dict[str, Any], score: float | None = None) -> None:
        """Begin to write a tree of arrays and JSON values beside it; with a score, among the best if it is one."""
        score = float(score) if score is not None and math.isfinite(score) else None
        leaves = {name: [_kind(leaf), checksum_of(leaf)] for name, leaf in _named(carry).items()}
        account = records.summed(_Account(meta, score, leaves)._asdict())
        items = ocp.args.Composite(state=ocp.args.StandardSave(carry), meta=ocp.args.JsonSave(account))
        self._last.save(step, args=items)
        if self._keep_best and score is not None:
            self._best.save(step, args=items, metrics={'score': score})

    def restore(self, like: Carry, *, best: bool = False) -> tuple[Carry, dict[str, Any]]:
        """Read the latest whole checkpoint, or that of highest score, into a tree of the same structure.

        Raises:
          ValueError: there is none, all are damaged, it has another structure or other shapes, or the processes of
            the run do not see the same.
        """
        folder = self._best_folder if best else self.folder
        accounts, damage = _accounts(folder, best)
        order = sorted(accounts, key=lambda step: (accounts[step].score if best else 0, step), reverse=True)
        for step in order:
            _check_structure(step, accounts[step], like)
            carry, reason = _attempt(functools.partial(_carry, folder / str(step), accounts[step], like))
            if carry is not None:
                _set_aside(folder, damage, f'step {step} is used instead')
                return carry, accounts[step].meta
            damage[step] = reason
        if not damage:
            raise ValueError(f'{folder} holds no checkpoint')
        listed = '; '.join(f'step {step}: {reason}' for step, reason in sorted(damage.items()))
        raise ValueError(
            f'every checkpoint in {folder} is damaged ({listed}): put back a copy of that folder, '
            f'or remove {folder.parent} to begin anew'
        )

    def any(self) -> bool:
        """Return whether there is a step, whole or not."""
        return bool(_agreed_steps(self.folder))

    @cached_property
    def _last(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, cleanup_tmp_directories=True)
        return ocp.CheckpointManager(self.folder, options=options)

    @cached_property
    def _best(self) -> ocp.CheckpointManager:
        """Orbax reads all scores as it begins, so that damaged ones have to be gone by then."""
        _set_aside(self._best_folder, _accounts(self._best_folder, True)[1], 'others are kept')
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep_best,
            best_fn=lambda metrics: metrics['score'],
            best_mode='max',
            cleanup_tmp_directories=True,
        )
        return ocp.CheckpointManager(self._best_folder, options=options)


class _Account(NamedTuple):
    """What is written beside a step's arrays: `leaves` says what they are, by their names in the tree."""

    meta: dict[str, Any]
    score: float | None
    leaves: dict[str, list[str]]  # type and shape, checksum


def _steps(folder: Path) -> list[int]:
    """Return the steps that lie in a folder; not those that are still being written, or set aside."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal())


def _agreed_steps(folder: Path) -> list[int]:
    """Return the steps that all processes of the run see."""
    steps = _steps(folder)
    listed = ', '.join(map(str, steps))
    _refuse_unlike(folder, f'sees the steps {listed}' if steps else 'sees none')
    return steps


def _refuse_unlike(folder: Path, told: str) -> None:
    if unlike := parallel.told_differently(told):
        raise ValueError(
            f'the processes of this run do not find the same checkpoints in {folder} ({unlike}): '
            'give them a folder that all of them share'
        )


def _accounts(folder: Path, scored: bool) -> tuple[dict[int, _Account], dict[int, str]]:
    """Return the steps' accounts, and the reasons why some are damaged."""
    accounts, damage = {}, {}
    for step in _agreed_steps(folder):
        account, reason = _attempt(functools.partial(account_of, folder / str(step), scored))
        if account is None:
            damage[step] = reason
        else:
            accounts[step] = account
    for step, account in accounts.items():
        _refuse_unlike(folder, f'reads step {step} of sum {records.checksum(account._asdict())[:8]}')
    return accounts, damage


def account_of(path: Path, scored: bool) -> _Account:
    account = _Account(**records.checked(records.parse(records.read(path / 'meta' / 'metadata'))))
    if scored and records.parse(records.read(path / 'metrics' / 'metrics')) != {'score': account.score}:
        raise ValueError('its score differs')
    return account


def _carry(path: Path, account: _Account, like: Carry) -> Carry:
    """Read a step's arrays, each process for itself: one that fails would leave the others waiting in orbax."""
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f'process_{own}'
    )
    with ocp.StandardCheckpointer(multiprocessing_options=options) as checkpointer:
        carry = checkpointer.restore(path / 'state', shapes)
    for name, leaf in _named(carry).items():
        if checksum_of(leaf) != account.leaves[name][1]:
            raise ValueError(f'the checksum of {name} differs')
    return carry


def _check_structure(step: int, account: _Account, like: Any) -> None:
    held = {name: kind for name, (kind, _) in account.leaves.items()}
    wanted = {name: _kind(leaf) for name, leaf in _named(like).items()}
    if differ := sorted(name for name in {*held, *wanted} if held.get(name) != wanted.get(name)):
        told = ', '.join(
            f'{name} is {held.get(name, "absent")} instead of {wanted.get(name, "absent")}'
            for name in differ[:3]
        )
        raise ValueError(f'the checkpoint of step {step} is of another run: {told}')


def _attempt(read: Callable[[], Result]) -> tuple[Result | None, str]:
    """Return what is read, or why it cannot be; all processes of a run come to the same verdict."""
    found, reason, lacking = None, '', None
    try:
        found = read()
    except (MemoryError, PermissionError) as error:  # of this process, not of the checkpoint
        lacking = error
    except Exception as error:  # orbax raises what its storage raised
        lines = str(error).strip().splitlines()
        reason = (lines[0] if lines else type(error).__name__)[:200]
    said = parallel.told_by_all(f'!{type(lacking).__name__}: {lacking}' if lacking else reason)
    if lacking is not None:
        raise lacking
    for process, text in enumerate(said):
        if text.startswith('!'):
            raise ValueError(f'process {process} of this run cannot read checkpoints: {text[1:]}')
        if text and not reason:
            found, reason = None, f'process {process} reads: {text}'
    return found, reason


def _set_aside(folder: Path, damage: dict[int, str], instead: str) -> None:
    """Rename damaged steps, so that they are neither used nor counted among those that are kept."""
    for step, reason in damage.items():
        path = folder / f'damaged_{step}'
        if jax.process_index() == 0:
            while path.exists():
                path = path.with_name(f'{path.name}_again')
            (folder / str(step)).rename(path)
        warnings.warn(
            f'the checkpoint of step {step} in {folder} is damaged ({reason}): it is set aside as '
            f'{path.name}, and {instead}',
            stacklevel=3,
        )
    if damage and jax.process_count() > 1:
        multihost_utils.sync_global_devices(f'damaged checkpoints of {folder.name} are set aside')
        _agreed_steps(folder)  # in a folder that is not shared they are set aside for the first process only


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _kind(leaf: Any) -> str:
    return f'{jax.dtypes.canonicalize_dtype(leaf.dtype)} {list(leaf.shape)}'


def checksum_of(leaf: Any) -> str:
    """Sum an array as it comes back: in a type that JAX keeps."""
    array = np.ascontiguousarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()
