"""The monitor's control loop: requests from main, and chunks of work between them.

Another thread serves the faults, and never waits for this loop.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from hfsched.errors import InternalError, describe
from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.monitor.controller import Controller
from hfsched.swap.pages.store import is_shortage
from hfsched.swap.protocol.messages import (
    NO_NUMBER,
    RESOURCES_ALL_MAX,
    Begin,
    Done,
    Failed,
    Give,
    MonitorAnswer,
    ProtocolError,
    Refused,
    Register,
    decode_request,
    encode,
    name_of,
    number_of,
    reply_text,
)

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Runtime

__all__ = ["Maker", "serve"]

RETRY_AFTER = 1_000_000_000  # ns; nothing tells when there is room again

Maker = Callable[[Begin, Sequence[int]], Controller]


def serve(runtime: Runtime, end: End, make: Maker) -> None:
    """Answer main's requests until Exit, or until main is gone and no member needs the monitor.

    `make(begin, fds)` makes the controller from all resources received, and starts to serve faults;
    it takes over the descriptors, also when it raises.
    """
    loop = _Loop(end, make)
    try:
        while not loop.ended:
            runtime.retain_only(loop.key)
            loop.step()
    except ChannelClosedError:
        if loop.controller is not None:
            _drain(runtime, loop.controller)
    finally:
        loop.discard_resources()
        end.close()


class _Loop:
    def __init__(self, end: End, make: Maker) -> None:
        self._end = end
        self._make = make
        self._exiting = 0  # the number of an Exit that is not answered yet; 0: none
        self._words: tuple[str, ...] = ()  # of the resources received so far,
        self._fds: list[int] = []  # and their descriptors
        self.controller: Controller | None = None

    def key(self) -> object:
        controller = None if self.controller is None else self.controller.key()
        return (self._exiting, self._words, controller)

    @property
    def ended(self) -> bool:
        return self.controller is not None and self.controller.ended

    def step(self) -> None:
        """Answer a request or, if there is none, do a chunk of work."""
        received = self._end.recv(None if self.controller is None else self.controller.due)
        if received is not None:
            self._handle(*received)
        elif self.controller is not None:
            answer = self.controller.work()
            if isinstance(answer, Failed):
                self._reply(self._exiting or NO_NUMBER, answer)
            elif answer is not None and self._exiting:
                self._reply(self._exiting, answer)

    def _handle(self, data: bytes, fds: list[int]) -> None:
        try:
            number, request = decode_request(data)
        except ProtocolError as exc:
            _close(fds)
            self._reply(number_of(data), Refused(text=str(exc)))
            return
        answer: MonitorAnswer | None
        if self.controller is None:
            if isinstance(request, Begin | Give) and not self._add_resources(request, fds):
                answer = Refused(
                    text=f"{name_of(request)}: more than {RESOURCES_ALL_MAX} resources"
                )
            elif isinstance(request, Begin):
                self._reply(number, self._begin(request))
                return
            elif isinstance(request, Give):
                self._reply(number, Done())
                return
            else:
                answer = Refused(text="the first request must be begin")
        else:
            answer = self.controller.answer(request, fds)
        if isinstance(answer, Refused | Failed) or not isinstance(request, Register):
            _close(fds)
        if answer is None:
            self._exiting = number
        else:
            self._reply(number, answer)

    def _add_resources(self, request: Begin | Give, fds: list[int]) -> bool:
        """Add the resources of a request; False: there are too many."""
        if len(self._words) + len(request.resources) > RESOURCES_ALL_MAX:
            return False
        self._words += request.resources
        self._fds += fds
        return True

    def discard_resources(self) -> None:
        """Close resources that were not used."""
        _close(self._fds)
        self._words, self._fds = (), []

    def _begin(self, request: Begin) -> MonitorAnswer:
        begin, fds = Begin(fresh=request.fresh, resources=self._words), self._fds
        self._words, self._fds = (), []
        try:
            self.controller = self._make(begin, fds)
        except Exception as exc:  # noqa: BLE001 - main must get any error as an answer
            # Another one can do nothing about a table that none can have left; all else may pass: where memory
            # is short, even an import fails, and says it in ways of its own.
            passes = is_shortage(exc) if request.fresh else not isinstance(exc, InternalError)
            return Refused(text=reply_text(f"begin: {describe(exc)}"), again=passes)
        return Done()

    def _reply(self, number: int, answer: MonitorAnswer) -> None:
        if number == self._exiting:
            self._exiting = 0
        self._end.send(encode(number, answer))


def _drain(runtime: Runtime, controller: Controller) -> None:
    """Swap everything in for members that outlive main; retry while it fails."""
    while controller.begin_drain():
        runtime.retain_only(controller.key)
        answer = controller.work()
        if isinstance(answer, Refused | Failed):
            runtime.sleep_until(runtime.now() + RETRY_AFTER)
        elif controller.ended:
            return


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
