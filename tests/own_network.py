"""A small network of a user's own, as the stages read it from a file."""

NETWORK = """
from jcw.zoo import inverted_residual


def net(g):
    x = g.conv(g.images, g.site('stream', 16), kernel=3, stride=2)
    x = inverted_residual(g, x, 'stream', g.site('inner', 32))
    return g.classify(g.conv(x, g.site('head', 32)))
"""
