"""Read the folder of a deployed network back as a function."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jcw.deploy import folder as files
from jcw.deploy.fold import Folded, shapes
from jcw.deploy.inference import forward
from jcw.deploy.storage import packed, unpack
from jcw.graph import Graph


class Deployed(NamedTuple):
    """A network read back from its folder; called on images it returns their logits.

    Attributes:
      description: the contents of `network.json`.
      graph: the network, one width a site.
      folded: the weights; kernels in the type they are multiplied in, the rest float32.
      compiled: (weights, images) -> logits; compiles once for each batch size.
    """

    description: dict[str, Any]
    graph: Graph
    folded: Folded
    compiled: Any

    def __call__(self, images: Any) -> jax.Array:
        """Return float32 logits [batch classes] of uint8 images [batch height width channels].

        Raises:
          ValueError: images of another shape or type.
        """
        if not hasattr(images, 'dtype'):
            images = np.asarray(images)
        expected = self.graph.input_shape
        if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
            raise ValueError(
                f'expected uint8 images [batch {" ".join(map(str, expected))}], '
                f'got {images.dtype} {list(images.shape)}'
            )
        return self.compiled(self.folded, images)


def load(folder: str | Path, *, dtype: Any = np.float32) -> Deployed:
    """Read a folder that `export` wrote; nothing in it is ever executed or unpickled.

    Args:
      folder: the folder.
      dtype: in which activations are kept and multiplied, see docs/deploy.md for where bfloat16 pays.

    Raises:
      ValueError: a file is missing, foreign or damaged, the format is newer than this library, or weights do not
        have the shapes that the description states.
    """
    folder = Path(folder)
    try:
        description, graph, stored = files.read_whole(folder.resolve(), _read)
    except ValueError:
        raise
    except Exception as error:  # a description may sum right and still state anything
        raise ValueError(f'{folder} cannot be read as a deployed network: {error!r}'[:500]) from error
    compiled = jax.jit(lambda folded, images: forward(folded, images, graph, dtype=dtype))
    return Deployed(description, graph, jax.device_put(_kept(unpack(stored), dtype)), compiled)


def read_file(folder: str | Path, name: str) -> bytes:
    """Return the content of one of a folder's files, such as `network.tflite`, checked by its checksum.

    What reads these files besides is not written for damaged ones: hand it this content instead of the path.

    Raises:
      ValueError: as `load`, or the folder has no such file.
    """
    folder = Path(folder)

    def read(place: Path) -> bytes:
        known = files.read_description(place)['checksums']
        if name == files.DESCRIPTION or name not in known:
            whole = ', '.join(sorted(each for each in known if '/' not in each and each != files.DESCRIPTION))
            raise ValueError(f'{folder} has no file {name!r}, only {whole} and those of its weights')
        content = (place / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != known[name]:
            raise ValueError(f'{folder} is damaged: the checksum of {name} differs')
        return content

    return files.read_whole(folder.resolve(), read)


def _read(folder: Path) -> tuple[dict[str, Any], Graph, Folded]:
    description = files.read_description(folder)
    try:
        graph = Graph.from_json(description['graph']).fixed(description['widths'])
        expected = packed(shapes(graph), description['weights'])
    except Exception as error:
        raise ValueError(
            f'{folder} does not describe a network this library knows: {error!r}'[:500]
        ) from error
    if list(graph.input_shape) != description['input_shape']:
        raise ValueError(
            f'{folder} is damaged: it states images {description["input_shape"]}, its graph {graph.input_shape}'
        )
    return description, graph, _restore(folder / files.WEIGHTS, expected)


def _kept(folded: Folded, dtype: Any) -> Folded:
    """Round the kernels of convolutions to `dtype` once, instead of in every call; products of vectors stay wide."""

    def keep(path: tuple, leaf: np.ndarray) -> np.ndarray:
        return leaf.astype(dtype) if path[-1].key == 'kernel' and leaf.ndim > 2 else leaf

    return jax.tree_util.tree_map_with_path(keep, folded)


def _restore(path: Path, expected: Folded) -> Folded:
    """Read a checkpoint as NumPy arrays, on whatever devices it was written; nothing is allocated before shapes agree.

    Raises:
      ValueError: it is no checkpoint of arrays, or not of these.
    """
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
            _check_shapes(path.parent, tree, expected)
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            stored = checkpointer.restore(path, restore_args=as_numpy)
    except _Foreign as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # orbax raises what its storage raised
        raise ValueError(f'{path.parent} is damaged: its weights cannot be read ({error!r})') from error
    _check_shapes(path.parent, stored, expected)
    return stored


class _Foreign(ValueError):
    """Weights of another network."""


def _check_shapes(folder: Path, stored: Folded, expected: Folded) -> None:
    want, have = _leaves(expected), _leaves(stored)
    for name in sorted({*want, *have}):
        if want.get(name) != have.get(name):
            raise _Foreign(
                f'{folder} does not hold the network it describes: weights {name} should be '
                f'{want.get(name, "absent")}, and are {have.get(name, "absent")}'
            )


def _leaves(tree: Folded) -> dict[str, str]:
    return {
        '/'.join(str(getattr(key, 'key', key)) for key in path): f'{leaf.dtype} {list(leaf.shape)}'
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
