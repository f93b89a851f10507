"""What the kernel says about written pages: at edges, of memory that is unmapped, of processes that end."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from hfsched.memory import userfault, writeprotect
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.memory.writeprotect import Run, merged

needs_tracking = pytest.mark.skipif(
    writeprotect.problem() is not None, reason=str(writeprotect.problem())
)
PAGES = 1200  # more than two page tables have


class Tracked:
    """Memory that is tracked, of this process."""

    def __init__(self, pages: int = PAGES) -> None:
        self.ram = Ram("guest", pages * PAGE_SIZE)
        self.uffd = writeprotect.open_tracker()
        self.pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def arm(self) -> None:
        writeprotect.register(self.uffd, self.ram.address, self.ram.size, faults=False)
        self.written()

    def written(self, *, protect: bool = True) -> list[Run]:
        return writeprotect.written(self.pagemap, self.ram.address, self.ram.size, protect=protect)

    def write(self, *pages: int) -> None:
        for page in pages:
            self.ram.write(page * PAGE_SIZE + 8, b"x")

    def zap(self) -> None:
        call = ctypes.CDLL(None).madvise
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        assert call(self.ram.address, self.ram.size, mmap.MADV_DONTNEED) == 0

    def close(self) -> None:
        os.close(self.uffd)
        os.close(self.pagemap)
        self.ram.close()


@pytest.fixture
def tracked() -> Iterator[Tracked]:
    made = Tracked()
    yield made
    made.close()


def test_it_is_possible_since_linux_6_7() -> None:
    """Else all tests here would be skipped."""
    if tuple(map(int, platform.release().split(".")[:2])) < (6, 7):
        pytest.skip("an older kernel")
    try:
        os.close(userfault.open_descriptor(os.O_CLOEXEC | userfault.USER_MODE_ONLY))
    except OSError as exc:
        pytest.skip(f"no userfaultfd: {exc}")
    assert writeprotect.problem() is None


@needs_tracking
def test_all_is_written_until_it_is_protected(tracked: Tracked) -> None:
    tracked.write(3)
    writeprotect.register(tracked.uffd, tracked.ram.address, tracked.ram.size, faults=False)
    assert tracked.written(protect=False) == [(0, PAGES)]
    assert tracked.written() == [(0, PAGES)]
    assert tracked.written() == []


@needs_tracking
def test_writes_are_seen_at_both_ends_and_reads_are_not(tracked: Tracked) -> None:
    tracked.arm()
    for page in range(0, PAGES, 7):
        tracked.ram.read(page * PAGE_SIZE, PAGE_SIZE)
    assert tracked.written() == []
    tracked.write(0, PAGES - 1, 511, 512, 600)
    assert tracked.written(protect=False) == [(0, 1), (511, 2), (600, 1), (PAGES - 1, 1)]
    assert tracked.written() == [(0, 1), (511, 2), (600, 1), (PAGES - 1, 1)]
    assert tracked.written() == []


@needs_tracking
def test_more_runs_than_one_answer_has() -> None:
    tracked = Tracked(5 * writeprotect._REGIONS)
    try:
        tracked.arm()
        tracked.write(*range(0, 5 * writeprotect._REGIONS, 2))
        assert tracked.written() == [(page, 1) for page in range(0, 5 * writeprotect._REGIONS, 2)]
        assert tracked.written() == []
    finally:
        tracked.close()


@needs_tracking
def test_unmapped_pages_are_as_they_were(tracked: Tracked) -> None:
    tracked.write(*range(0, PAGES, 2))
    tracked.arm()
    tracked.write(5, 6)
    tracked.zap()
    assert tracked.written(protect=False) == [(5, 2)]
    assert tracked.written() == [(5, 2)]
    for page in range(PAGES):
        tracked.ram.read(page * PAGE_SIZE, 1)
    assert tracked.written() == []


@needs_tracking
def test_a_page_table_that_the_kernel_may_free_is_written(tracked: Tracked) -> None:
    """All that it maps was written and is unmapped: no marker is in it."""
    tracked.arm()
    tracked.write(*range(PAGES))
    tracked.zap()
    assert tracked.written() == [(0, PAGES)]
    assert tracked.written() == []
    tracked.ram.read(700 * PAGE_SIZE, 1)
    assert tracked.written() == []


@needs_tracking
def test_what_is_neither_mapped_nor_marked_is_found_by_a_scan_of_its_own(tracked: Tracked) -> None:
    """Kernels differ in whether that is among what is written."""
    address, size = tracked.ram.address, tracked.ram.size
    writeprotect.register(tracked.uffd, address, size, faults=False)
    tracked.write(700)
    neither = writeprotect._NEITHER

    def holes(flags: int) -> list[Run]:
        return writeprotect._scan(
            tracked.pagemap, address, size, flags, all_of=neither, inverted=neither
        )

    assert holes(0) == [(0, 700), (701, PAGES - 701)]
    assert holes(writeprotect._PROTECT) == [(0, 700), (701, PAGES - 701)]
    assert holes(0) == []
    assert tracked.written() == [(700, 1)]


@needs_tracking
def test_a_system_call_that_writes_is_seen(tracked: Tracked) -> None:
    """The userfaultfd is for user mode alone; it gets no faults."""
    tracked.arm()
    view = (ctypes.c_char * PAGE_SIZE).from_address(tracked.ram.address + 9 * PAGE_SIZE)
    with Path("/dev/zero").open("rb", buffering=0) as file:
        assert file.readinto(view) == PAGE_SIZE
    assert tracked.written() == [(9, 1)]


@needs_tracking
def test_what_is_not_tracked_any_more_is_an_error(tracked: Tracked) -> None:
    tracked.arm()
    assert writeprotect.is_tracked(tracked.pagemap, tracked.ram.address, tracked.ram.size)
    writeprotect.unregister(tracked.uffd, tracked.ram.address, tracked.ram.size)
    with pytest.raises(PermissionError):
        tracked.written()
    assert not writeprotect.is_tracked(tracked.pagemap, tracked.ram.address, tracked.ram.size)


@needs_tracking
def test_after_its_release_all_is_written(tracked: Tracked) -> None:
    tracked.arm()
    writeprotect.release(tracked.uffd, tracked.ram.address, tracked.ram.size)
    assert tracked.written() == [(0, PAGES)]


@needs_tracking
def test_no_write_falls_between_the_scan_and_the_protection() -> None:
    """Whoever copies what each scan returns has all of it in the end."""
    pages = 64
    tracked = Tracked(pages)
    copies = [bytes(8)] * pages
    stop = threading.Event()

    def write() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            tracked.ram.write(count * 7 % pages * PAGE_SIZE, count.to_bytes(8, "little"))

    def copy() -> int:
        runs = tracked.written()
        for first, count in runs:
            for page in range(first, first + count):
                copies[page] = tracked.ram.read(page * PAGE_SIZE, 8)
        return len(runs)

    try:
        tracked.arm()
        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        found = sum(copy() for _ in range(500))
        stop.set()
        thread.join()
        copy()
        assert found > 0
        assert copies == [tracked.ram.read(page * PAGE_SIZE, 8) for page in range(pages)]
    finally:
        tracked.close()


# Another process.

OTHER = """
import ctypes, mmap, os, socket, sys
from hfsched.memory import writeprotect
end, memfd, pages = (int(word) for word in sys.argv[1:])
end = socket.socket(fileno=end)
memory = mmap.mmap(memfd, pages * 4096)
anchor = (ctypes.c_char * len(memory)).from_buffer(memory)
socket.send_fds(end, [str(ctypes.addressof(anchor)).encode()], [writeprotect.open_tracker()])
while (word := end.recv(100).decode()):
    if word == "unmap":
        del anchor
        memory.close()
    elif word == "exec":
        end.set_inheritable(True)
        os.execv(sys.executable, [sys.executable, "-c",
            "import socket, sys; end = socket.socket(fileno=int(sys.argv[1])); end.send(b'x');"
            "end.recv(1)", str(end.fileno())])
    elif word.startswith("read"):
        memory[int(word[4:]) * 4096]
    else:
        memory[int(word) * 4096] = 1
    end.send(b"x")
