"""Programs that tests of swap start: a monitor, and a process that maps guest memory."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from typing import TYPE_CHECKING, Any

from hfsched.runtime.base import ChannelClosedError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.core.guestpages import GuestPages, Region, zap
from hfsched.swap.core.stores import Stores, SwapFile
from hfsched.swap.pages.entries import Staging

from .basics import PAGE, userfault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.runtime.base import End, Process, Runtime


def monitor(_: Runtime, end: End) -> None:
    """Serve guest memory, and do what is asked for."""
    got = end.recv()
    assert got is not None
    what, fds = json.loads(got[0]), got[1]
    staging = Staging(what["staging"])
    shape = Stores(
        what["pages"],
        staging,
        -1,
        SwapFile(-1, -1, direct=False),
        -1 if staging is Staging.COPY else None,
        -1 if what["tier"] else None,
        what["tier"],
    )
    ram, uffds, rest = fds[0], fds[1 : 1 + what["members"]], fds[1 + what["members"] :]
    pages = GuestPages(shape.adopt(rest), [Region(ram, what["pages"])], around=what["around"])
    for uffd, base in zip(uffds, what["bases"], strict=True):
        pages.add_member(uffd, [base])
    pages.take_over()
    pages.start()
    end.send(b"ready")
    while True:
        try:
            got = end.recv()
        except ChannelClosedError:
            break
        assert got is not None
        name, *limit = got[0].decode().split()
        done: Any = None
        if limit:
            while not getattr(pages, name)(int(limit[0])).done:
                pass
        else:
            done = getattr(pages, name)()
        end.send(json.dumps(done if name == "stage" else None).encode())
    pages.close()


def pid_of(process: Process | None) -> int:
    """Return the process id of a process that runs."""
    assert process is not None
    assert process.pid is not None
    return process.pid


def start_monitor(
    stores: Stores, ram: int, members: Sequence[tuple[int, int]], around: int
) -> tuple[Process, End]:
    """Start a monitor for members (uffd, base), which takes over; return once it serves."""
    runtime = ThreadRuntime()
    mine, its = runtime.channel("monitor")
    process = runtime.process("monitor", monitor, [its])
    what = {
        "pages": stores.pages,
        "staging": stores.staging.value,
        "tier": stores.tier_size,
        "around": around,
        "members": len(members),
        "bases": [base for _, base in members],
    }
    fds = [ram, *(uffd for uffd, _ in members), *stores.descriptors()]
    mine.send(json.dumps(what).encode(), fds)
    assert mine.recv() is not None
    return process, mine


def member(_: Runtime, end: End) -> None:
    """Map guest memory, hand over a userfaultfd, unmap and read pages on request."""
    got = end.recv()
    assert got is not None
    size = int(got[0])
    memory = mmap.mmap(got[1][0], size)
    anchor = (ctypes.c_char * size).from_buffer(memory)
    base = ctypes.addressof(anchor)
    end.send(str(base).encode(), [userfault()])
    while (got := end.recv()) is not None and got[0] != b"end":
        if got[0] == b"zap":
            zap(base, size)
            end.send(b"zapped")
        else:
            end.send(ctypes.string_at(base + int(got[0]) * PAGE, PAGE))


class Member:
    """The other side of `member`."""

    def __init__(self, ram: int, pages: int) -> None:
        runtime = ThreadRuntime()
        self.end, its = runtime.channel("member")
        self.process = runtime.process("member", member, [its])
        self.end.send(str(pages * PAGE).encode(), [ram])
        got = self.end.recv()
        assert got is not None
        self.base, (self.uffd,) = int(got[0]), got[1]

    def ask(self, what: bytes) -> bytes:
        self.end.send(what)
        got = self.end.recv()
        assert got is not None
        return got[0]

    def read(self, page: int) -> bytes:
        return self.ask(str(page).encode())

    def kill(self) -> None:
        self.process.kill()
        assert self.process.join()

    def close(self) -> None:
        self.end.send(b"end")
        assert self.process.join()
        self.end.close()
        os.close(self.uffd)
