"""A daemon of the host that is started again when it ends, after a pause that grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.services.transaction import Answer, Direction

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime
    from hfsched.services.service import UtilityService

__all__ = ["PAUSE_FIRST", "PAUSE_MAX", "serve_guest", "supervise"]

PAUSE_FIRST = 100_000_000  # ns
PAUSE_MAX = 30_000_000_000  # ns; one that ran longer than this begins with the first pause again


def supervise(
    runtime: Runtime,
    daemon: Callable[[], None],
    register: Callable[[], None],
    closing: Event,
    on_end: Callable[[BaseException | None], None] = lambda _error: None,
) -> None:
    """Run a daemon until `closing`; `register` comes before each start.

    Whatever it ends by, an exception too, which `on_end` gets, it is started again: one daemon's mistake ends
    no machine.
    """
    pause = PAUSE_FIRST
    while not closing.is_set():
        begun = runtime.now()
        register()
        error: BaseException | None = None
        try:
            daemon()
        except Exception as exc:  # noqa: BLE001 - see above
            error = exc
        on_end(error)
        if runtime.now() - begun > PAUSE_MAX:
            pause = PAUSE_FIRST
        if closing not in runtime.select([closing], runtime.now() + pause):
            pause = min(2 * pause, PAUSE_MAX)


def serve_guest(
    runtime: Runtime,
    service: UtilityService,
    answer: Callable[[bytes], Answer],
    closing: Event,
) -> None:
    """Be a daemon that answers the guest's requests, until `closing`."""
    while closing not in runtime.select([closing, service.asks]):
        runtime.retain_only()
        asked = service.take_asked()
        runtime.retain_only(asked)
        if asked is not None:
            epoch, number, body = asked
            service.complete(epoch, number, answer(body), Direction.GUEST)
