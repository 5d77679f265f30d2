"""The one small interface behind which every device stands."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


class RuntimeFailure(Exception):
    """A network could not be opened or timed; the message is the reason."""


@runtime_checkable
class Program(Protocol):
    """One network, ready to be called."""

    def time_ms(self) -> float:
        """Run one call to its end and return its time, ms.

        Raises:
          RuntimeFailure: the call crashed, hung or answered nonsense.
        """

    def close(self) -> None:
        """Release the network's memory."""


@runtime_checkable
class Runtime(Protocol):
    """What opens networks.

    Attributes:
      name: 'xla', 'command', 'onnxruntime' or another.
      device: the device in full: model, cores or threads.
      versions: of the software that decides speed.
      details: further facts of the device, for the reader.
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def versions(self) -> Mapping[str, str]: ...

    @property
    def details(self) -> Mapping[str, str]: ...

    def open(self, widths: Sequence[int]) -> Program:
        """Build and compile the network of these widths, plain whole numbers.

        Raises:
          RuntimeFailure: it cannot be had; the message says why.
        """

    def prefetch(self, networks: Sequence[Sequence[int]]) -> None:
        """Learn which networks are likely to be opened next; may do nothing."""

    def close(self) -> None:
        """Release everything."""
