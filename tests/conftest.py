"""Four CPU devices for every test, and shapes checked at run time."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_NUM_CPU_DEVICES', '4')

from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401, the hook below looks it up by name

install_import_hook('jcw', 'tests.shapes.checker')
