"""How many clients a socket serves, and whose place is taken when they are too many.  No sockets here.

A client is *idle* until its first request and between requests, *busy* during one, and *kept* once it
has what is not to be taken from it: a subscription, a connection to a VM.  When a place is needed, it is
that of the client that has been idle longest.  Kept clients cannot have the last places, where others
make requests, and clients of another user than the owner (that is root) can have all but one of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FullError", "Places"]


class FullError(Exception):
    """No place is free, and none can be taken."""


@dataclass(slots=True)
class _Client:
    uid: int
    idle_since: int | None
    kept: bool = False


class Places:
    """`most` places, of which `kept_most` at most are for clients that are kept.

    `owner` is a user id.  Clients are known by their numbers; times are in ns.  The caller serialises all
    calls.
    """

    def __init__(self, most: int, kept_most: int, owner: int) -> None:
        self._most, self._kept_most = most, kept_most
        self._owner = owner
        self._clients: dict[int, _Client] = {}

    def key(self) -> object:
        """Return the whole state, hashable."""
        return tuple(
            (number, each.uid, each.idle_since, each.kept) for number, each in self._clients.items()
        )

    def enter(
        self, number: int, uid: int, now: int, asks: Callable[[int], bool] = lambda _: False
    ) -> int | None:
        """Give a client a place; return the client that has lost its place to it; raises FullError.

        `asks(number)` returns whether a request of a client has come that `begin` is still to be told of.
        """
        others = [known for known, each in self._clients.items() if each.uid != self._owner]
        evicted = None
        if uid != self._owner and len(others) >= self._most - 1:
            evicted = self._longest_idle(others, asks)
        elif len(self._clients) >= self._most:
            evicted = self._longest_idle(list(self._clients), asks)
        if evicted is not None:
            del self._clients[evicted]
        self._clients[number] = _Client(uid, now)
        return evicted

    def _longest_idle(self, among: list[int], asks: Callable[[int], bool]) -> int:
        idle = sorted(
            (each.idle_since, number)
            for number in among
            if not (each := self._clients[number]).kept and each.idle_since is not None
        )
        for _, number in idle:
            if not asks(number):
                return number
        raise FullError

    def begin(self, number: int) -> bool:
        """Note that a client has made a request; False: it has lost its place, and gets no answer."""
        client = self._clients.get(number)
        if client is not None:
            client.idle_since = None
        return client is not None

    def rest(self, number: int, now: int) -> None:
        """Note that a client's request has been answered."""
        if number in self._clients:
            self._clients[number].idle_since = now

    def keep(self, number: int) -> None:
        """Keep a client until it leaves; raises FullError."""
        client = self._clients.get(number)
        if client is None:
            raise FullError
        kept = [each.uid for each in self._clients.values() if each.kept]
        others = len(kept) - kept.count(self._owner)
        if len(kept) >= self._kept_most or (
            client.uid != self._owner and others >= self._kept_most - 1
        ):
            raise FullError
        client.kept = True

    def leave(self, number: int) -> None:
        """Free a client's place, if it has one."""
        self._clients.pop(number, None)
