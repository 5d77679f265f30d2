"""Checkpoints of a run by orbax: atomic, asynchronous, the last few kept."""

from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

Carry = TypeVar('Carry')


class Checkpoints:
    """The checkpoints of one run, in one folder; use as a context, which waits for writes in flight.

    Attributes:
      folder: where they lie, one folder per step.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2) -> None:
        self.folder = Path(folder).resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, carry: Any, meta: dict[str, Any]) -> None:
        """Begin to write a tree of arrays and JSON values beside it."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(carry), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=items)

    def restore(self, like: Carry) -> tuple[Carry, dict[str, Any]]:
        """Read the latest checkpoint into a tree of the same structure.

        Raises:
          ValueError: there is none, or it has another structure or other shapes.
        """
        step = self._manager.latest_step()
        if step is None:
            raise ValueError(f'{self.folder} holds no checkpoint')
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), meta=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        return restored.state, restored.meta