"""


class Other:
    """A process that has a Ram mapped, and does what it is told."""

    def __init__(self, ram: Ram) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [str(theirs.fileno()), str(ram.fd), str(ram.size // PAGE_SIZE)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, *words], pass_fds=(theirs.fileno(), ram.fd)
        )
        theirs.close()
        data, (self.uffd,), _, _ = socket.recv_fds(self._end, 100, 1)
        self.base, self.size = int(data), ram.size
        self.pagemap = os.open(f"/proc/{self.process.pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def tell(self, word: str) -> None:
        self._end.send(word.encode())
        assert self._end.recv(1) == b"x"

    def written(self) -> list[Run]:
        return writeprotect.written(self.pagemap, self.base, self.size, protect=True)

    def is_there(self) -> bool:
        """Return whether it has its memory mapped, and lives."""
        try:
            tracked = writeprotect.is_tracked(self.pagemap, self.base, self.size)
        except ProcessLookupError:
            return False
        return tracked and writeprotect.is_alive(self.uffd)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self._end.close()
        os.close(self.uffd)
        os.close(self.pagemap)


@pytest.fixture
def other(tracked: Tracked) -> Iterator[Other]:
    made = Other(tracked.ram)
    writeprotect.register(made.uffd, made.base, made.size, faults=False)
    assert made.written() == [(0, PAGES)]
    yield made
    made.close()


@needs_tracking
def test_each_process_has_its_own_writes(tracked: Tracked, other: Other) -> None:
    tracked.arm()
    other.tell("read3")
    other.tell("4")
    other.tell(str(PAGES - 1))
    tracked.write(5)
    assert other.written() == [(4, 1), (PAGES - 1, 1)]
    assert tracked.written() == [(5, 1)]
    assert (other.written(), tracked.written(), other.is_there()) == ([], [], True)


@needs_tracking
def test_memory_that_a_process_has_unmapped_is_not_there(other: Other) -> None:
    other.tell("4")
    other.tell("unmap")
    assert not other.is_there()


@needs_tracking
@pytest.mark.parametrize("end", ["kill", "exec"])
def test_a_process_that_has_ended_is_not_there(other: Other, end: str) -> None:
    other.tell("4")
    assert other.is_there()
    if end == "kill":
        other.kill()
    else:
        other.tell("exec")
    assert not other.is_there()
    with pytest.raises(ProcessLookupError):
        other.written()


@needs_tracking
def test_no_privilege_is_needed() -> None:
    """Root without capabilities may have a userfaultfd for user mode alone, as any user."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root has privileges to give up, by setpriv")
    program = "import os; from hfsched.memory import writeprotect; print(os.getuid(), writeprotect.problem())"
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "0 None\n"


