"""libblkio as a front-end of vhost-user-blk: requests without a VM, at any queue depth.

Its functions are called by cffi (ABI mode) and let other threads run; a queue is for one thread at a
time. libblkio itself waits without end for a back-end that does not answer, and does not notice that
one has gone: here everything has a timeout.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cffi
from progress import QUIET

from .packages import programs

__all__ = ["Blkio", "BlkioError", "Done", "Request"]

_DECLARATIONS = """
struct blkio;
struct blkioq;
struct blkio_mem_region {
    void *addr; size_t len; uint64_t iova; int64_t fd_offset; int fd; uint32_t flags;
};
struct blkio_completion { void *user_data; const char *error_msg; int ret; uint8_t reserved_[12]; };
struct timespec { long tv_sec; long tv_nsec; };
const char *blkio_get_error_msg(void);
int blkio_create(const char *driver, struct blkio **bp);
int blkio_connect(struct blkio *b);
int blkio_start(struct blkio *b);
void blkio_destroy(struct blkio **bp);
int blkio_get_int(struct blkio *b, const char *name, int *value);
int blkio_get_uint64(struct blkio *b, const char *name, uint64_t *value);
int blkio_set_bool(struct blkio *b, const char *name, bool value);
int blkio_set_int(struct blkio *b, const char *name, int value);
int blkio_set_str(struct blkio *b, const char *name, const char *value);
int blkio_alloc_mem_region(struct blkio *b, struct blkio_mem_region *region, size_t len);
int blkio_map_mem_region(struct blkio *b, const struct blkio_mem_region *region);
struct blkioq *blkio_get_queue(struct blkio *b, int index);
void blkioq_read(struct blkioq *q, uint64_t start, void *buf, size_t len, void *user_data,
                 uint32_t flags);
void blkioq_write(struct blkioq *q, uint64_t start, const void *buf, size_t len, void *user_data,
                  uint32_t flags);
void blkioq_write_zeroes(struct blkioq *q, uint64_t start, uint64_t len, void *user_data,
                         uint32_t flags);
void blkioq_discard(struct blkioq *q, uint64_t start, uint64_t len, void *user_data,
                    uint32_t flags);
void blkioq_flush(struct blkioq *q, void *user_data, uint32_t flags);
int blkioq_do_io(struct blkioq *q, struct blkio_completion *completions, int min_completions,
                 int max_completions, struct timespec *timeout);
