"""Kill a vhost-user block device again and again while a Linux guest writes, and verify each block.

    python bench/vhost_kills.py [--kills N] [--writers N] [--foreign]

`hfsched device block` serves a QEMU guest in which --writers (4) loops write numbered blocks, each into a region of its own, without a
cache.  It is killed --kills (1000) times by SIGKILL, each time when more was written, and started again; QEMU connects again, and hands the
memory of in-flight descriptors over.  Every 50 kills, and in the end, each block that a writer was told is written has its number, and
no writer has met an error.  With --foreign qemu-storage-daemon is killed, which keeps no in-flight descriptors: for comparison.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

_TOP = Path(__file__).resolve().parent.parent
for _folder in ("", "tests/vhost", "tests/conformance"):
    sys.path.insert(0, str(_TOP / _folder))

from frontends.linux import Device, LinuxGuest  # noqa: E402 - from the folders just named
from frontends.ours import OurDevice  # noqa: E402 - from the folders just named
from frontends.storage_daemon import StorageDaemon  # noqa: E402 - from the folders just named

BLOCK = 512
REGION = 1 << 14  # blocks of a writer
CHECK_EVERY = 50  # kills
# Writes n into block n of the region $1, again from its beginning when that is full.
WRITER = (
    f"writer() {{ n=0; while :; do n=$((n+1)); at=$(( $1 * {REGION} + n % {REGION} ));"
    " echo $1.$n | dd of=/dev/vda bs=512 seek=$at count=1 conv=sync oflag=direct 2>/dev/null ||"
    " { echo $n >/failed; break; }; echo $n >/next.$1; mv /next.$1 /last.$1; done; }"
)


def served(socket: Path, disk: Path, *, foreign: bool) -> OurDevice | StorageDaemon:
    """Return a back-end."""
    return StorageDaemon(socket, disk) if foreign else OurDevice(socket, "block", str(disk))


def verify(guest: LinuxGuest, disk: Path, writers: int) -> int:
    """Check what was written; return how many blocks that are."""
    if guest.shell("[ ! -e /failed ] || cat /failed").strip():
        raise SystemExit("a writer has met an error")
    total = 0
    with disk.open("rb") as opened:
        for writer in range(writers):
            last = int(guest.shell(f"cat /last.{writer}"))
            total += last
            for number in range(max(1, last - REGION // 2), last + 1):
                opened.seek((writer * REGION + number % REGION) * BLOCK)
                wanted = f"{writer}.{number}\n".encode().ljust(BLOCK, b"\0")
                if opened.read(BLOCK) != wanted:
                    raise SystemExit(f"writer {writer}: block {number} is not what was written")
    return total


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--foreign", action="store_true")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        disk, socket = Path(name) / "disk", Path(name) / "socket"
        disk.touch()
        with disk.open("r+b") as opened:
            opened.truncate(args.writers * REGION * BLOCK)
        backend = stack.enter_context(ExitStack())  # ends after the guest
        device: OurDevice | StorageDaemon = served(socket, disk, foreign=args.foreign)
        backend.enter_context(device)
        guest = stack.enter_context(LinuxGuest.bare())
        guest.plug(Device("blk", socket, reconnect_ms=10))
        guest.wait_file("/dev/vda")
        guest.shell(WRITER)
        for writer in range(args.writers):
            guest.shell(f"writer {writer} &")
            guest.wait_file(f"/last.{writer}")
        for kill in range(1, args.kills + 1):
            before = guest.shell("cat /last.0").strip()
            device.kill()
            device = served(socket, disk, foreign=args.foreign)
            backend.enter_context(device)
            guest.wait_until(f"[ $(cat /last.0) != {before} ]")
            if kill % CHECK_EVERY == 0 or kill == args.kills:
                total = verify(guest, disk, args.writers)
                took = time.monotonic() - began
                print(f"{kill} kills, {total} blocks written, all right; {took:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