# The reasons.


def raises(error: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(error, os.strerror(error))

    return fail


@needs_tracking
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.EINVAL, "the kernel needs Linux 6.7 "),
        (errno.ENOSYS, "the kernel needs Linux 6.7 "),
        (errno.EPERM, "userfaultfd: not permitted, "),
        (errno.EMFILE, "userfaultfd: Too many open files"),
    ],
)
def test_why_there_is_no_tracker(error: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userfault, "open_descriptor", raises(error))
    found = writeprotect.problem()
    assert found is not None
    assert found.startswith(reason)
    assert "\n" not in found


@needs_tracking
def test_a_kernel_without_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeprotect, "_SCAN", 0xC0606600)  # no request of that file
    assert str(writeprotect.problem()).startswith("the kernel needs Linux 6.7 ")


@needs_tracking
def test_a_kernel_that_sees_no_writes_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeprotect, "written", lambda *_, **__: [])
    assert str(writeprotect.problem()).startswith("the kernel tracks writes otherwise")


def test_runs_in_any_order_become_the_fewest() -> None:
    assert merged([]) == []
    assert merged([(5, 2), (0, 1), (7, 1), (1, 1), (6, 4), (20, 1)]) == [(0, 2), (5, 5), (20, 1)]


def test_merged_runs_have_the_same_pages() -> None:
    drawn = random.Random(3)
    for _ in range(200):
        runs = [(drawn.randrange(60), drawn.randint(1, 6)) for _ in range(drawn.randrange(12))]
        made = merged(list(runs))
        pages = {first + each for first, count in runs for each in range(count)}
        assert {first + each for first, count in made for each in range(count)} == pages
        assert all(a + count < b for (a, count), (b, _) in pairwise(made))
