"""What runs beside a VM's services: the courier, which carries their messages to the guest, and the timer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime, Waitable
    from hfsched.services.service import UtilityService

__all__ = ["Transport", "carry", "keep_time"]


class Transport(Protocol):
    """The way to one VM."""

    @property
    def room(self) -> Waitable:
        """Ready when RX may have become empty since `try_send` returned False."""

    def try_send(self, data: bytes) -> bool:
        """Put a message into RX if that is empty, and return whether it was; never block.

        One that found no room may have taken a place among those that wait.
        """

    def leave(self) -> None:
        """Give up that place: there is nothing to send now."""


def carry(
    runtime: Runtime, services: Sequence[UtilityService], transport: Transport, closing: Event
) -> None:
    """Send what is in the outboxes of one VM's services, by turns, until `closing`."""
    try:
        _carry(runtime, services, transport, closing)
    finally:
        transport.leave()


def _carry(
    runtime: Runtime, services: Sequence[UtilityService], transport: Transport, closing: Event
) -> None:
    todo: list[UtilityService] = []  # those that may have something to send, the next one first
    waitables: list[Waitable] = [closing, *(each.work for each in services)]
    while closing not in (ready := runtime.select(waitables)):
        todo += [each for each in services if each.work in ready and each not in todo]
        runtime.retain_only(_numbers(todo))
        while todo:
            todo[0].work.clear()  # before the look that it accounts for
            if not _send(runtime, todo, transport):
                break
            del todo[0]
        runtime.retain_only(_numbers(todo))
        waitables = [closing, *(each.work for each in services)]
        if todo:
            waitables.append(transport.room)
        else:
            transport.leave()


def _numbers(services: Sequence[UtilityService]) -> tuple[int, ...]:
    return tuple(each.service for each in services)


def _send(runtime: Runtime, todo: Sequence[UtilityService], transport: Transport) -> bool:
    """Send the first service's next message, if it has one; return whether there was room."""
    service = todo[0]
    message = service.begin_send()
    runtime.retain_only(_numbers(todo), message, level=1)
    if message is None:
        return True
    sent = False
    try:
        sent = transport.try_send(message.data)
        runtime.retain_only(_numbers(todo), message, sent, level=1)
    finally:
        service.end_send(message, sent=sent)
    return sent


def keep_time(runtime: Runtime, services: Sequence[UtilityService], closing: Event) -> None:
    """Fail what is due in one VM's services, until `closing`."""
    alarms = [each.expire() for each in services]
    waitables: list[Waitable] = [closing, *(each.timer for each in services)]
    first = _earliest(alarms)
    while closing not in (ready := runtime.select(waitables, first)):
        runtime.retain_only(tuple(alarms))
        for at, service in enumerate(services):
            if service.timer in ready:
                service.timer.clear()  # before the look that it accounts for
                alarms[at] = service.expire()
            elif not ready and alarms[at] == first:
                alarms[at] = service.expire(first)
        first = _earliest(alarms)
        runtime.retain_only(tuple(alarms))


def _earliest(alarms: Sequence[int | None]) -> int | None:
    return min((each for each in alarms if each is not None), default=None)
