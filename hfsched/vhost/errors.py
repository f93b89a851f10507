"""What a front-end or a guest can do wrong."""

from __future__ import annotations

from hfsched.errors import HfschedError

__all__ = ["ChainError", "MemoryFaultError", "RefusedError", "RingError"]


class MemoryFaultError(HfschedError):
    """An address that the front-end has not shared, or memory that it has taken away."""


class RefusedError(HfschedError):
    """A message that cannot be carried out: it is answered with a failure where the front-end asked for an answer."""


class RingError(HfschedError):
    """A ring that makes no sense: it is broken until the front-end starts it again."""


class ChainError(HfschedError):
    """A chain of descriptors that makes no sense: it is given back unused; `head` and `descriptors` as of `Chain`."""

    def __init__(self, head: int, descriptors: int, text: str) -> None:
        super().__init__(text)
        self.head = head
        self.descriptors = descriptors
