"""Joint channel width: size a convolutional network to the hardware it runs on."""

__version__ = '0.1.0'
