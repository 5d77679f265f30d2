"""Read the folder of a deployed network back as a function."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jcw.deploy import folder as files
from jcw.deploy.fold import Folded, shapes
from jcw.deploy.inference import forward
from jcw.deploy.storage import pack, unpack
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
    folder = files.find(Path(folder).resolve())
    description = files.read_description(folder)
    try:
        graph = Graph.from_json(description['graph']).fixed(description['widths'])
        expected = shapes(graph)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{folder} does not describe a network this library knows: {error!r}') from error
    stored = _restore(folder / files.WEIGHTS)
    _check_shapes(folder, stored, expected, description['weights'])
    compiled = jax.jit(lambda folded, images: forward(folded, images, graph, dtype=dtype))
    return Deployed(description, graph, jax.device_put(_kept(unpack(stored), dtype)), compiled)


def _kept(folded: Folded, dtype: Any) -> Folded:
    """Round the kernels of convolutions to `dtype` once, instead of in every call; products of vectors stay wide."""

    def keep(path: tuple, leaf: np.ndarray) -> np.ndarray:
        return leaf.astype(dtype) if path[-1].key == 'kernel' and leaf.ndim > 2 else leaf

    return jax.tree_util.tree_map_with_path(keep, folded)


def _restore(path: Path) -> Folded:
    """Read a checkpoint as NumPy arrays, on whatever devices it was written.

    Raises:
      ValueError: it is no checkpoint of arrays.
    """
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return checkpointer.restore(path, restore_args=as_numpy)
    except Exception as error:  # orbax raises what its storage raised
        raise ValueError(f'{path.parent} is damaged: its weights cannot be read ({error!r})') from error


def _check_shapes(folder: Path, stored: Folded, expected: Folded, weights: str) -> None:
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), expected)
    want, have = (_leaves(tree) for tree in (pack(zeros, weights), stored))
    for name in sorted({*want, *have}):
        if want.get(name) != have.get(name):
            raise ValueError(
                f'{folder} does not hold the network it describes: weights {name} should be '
                f'{want.get(name, "absent")}, and are {have.get(name, "absent")}'
            )


def _leaves(tree: Folded) -> dict[str, str]:
    return {
        '/'.join(str(key.key) for key in path): f'{leaf.dtype} {list(leaf.shape)}'
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
