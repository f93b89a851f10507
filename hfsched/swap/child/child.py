"""The side of a process beside main that maps guest memory: a device process, or any other child.

A program for `Runtime.process` whose first end is the channel to main uses it thus:

    def backend(runtime, end, requests):
        child = Child(runtime, end)
        runtime.spawn("work", lambda: work(child, requests))
        child.serve()  # until main is gone: then the program ends

    def work(child, requests):
        memory = child.memory()["trusty"]  # a `Ram`; waits until main has given it
        while ...:
            with child.touching():  # guest memory may be accessed until the end of this block
                ...

Every access to guest memory is made inside `touching`, and is complete at its end: no system call
and no device may write to guest memory after it.

It may start children of its own that map guest memory (`start_child`).  The program of such a child is the same as
one that main has started; it goes on when its parent has ended.

Implementation note.  A child is suspended while pages are staged, although with minor staging its
own accesses would be harmless: no staged page is read before every member has zapped, so a write
between marking and zapping is in the page, and an access after the zap faults and is served.  There
are three other reasons.  A system call that has pinned a page (direct I/O) writes into it after its
contents were saved and its memory punched: that write would be lost.  Copy staging takes a page's
bytes before the page is unmapped: a write in between would be lost.  And a device's half-done work
(a descriptor taken, not answered yet) should be suspended with the guest that waits for it.  So
Enable suspends every member as it suspends vCPUs, and a process zaps while it accesses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hfsched.errors import HfschedError, describe
from hfsched.memory.ram import Ram
from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.child.gate import Gate
from hfsched.swap.child.starting import start
from hfsched.swap.core.guestpages import zap
from hfsched.swap.core.userfault import userfault
from hfsched.swap.protocol.childmessages import (
    ChildAnswer,
    ChildRequest,
    Dismiss,
    Join,
    Joined,
    Map,
    Mapped,
    Resume,
    Suspend,
    VmMemory,
    Welcome,
    Zap,
    decode_request,
)
from hfsched.swap.protocol.messages import (
    Done,
    ProtocolError,
    Refused,
    encode,
    number_of,
    reply_text,
)

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, End, Process, Runtime

__all__ = ["Child"]


class Child:
    """See the module's text.  One task calls `serve`, any task the other methods.

    `dismissed` is why main does not serve it, once `serve` has returned because of that.

    `kernel`: the kernel accesses guest memory too (system calls get addresses in it), which takes
    more privileges to serve.
    """

    def __init__(self, runtime: Runtime, end: End, *, kernel: bool = False) -> None:
        self._runtime = runtime
        self._end = end
        self._kernel = kernel
        self.gate = Gate(runtime, "child")
        self._rams: dict[str, Ram] = {}
        self._uffd: int | None = None  # stays open here too, after main has got it
        self._announce: Connection | None = None  # where main hears of a child of this process
        self.dismissed = ""

    def memory(self) -> Mapping[str, Ram]:
        """Wait until main has sent guest memory, and return it by the names of the VMs."""
        with self.touching():
            return self._rams

    @contextmanager
    def touching(self) -> Iterator[None]:
        """Allow accesses to guest memory in a ``with``; waits while the machine is suspended."""
        self.gate.enter()
        try:
            yield
        finally:
            self.gate.leave()

    def start_child(
        self,
        name: str,
        program: Callable[..., None],
        ends: Sequence[End] = (),
        *,
        dynamic: bool = True,
        vms: Sequence[str] | None = None,
    ) -> Process:
        """Start a process that maps the memory of VMs (None: of all that this one maps) as this one does.

        It calls the importable ``program(runtime, end, *ends)``, makes a `Child` with ``end``, and lives
        until its program ends, which it must when `serve` returns: also longer than this process.  `ends` are
        handed over.  This does not wait for main, and may be called at any time after `memory` has returned, also inside
        `touching`; the child's `memory` waits until it is served.  Where main does not take it, its `serve`
        returns.  A `dynamic` one may die; one that may not (see `MachineSwap.add_process`) is taken from a
        process alone that may not die either.  `name`: at most 32 letters, digits, dots, ``-`` and ``_``.
        Raises HfschedError, and OSError if it cannot be started.
        """
        if self._announce is None:
            raise HfschedError(
                f"child {name}: this process is not served itself: wait for `memory`"
            )
        return start(self._runtime, self._announce, name, program, ends, dynamic=dynamic, vms=vms)

    def serve(self) -> None:
        """Answer main's requests until main has ended, or does not serve this process."""
        with suppress(ChannelClosedError):
            while not self.dismissed:
                self._runtime.retain_only(tuple(self._rams), self._uffd is None)
                received = self._end.recv()
                assert received is not None
                self._take(*received)
        self._end.close()
        if self._announce is not None:
            self._announce.close()

    def _take(self, data: bytes, fds: list[int]) -> None:
        given: Sequence[int] = ()
        try:
            number, request = decode_request(data)
            if isinstance(request, Welcome | Dismiss):
                self._begin(request, fds)
                return
            answer, given = self._answer(request, fds)
        except ProtocolError as exc:
            number, answer = number_of(data), Refused(text=str(exc))
        except (HfschedError, OSError) as exc:
            answer = Refused(text=reply_text(f"{describe(exc)}"))
        finally:
            _close(fds)  # those still in use were removed from the list
        self._end.send(encode(number, answer), given)
        if isinstance(answer, Joined):
            _close([given[1]])

    def _begin(self, message: Welcome | Dismiss, fds: list[int]) -> None:
        """Go on with a channel that main has made, or not at all."""
        if isinstance(message, Dismiss):
            self.dismissed = message.text or "main does not serve it"
        elif len(fds) != 1:  # this process has no descriptor left for it
            self.dismissed = f"main has sent a channel, and {len(fds)} descriptors have arrived"
        else:
            self._end.close()
            self._end = self._runtime.adopt_end("child", fds.pop())

    def _answer(self, request: ChildRequest, fds: list[int]) -> tuple[ChildAnswer, Sequence[int]]:
        match request:
            case Map(vms=vms):
                return Mapped(bases=self._map(vms, fds)), ()
            case Join():
                if self._uffd is not None:
                    return Refused(text="it has joined already"), ()
                self._uffd = userfault(kernel=self._kernel)
                if fds:
                    self._announce = self._runtime.adopt_connection("newcomers", fds.pop())
                return Joined(), (self._uffd, os.pidfd_open(os.getpid()))
            case Resume():
                self.gate.open()
            case Suspend(within=within):
                deadline = None if within is None else self._runtime.now() + within
                if not self.gate.close(deadline):
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
                raise ProtocolError(f"the memory of {vm.name} is mapped already")
            if os.fstat(fds[0]).st_size != vm.size:
                raise ProtocolError(f"the memory of {vm.name} must have {vm.size} bytes")
            self._rams[vm.name] = Ram(vm.name, vm.size, fds.pop(0))
        return tuple(self._rams[vm.name].address for vm in vms)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
