"""A request to the monitor and its result, as main's tasks and the client's task exchange them."""

from __future__ import annotations

from dataclasses import dataclass

from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.member import Member, RegisteredMember
from hfsched.swap.client.setup import refusal
from hfsched.swap.protocol.messages import Done, MonitorAnswer, MonitorRequest, encode

__all__ = ["Job", "Result"]


@dataclass(frozen=True, slots=True)
class Job:
    """A request, its deadline (ns), the member that a Register is about, and whether a task waits for the result."""

    request: MonitorRequest
    deadline: int | None = None
    member: Member | None = None
    awaited: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """An answer, and what was known at that time: members, take-overs, why the last monitor failed."""

    answer: MonitorAnswer
    members: tuple[RegisteredMember, ...]
    takeovers: int
    failure: str = ""

    @property
    def done(self) -> bool:
        """Whether the request was done, and not refused."""
        return isinstance(self.answer, Done)

    @property
    def pages(self) -> int:
        """The number in the answer `Done`."""
        return self.answer.pages if isinstance(self.answer, Done) else 0

    def check(self) -> Result:
        """Return this if the request was done; raises SwapError if it was refused."""
        if self.done:
            return self
        raise SwapError(refusal(self.answer))

    def key(self) -> object:
        """Return all of it, hashable."""
        members = tuple((known.member.number, known.zapped) for known in self.members)
        return (encode(0, self.answer), members, self.takeovers, self.failure)
