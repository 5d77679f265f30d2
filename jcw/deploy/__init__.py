"""The network that ships: sliced, normalisation folded into convolutions, bytes in and logits out."""

from jcw.deploy.export import export
from jcw.deploy.fold import Folded, fold, random, shapes
from jcw.deploy.inference import build, forward
from jcw.deploy.int8 import litert_int8
from jcw.deploy.litert import litert_logits, litert_model
from jcw.deploy.load import Deployed, load, read_file
from jcw.deploy.onnx import onnx_model
from jcw.deploy.storage import pack, unpack

__all__ = [
    'export',
    'load',
    'read_file',
    'Deployed',
    'onnx_model',
    'litert_model',
    'litert_int8',
    'litert_logits',
    'build',
    'forward',
    'Folded',
    'fold',
    'random',
    'shapes',
    'pack',
    'unpack',
]
