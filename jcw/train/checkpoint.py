"""Checkpoints of a run by orbax: atomic, asynchronous, the last few and the best few kept."""

from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

Carry = TypeVar('Carry')


class Checkpoints:
    """The checkpoints of one run, in one folder; use as a context, which waits for writes in flight.

    Attributes:
      folder: where they lie, one folder per step; the best lie in a folder beside it, its name ending in `_best`.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, keep_best: int = 0) -> None:
        self.folder = Path(folder).resolve()
        self._best_folder = self.folder.with_name(self.folder.name + '_best')
        self._last = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        )
        self._best = _best_manager(self._best_folder, keep_best) if keep_best else None

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: Any) -> None:
        self._last.close()
        if self._best is not None:
            self._best.close()

    @property
    def latest_step(self) -> int | None:
        return self._last.latest_step()

    def preempted(self, step: int) -> bool:
        """Return whether all processes of a distributed run shall stop after `step`, one of them having had SIGTERM."""
        return jax.process_count() > 1 and self._last.reached_preemption(step)

    def save(self, step: int, carry: Any, meta: dict[str, Any], score: float | None = None) -> None:
        """Begin to write a tree of arrays and JSON values beside it; with a score, among the best if it is one."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(carry), meta=ocp.args.JsonSave(meta))
        self._last.save(step, args=items)
        if self._best is not None and score is not None:
            self._best.save(step, args=items, metrics={'score': score})

    def restore(self, like: Carry, *, best: bool = False) -> tuple[Carry, dict[str, Any]]:
        """Read the latest checkpoint, or the one of highest score, into a tree of the same structure.

        Raises:
          ValueError: there is none, or it has another structure or other shapes.
        """
        manager = self._last
        if best:
            manager = self._best = self._best or _best_manager(self._best_folder, None)
        step = manager.best_step() if best else manager.latest_step()
        if step is None:
            raise ValueError(f'{self._best_folder if best else self.folder} holds no checkpoint')
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), meta=ocp.args.JsonRestore())
        restored = manager.restore(step, args=items)
        return restored.state, restored.meta


def _best_manager(folder: Path, keep: int | None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        best_fn=lambda metrics: metrics['score'],
        best_mode='max',
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(folder, options=options)