"""


class BlkioError(OSError):
    """libblkio or the back-end refused something; `errno` says why."""


@dataclass(frozen=True)
class Request:
    """What to do: ``read``, ``write``, ``flush``, ``discard`` or ``write_zeroes``; bytes.

    A write is of `data`, which decides its length.
    """

    what: str
    offset: int = 0
    length: int = 0
    data: bytes = b""


@dataclass(frozen=True)
class Done:
    """A request that has ended: `status` is 0 or a negative errno, `data` what was read."""

    request: Request
    status: int
    data: bytes = b""


class Blkio:
    """A front-end that is connected to `path`, with so many queues; used in a ``with``.

    Each queue has room for `depth` requests of up to `block` bytes. `timeout` is in seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        queues: int = 1,
        depth: int = 16,
        block: int = 1 << 16,
        read_only: bool = False,
        timeout: float = QUIET,
    ) -> None:
        self._ffi, self._library = _library()
        self._timeout = timeout
        self._block = block
        self._handle = self._ffi.new("struct blkio **")
        self._check("create", self._library.blkio_create(b"virtio-blk-vhost-user", self._handle))
        try:
            self._set("str", "path", os.fsencode(path))
            if read_only:
                self._set("bool", "read-only", True)
            self._in_time("connect", lambda: self._library.blkio_connect(self._handle[0]))
            self._set("int", "num-queues", queues)
            self._in_time("start", lambda: self._library.blkio_start(self._handle[0]))
            self._region: Any = self._ffi.new("struct blkio_mem_region *")
            size = queues * depth * block
            self._check(
                "memory", self._library.blkio_alloc_mem_region(self._handle[0], self._region, size)
            )
            self._in_time(
                "map", lambda: self._library.blkio_map_mem_region(self._handle[0], self._region)
            )
        except BaseException:
            self.close()
            raise
        self._queues = [self._library.blkio_get_queue(self._handle[0], at) for at in range(queues)]
        # By queue: the slots that are free, and what those that are not are in use for.
        self._free = [list(range(at * depth, (at + 1) * depth)) for at in range(queues)]
        self._busy: list[dict[int, Request]] = [{} for _ in range(queues)]

    @property
    def capacity(self) -> int:
        """The size of the disk in bytes, as it is now."""
        return self.number("capacity")

    def number(self, name: str) -> int:
        """Return a property of libblkio that is a number, such as ``max-queues``."""
        for kind, declared in (("uint64", "uint64_t *"), ("int", "int *")):
            value = self._ffi.new(declared)
            get = getattr(self._library, f"blkio_get_{kind}")
            status = get(self._handle[0], name.encode(), value)
            if status != -errno.ENOTTY:  # of another type
                break
        self._check(name, status)
        return int(value[0])

    def read(self, offset: int, length: int, queue: int = 0) -> bytes:
        """Read, in pieces that are in flight together."""
        pieces = [Request("read", at, size) for at, size in self._pieces(offset, length)]
        return b"".join(done.data for done in self._done(pieces, queue))

    def write(self, offset: int, data: bytes, queue: int = 0) -> None:
        """Write, in pieces that are in flight together."""
        pieces = [
            Request("write", at, data=data[at - offset :][:size])
            for at, size in self._pieces(offset, len(data))
        ]
        self._done(pieces, queue)

    def flush(self, queue: int = 0) -> None:
        """Have the back-end write all to its disk."""
        self._done([Request("flush")], queue)

    def discard(self, offset: int, length: int, queue: int = 0) -> None:
        """Give up contents."""
        self._done([Request("discard", offset, length)], queue)

    def write_zeroes(self, offset: int, length: int, queue: int = 0) -> None:
        """Write zeroes."""
        self._done([Request("write_zeroes", offset, length)], queue)

    def run(self, requests: Sequence[Request], queue: int = 0) -> list[Done]:
        """Carry out requests, as many at once as the depth allows; return them in the order of ends."""
        todo, done = list(reversed(requests)), []
        while todo or self._busy[queue]:
            while todo and self._free[queue]:
                self.submit(todo.pop(), queue)
            done += self.complete(queue)
        return done

    def submit(self, request: Request, queue: int = 0) -> None:
        """Add a request to a queue that has room; the next :meth:`complete` tells the back-end."""
        assert max(len(request.data), request.length * (request.what == "read")) <= self._block
        slot = self._free[queue].pop()
        self._busy[queue][slot] = request
        tag = self._ffi.cast("void *", slot + 1)
        library, into, at = self._library, self._queues[queue], request.offset
        if request.what == "read":
            library.blkioq_read(into, at, self._buffer(slot), request.length, tag, 0)
        elif request.what == "write":
            self._ffi.memmove(self._buffer(slot), request.data, len(request.data))
            library.blkioq_write(into, at, self._buffer(slot), len(request.data), tag, 0)
        elif request.what == "flush":
            library.blkioq_flush(into, tag, 0)
        else:
            getattr(library, f"blkioq_{request.what}")(into, at, request.length, tag, 0)

    def complete(
        self, queue: int = 0, at_least: int = 1, timeout: float | None = None
    ) -> list[Done]:
        """Tell the back-end of new requests, and return those that have ended.

        Waits for `at_least` so many; raises :class:`TimeoutError` if they do not end in time. With 0
        it does not wait.
        """
        busy = self._busy[queue]
        most = max(at_least, len(busy), 1)
        ended = self._ffi.new("struct blkio_completion[]", most)
        seconds = self._timeout if timeout is None else timeout
        limit = self._ffi.new("struct timespec *", [int(seconds), int(seconds % 1 * 1e9)])
        count = self._library.blkioq_do_io(self._queues[queue], ended, at_least, most, limit)
        if count == -errno.ETIME:
            raise TimeoutError(f"{len(busy)} requests of queue {queue} did not end in {seconds} s")
        self._check("do_io", count)
        return [self._ended(queue, ended[at]) for at in range(count)]

    def close(self) -> None:
        """Close the connection; what is in flight is given up."""
        if self._handle[0] != self._ffi.NULL:
            self._library.blkio_destroy(self._handle)

    def _ended(self, queue: int, completion: Any) -> Done:
        slot = int(self._ffi.cast("uintptr_t", completion.user_data)) - 1
        request = self._busy[queue].pop(slot)
        data = b""
        if request.what == "read" and completion.ret == 0:
            data = bytes(self._ffi.buffer(self._buffer(slot), request.length))
        self._free[queue].append(slot)
        return Done(request, completion.ret, data)

    def _done(self, requests: list[Request], queue: int) -> list[Done]:
        done = self.run(requests, queue)
        for each in done:
            self._check(each.request.what, each.status)
        return sorted(done, key=lambda each: each.request.offset)

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int]]:
        end = offset + length
        return [(at, min(self._block, end - at)) for at in range(offset, end, self._block)]

    def _buffer(self, slot: int) -> Any:
        return self._ffi.cast("char *", self._region.addr) + slot * self._block

    def _set(self, kind: str, name: str, value: Any) -> None:
        function = getattr(self._library, f"blkio_set_{kind}")
        self._check(name, function(self._handle[0], name.encode(), value))

    def _check(self, what: str, status: int, message: str = "") -> None:
        if status < 0:
            message = message or os.strerror(-status)
            raise BlkioError(-status, f"{what}: {message}")

    def _in_time(self, what: str, function: Callable[[], int]) -> None:
        """Call what may never return, in a thread that is then left behind."""
        results: list[tuple[int, str]] = []

        def call() -> None:
            status = function()
            # The message is the thread's own.
            said: Any = b""
            if status < 0:
                said = self._ffi.string(self._library.blkio_get_error_msg())
            results.append((status, said.decode(errors="replace")))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(self._timeout)
        if not results:
            self._handle = self._ffi.new("struct blkio **")  # it is in use for ever
            raise TimeoutError(f"the back-end did not answer in {self._timeout} s: {what}")
        self._check(what, *results[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@functools.cache
def _library() -> tuple[cffi.FFI, Any]:
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    return ffi, ffi.dlopen(str(programs().libraries[0] / "libblkio.so.1"))
