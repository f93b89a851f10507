"""What runs beside a service: the courier, which carries its messages to the guest, and its timer."""

from __future__ import annotations

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
        """Put a message into RX if that is empty, and return whether it was; never block."""


def carry(runtime: Runtime, service: UtilityService, transport: Transport, closing: Event) -> None:
    """Send what is in the outbox, until `closing`."""
    waitables: list[Waitable] = [closing, service.work]
    while closing not in runtime.select(waitables):
        runtime.retain_only()
        service.work.clear()  # before the look that it accounts for
        message = service.begin_send()
        runtime.retain_only(message)
        sent = True
        if message is not None:
            try:
                sent = transport.try_send(message.data)
                runtime.retain_only(message, sent)
            finally:
                service.end_send(message, sent=sent)
        runtime.retain_only(sent)
        waitables = [closing, service.work]
        if not sent:
            waitables.append(transport.room)


def keep_time(runtime: Runtime, service: UtilityService, closing: Event) -> None:
    """Fail what is due, until `closing`."""
    deadline = service.expire()
    while closing not in (ready := runtime.select([closing, service.timer], deadline)):
        runtime.retain_only()
        service.timer.clear()  # before the look that it accounts for
        deadline = service.expire(None if ready else deadline)
        runtime.retain_only(deadline)
