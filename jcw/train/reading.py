"""Arrays of any orbax checkpoint by their names, and as the tree that is wanted."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jcw.train.checkpoint import account_of, checksum_of

MARKS = ('_METADATA', 'manifest.ocdbt')
ITEMS = ('state', 'default', 'variables', 'params')
"""Names under which a step's arrays lie, the first that there is."""

Named = Mapping[str, np.ndarray]
"""Arrays by the keys on the way to them, as `params/stem/kernel`; NNX's `value` at the end is left out."""


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Read every array of a checkpoint; of several steps the last.

    Args:
      path: what `StandardCheckpointer` or `PyTreeCheckpointer` wrote, the folder of a `CheckpointManager` or one of its
        steps, or the folder of a training of ours, whose checksums are compared.

    Raises:
      ValueError: there is no checkpoint, or it is damaged.
    """
    folder = epath.Path(_folder_of(Path(path).resolve()))
    handler = ocp.PyTreeCheckpointHandler()  # a checkpointer would miss the files of whole steps, and say so
    try:
        held = handler.metadata(folder).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), held)
        found = named(handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy)))
        _check_sums(Path(folder).parent, found)
    except (MemoryError, PermissionError):  # of this process, not of the checkpoint
        raise
    except Exception as error:  # orbax raises what its storage raised
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f'the checkpoint {folder} is damaged: {first}') from error
    finally:
        handler.close()
    return found


def fits(found: Named, like: Any) -> list[str]:
    """Return in what arrays differ from a tree's: what is absent, of another shape, too many, not finite.

    Beside the tree others may lie, as an optimiser's; not under the keys that the tree begins with. Random keys, as of
    NNX's dropout, are let be.
    """
    wanted = named(like)
    tops = {name.split('/')[0] for name in wanted}
    differ = []
    for name in sorted({*wanted, *(name for name in found if name.split('/')[0] in tops)}):
        if _is_key(wanted.get(name)):
            continue
        have, want = found.get(name), wanted.get(name)
        if have is None or want is None or np.shape(have) != np.shape(want):
            differ.append(f'{name} is {_shape(have)} instead of {_shape(want)}')
        elif not np.isfinite(have).all():
            differ.append(f'{name} has entries that are not finite')
    return differ


def as_tree(found: Named, like: Any) -> Any:
    """Return arrays, which `fits` finds no fault with, as a tree like another."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if _is_key(leaf) else found[_name(path)], like
    )


def named(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their names."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(path: Any) -> str:
    parts = [str(_key(entry)) for entry in path]
    return '/'.join(parts[:-1] if len(parts) > 1 and parts[-1] == 'value' else parts)


def _key(entry: Any) -> Any:
    return next(getattr(entry, key) for key in ('key', 'idx', 'name') if hasattr(entry, key))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _shape(leaf: Any) -> str:
    return 'absent' if leaf is None else str(list(np.shape(leaf)))


def _folder_of(path: Path) -> Path:
    """Follow folders down to the one that holds arrays."""
    folder: Path | None = path
    while folder is not None:
        if any((folder / mark).exists() for mark in MARKS):
            return folder
        folder = _next(folder)
    raise ValueError(f'{path} holds no orbax checkpoint')


def _next(folder: Path) -> Path | None:
    inner = {each.name: each for each in folder.iterdir() if each.is_dir()} if folder.is_dir() else {}
    steps = sorted((name for name in inner if name.isdecimal()), key=int)
    for name in ('checkpoints', *steps[-1:], *ITEMS):
        if name in inner:
            return inner[name]
    return None


def _check_sums(step: Path, found: Named) -> None:
    """Compare arrays with the checksums that a training of ours wrote beside them."""
    if not (step / 'meta' / 'metadata').exists():
        return
    for name, (_, checksum) in account_of(step, scored=False).leaves.items():
        array = found.get('/'.join(re.findall(r"[^\[\]'.]+", name)))
        if array is not None and checksum_of(array) != checksum:
            raise ValueError(f'the checksum of {name} differs')
