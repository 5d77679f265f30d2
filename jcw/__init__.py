"""Joint channel width: size a convolutional network to the hardware it runs on.

`jcw.zoo` has networks and `build` makes graphs of them or of your own. `jcw.latency` times devices, `jcw.train` trains
the supernet, `jcw.accuracy` fits what short trainings say, `jcw.budget` finds the provably best widths, `jcw.deploy`
ships them.
"""

from jcw.builder import Builder, build
from jcw.field import Field
from jcw.graph import Graph

__version__ = '0.2.0'

__all__ = ['Builder', 'Field', 'Graph', 'build']
