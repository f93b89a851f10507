"""The side of a process that maps guest memory beside main: a device, or any child.

A program for `Runtime.process` whose first end is the channel to main uses it thus:

    def backend(runtime, end, requests):
        child = Child(runtime, end)
        runtime.spawn("work", lambda: work(child, requests))
        child.serve()  # until main is gone: then the program ends

    def work(child, requests):
        memory = child.memory()["trusty"]  # a `Ram`; waits until main has given it
        while ...:
            with child.touching():  # from here on to its end guest memory may be touched
                ...

All that touches guest memory does so inside `touching`, and begins and ends there what it does with
it: no system call and no device may still be about to write to guest memory after it.

Implementation note.  Why a child stands still while pages are staged, though its own touches would
be harmless with minor staging: a staged page is read by nobody before every member has zapped, so
what the processor writes between marking and zapping is in the page, and after the zap a touch
faults and is served.  But three things go beyond the processor's touches.  A system call that has
pinned a page (direct I/O) writes into it after its contents have been saved and its memory given
back: that write would be lost.  Staging by copy takes a page's bytes before the page is unmapped: a
write in between would be lost.  And what a device has half done (a descriptor taken, no answer yet)
should be as still as the guest that waits for it.  So Enable stops every member as it stops vCPUs,
and the zap is done by a process that touches nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hfsched.errors import HfschedError, describe
from hfsched.memory.ram import Ram
from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.child.gate import Gate
from hfsched.swap.core.guestpages import zap
from hfsched.swap.core.userfault import userfault
from hfsched.swap.protocol.childmessages import (
    ChildAnswer,
    ChildRequest,
    Join,
    Joined,
    Map,
    Mapped,
    Resume,
    Suspend,
    VmMemory,
    Zap,
    decode_request,
)
from hfsched.swap.protocol.messages import Done, ProtocolError, Refused, encode, number_of, one_line

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Runtime

__all__ = ["Child"]


class Child:
    """See the module's text.  `serve` is one task's, all else is anybody's.

    `kernel`: guest memory is touched inside the kernel too (system calls are given addresses in
    it), which takes more privileges to serve.
    """

    def __init__(self, runtime: Runtime, end: End, *, kernel: bool = False) -> None:
        self._runtime = runtime
        self._end = end
        self._kernel = kernel
        self._gate = Gate(runtime, "child")
        self._rams: dict[str, Ram] = {}
        self._uffd: int | None = None  # stays open: it is this process's as well as main's

    def memory(self) -> Mapping[str, Ram]:
        """Wait until main has given guest memory, and return it by the names of the VMs."""
        with self.touching():
            return self._rams

    @contextmanager
    def touching(self) -> Iterator[None]:
        """Touch guest memory in a ``with``; it waits while the machine stands still."""
        self._gate.enter()
        try:
            yield
        finally:
            self._gate.leave()

    def serve(self) -> None:
        """Do what main asks for, until it is gone."""
        with suppress(ChannelClosedError):
            while True:
                self._runtime.retain_only(tuple(self._rams), self._uffd is None)
                received = self._end.recv()
                assert received is not None
                self._take(*received)
        self._end.close()

    def _take(self, data: bytes, fds: list[int]) -> None:
        given: Sequence[int] = ()
        try:
            number, request = decode_request(data)
            answer, given = self._answer(request, fds)
        except ProtocolError as exc:
            number, answer = number_of(data), Refused(text=str(exc))
        except (HfschedError, OSError) as exc:
            answer = Refused(text=one_line(f"{describe(exc)}"))
        finally:
            _close(fds)  # what was kept is no longer among them
        self._end.send(encode(number, answer), given)
        if isinstance(answer, Joined):
            _close([given[1]])

    def _answer(self, request: ChildRequest, fds: list[int]) -> tuple[ChildAnswer, Sequence[int]]:
        match request:
            case Map(vms=vms):
                return Mapped(bases=self._map(vms, fds)), ()
            case Join():
                if self._uffd is not None:
                    return Refused(text="it has joined already"), ()
                self._uffd = userfault(kernel=self._kernel)
                return Joined(), (self._uffd, os.pidfd_open(os.getpid()))
            case Resume():
                self._gate.open()
            case Suspend(within=within):
                deadline = None if within is None else self._runtime.now() + within
                if not self._gate.close(deadline):
                    return Refused(text="it did not suspend in time"), ()
            case Zap():
                for ram in self._rams.values():
                    zap(ram.address, ram.size)
        return Done(), ()

    def _map(self, vms: Sequence[VmMemory], fds: list[int]) -> tuple[int, ...]:
        if len(fds) != len(vms):
            raise ProtocolError(f"{len(fds)} descriptors for the memory of {len(vms)} VMs")
        for vm in vms:
            if vm.name in self._rams:
                raise ProtocolError(f"the memory of {vm.name} again")
            if os.fstat(fds[0]).st_size != vm.size:
                raise ProtocolError(f"the memory of {vm.name} has not {vm.size} bytes")
            self._rams[vm.name] = Ram(vm.name, vm.size, fds.pop(0))
        return tuple(self._rams[vm.name].address for vm in vms)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
