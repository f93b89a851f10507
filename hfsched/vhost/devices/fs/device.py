"""A file system device (virtio 1.3, section 5.11) on a directory."""

from __future__ import annotations

import errno
import resource
import struct
from typing import TYPE_CHECKING, Any

from hfsched.errors import UserError
from hfsched.vhost.device import Device
from hfsched.vhost.devices.fs import state as states
from hfsched.vhost.devices.fs.handles import Handles
from hfsched.vhost.devices.fs.inodes import Inodes, Root
from hfsched.vhost.devices.fs.server import REQUEST_MAX, UNANSWERED, Server
from hfsched.vhost.devices.fs.share import Share
from hfsched.vhost.devices.fs.wire import HEADER, REPLY_HEADER, Header, fault, reply_header

if TYPE_CHECKING:
    from hfsched.vhost.queue import Queue
    from hfsched.vhost.request import Request

__all__ = ["TAG_MAX", "Fs"]

TAG_MAX = 36  # bytes
_CONFIG = struct.Struct(f"<{TAG_MAX}sI")
_OTHERS = 64  # descriptors of the process that are no file's of the guest
_DESCRIPTORS_MAX = 1 << 20


class Fs(Device):
    """The directory at a path, which the guest mounts by a tag; `request_queues` besides the one of high priority.

    `descriptors` is how many the guest's files may take: by default what the process may have open.  Three quarters are for
    files that the guest knows (ENFILE), one for those that it has open (EMFILE).

    Files that the guest creates belong to who created them if this process is root's; else to this process.  The guest's root
    can then make set-user-ID programs of the host's root: what is shared should be on a file system that is mounted nosuid.
    Who moves a directory that the guest knows out of the share has given it to the guest.  Raises UserError for a directory
    or a tag that cannot be used.
    """

    type_id = 26

    def __init__(
        self,
        directory: str,
        tag: str,
        *,
        read_only: bool = False,
        request_queues: int = 1,
        descriptors: int | None = None,
    ) -> None:
        self._tag = tag.encode()
        if not 1 <= len(self._tag) <= TAG_MAX or b"\0" in self._tag:
            raise UserError(f"tag {tag!r}: 1 to {TAG_MAX} bytes, and no NUL")
        self.queues = 1 + request_queues
        if descriptors is None:
            descriptors = _allowed() - _OTHERS
        handles = max(descriptors // 4, 1)
        self._limits = (max(descriptors - handles, 1), handles)
        root = Root(directory)
        nodes, handles = self._limits
        self._share = Share(root, Inodes(root, nodes), Handles(handles), read_only)
        self._server = Server(self._share)

    def config(self) -> bytes:
        """See `Device`."""
        return _CONFIG.pack(self._tag, self.queues - 1)

    def process(self, queue: Queue, request: Request) -> None:  # noqa: ARG002 - all are alike
        """Answer a request, of any queue."""
        if request.read_size >= HEADER.size:
            self._carry_out(request)
        request.complete()

    def _carry_out(self, request: Request) -> None:
        header = Header(*HEADER.unpack(request.read(HEADER.size)))
        room = request.write_size - REPLY_HEADER.size
        whole = HEADER.size <= header.length <= min(request.read_size, REQUEST_MAX)
        body = request.read(header.length - HEADER.size, HEADER.size) if whole else b""
        if header.opcode in UNANSWERED:
            self._server.note(header, body)
            return
        if room < 0:
            return  # nothing is done that could not be answered
        try:
            if not whole:
                raise fault(errno.EINVAL)
            payload = self._server.answer(header, body, room)
        except OSError as exc:
            request.write(reply_header(0, header.unique, exc.errno or errno.EIO))
            return
        request.write(payload, REPLY_HEADER.size)
        request.write(reply_header(len(payload), header.unique))

    # Its life.

    def suspend(self) -> None:
        """See `Device`."""
        self._share.handles.sync()

    def reset(self) -> None:
        """See `Device`."""
        self._server.end()

    def save(self) -> Any:
        """See `Device`: the files' contents are not in it."""
        return states.save(self._share, self._server.minor)

    def restore(self, state: Any) -> None:
        """See `Device`: the same directory is to be shared."""
        share = self._share
        made = states.restore(share.root, state, self._limits, read_only=share.read_only)
        share.clear()
        share.inodes, share.handles, self._server.minor = made
        gone = sum(node.fd < 0 for node in share.inodes)
        if gone:
            self.host.notice(f"files that the guest knows and that are not there any more: {gone}")

    def close(self) -> None:
        """See `Device`."""
        self._share.clear()
        self._share.root.close()


def _allowed() -> int:
    """Return how many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _DESCRIPTORS_MAX if soft == resource.RLIM_INFINITY else min(soft, _DESCRIPTORS_MAX)
