"""`hfsched device fs` under QEMU with a Linux guest."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from frontends.linux import Device, LinuxGuest, Shape
from frontends.ours import OurDevice
from frontends.serial import ShellError
from longer import longer, param

MOUNT = "mount -t virtiofs shared /mnt"


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / "share"
    path.mkdir()
    return path


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def fs(socket: Path, share: Path, *arguments: str) -> OurDevice:
    return OurDevice(socket, "fs", str(share), "--tag", "shared", *arguments)


def device(socket: Path) -> Device:
    return Device("fs", socket, properties={"tag": "shared"})


def names(share: Path) -> list[str]:
    return sorted(path.name for path in share.iterdir())


@contextmanager
def mounted(socket: Path, share: Path, *arguments: str) -> Iterator[LinuxGuest]:
    """Run a guest that has mounted the share."""
    with fs(socket, share, *arguments), LinuxGuest.bare() as guest:
        guest.plug(device(socket))
        guest.wait_until(f"{MOUNT} 2>/dev/null")
        yield guest


def test_both_sides_see_the_same_files(share: Path, socket: Path) -> None:
    data = random.Random(1).randbytes(3 << 20)
    (share / "big").write_bytes(data)
    (share / "dir").mkdir()
    (share / "dir" / "link").symlink_to("../big")
    for number in range(300):
        (share / "dir" / f"many-{number:03}").touch()
    with mounted(socket, share) as guest:
        shell = guest.shell
        assert shell("sha256sum </mnt/big").split()[0] == hashlib.sha256(data).hexdigest()
        assert shell("sha256sum </mnt/dir/link").split()[0] == hashlib.sha256(data).hexdigest()
        listed = shell("ls -1a /mnt/dir").split()
        assert listed == [".", "..", "link", *(f"many-{number:03}" for number in range(300))]
        shell("cd /mnt; cp big copy; echo one >text; echo two >>text; mkdir -p a/b; mv text a/b/")
        assert (share / "copy").read_bytes() == data
        assert (share / "a/b/text").read_text() == "one\ntwo\n"
        shell(
            "cd /mnt; ln a/b/text hard; ln -s a/b soft; chmod 640 hard; touch -d @1000000000 hard"
        )
        found = (share / "hard").stat()
        assert (found.st_nlink, stat.S_IMODE(found.st_mode), found.st_mtime) == (2, 0o640, 1e9)
        assert (share / "soft").readlink() == Path("a/b")
        shell("cd /mnt; rm hard; rm -r dir; truncate -s 5 copy; mv -f copy big; sync")
        assert (share / "big").read_bytes() == data[:5]
        assert names(share) == ["a", "big", "soft"]
        assert shell("cat /mnt/soft/text; stat -c %a:%s /mnt/big").split() == [
            "one",
            "two",
            "644:5",
        ]
        assert int(shell("stat -f -c %S /mnt")) == os.statvfs(share).f_frsize
        # What another process of the host does is seen as soon as names and attributes are asked for again.
        (share / "late").write_text("late")
        assert shell("cat /mnt/late") == "late"
        shell("cd /; umount /mnt; mount -t virtiofs shared /mnt; [ -d /mnt/a/b ]")


def test_what_is_not_supported_is_refused(share: Path, socket: Path) -> None:
    with mounted(socket, share) as guest:
        for line in ("mkfifo /mnt/fifo", "mknod /mnt/null c 1 3", "mknod /mnt/disk b 8 0"):
            with pytest.raises(ShellError, match="not permitted"):
                guest.shell(line)
        os.mkfifo(share / "fifo")
        assert guest.shell("[ -p /mnt/fifo ]; stat -c %F /mnt/fifo").strip() == "fifo"
        assert names(share) == ["fifo"]


def test_a_link_out_of_the_share_leads_to_the_guests_own_files(share: Path, socket: Path) -> None:
    outside = share.parent / "outside"
    outside.write_text("the host's")
    (share / "out").symlink_to("/outside")
    (share / "up").symlink_to("../../outside")
    with mounted(socket, share) as guest:
        guest.shell("echo the guest\\'s >/outside; mkdir -p /mnt/dir")
        assert guest.shell("cat /mnt/out; cat /mnt/up").split("\n")[:2] == ["the guest's"] * 2
        assert guest.shell("cd /mnt/dir/../..; pwd; ls -d /mnt/..").split() == ["/", "/mnt/.."]
    assert outside.read_text() == "the host's"


def test_a_read_only_share(share: Path, socket: Path) -> None:
    (share / "file").write_text("text")
    with mounted(socket, share, "--read-only") as guest:
        assert guest.shell("cat /mnt/file") == "text"
        for line in ("echo >/mnt/file", "touch /mnt/new", "rm /mnt/file", "chmod 0 /mnt/file"):
            with pytest.raises(ShellError, match="Read-only file system"):
                guest.shell(line)
    assert (share / "file").read_text() == "text"


# Each step reads what the one before it wrote, by a program in the share.
BUILD = (
    "cd /mnt && for n in $(seq 40); do mkdir -p obj/$((n%7)) && echo source $n >src-$n.c; done && "
    "for n in $(seq 40); do ./busybox sed s/source/object/ src-$n.c >obj/.tmp-$n && "
    "./busybox sha256sum obj/.tmp-$n >>log && mv obj/.tmp-$n obj/$((n%7))/$n.o; done && "
    "./busybox find obj -name '*.o' | ./busybox sort | ./busybox xargs ./busybox cat >program.new && "
    "chmod 755 program.new && mv program.new program && ./busybox tar cf all.tar obj && "
    "./busybox tar tf all.tar | ./busybox wc -l"
)


@longer
def test_a_guest_builds_in_a_share(share: Path, socket: Path) -> None:
    with mounted(socket, share) as guest:
        guest.shell("cp /bin/busybox /mnt/busybox")
        assert int(guest.shell(BUILD)) == 48  # 40 objects, 7 directories and the one that has them
    objects = sorted(path.relative_to(share).as_posix() for path in share.glob("obj/*/*.o"))
    assert len(objects) == 40
    texts = "".join((share / name).read_text() for name in objects)
    assert (share / "program").read_text() == texts
    sums = [
        f"{hashlib.sha256(b'object %d%c' % (n, 10)).hexdigest()}  obj/.tmp-{n}"
        for n in range(1, 41)
    ]
    assert (share / "log").read_text().splitlines() == sums
    assert not list(share.glob("obj/.tmp*"))


# Appends numbers to a file that stays open, and has read half of another one.
COUNT = (
    "exec 3>>/mnt/dir/numbers 4</mnt/dir/lines; count() { n=0; while :; do n=$((n+1)); "
    "echo $n >&3 || echo FAILED; echo $n >/next; mv /next /last; done; }; echo 0 >/last; count & read a <&4; echo $a"
)


@pytest.mark.parametrize("live", [param(False, "stopped"), pytest.param(True, id="live")])
def test_open_files_go_on_with_a_fresh_back_end_twice(
    share: Path, socket: Path, tmp_path: Path, live: bool
) -> None:
    (share / "dir").mkdir()
    (share / "dir" / "lines").write_text("".join(f"line-{n}\n" for n in range(5000)))
    (share / "gone").write_text("soon")
    with mounted(socket, share) as guest:
        assert guest.shell(COUNT).strip() == "line-0"
        guest.shell("exec 5</mnt/gone; mv /mnt/dir /mnt/moved")
        guest.wait_until("[ $(cat /last) -gt 20 ]")
        guest.migrate_to_file(tmp_path / "saved-0", live=live)
    (share / "gone").unlink()
    for number in (1, 2):
        with ExitStack() as stack:
            stack.enter_context(fs(socket, share))
            guest = stack.enter_context(
                LinuxGuest([device(socket)], incoming=tmp_path / f"saved-{number - 1}")
            )
            guest.wait_until(f"[ $(cat /last) -gt {100 * number} ]")
            assert guest.shell("read a <&4; echo $a").strip() == f"line-{number}"
            with pytest.raises(ShellError, match="Stale file handle"):
                guest.shell("cat <&5")
            last = int(guest.shell("cat /last"))
            text = (share / "moved" / "numbers").read_text()
            assert text.startswith("".join(f"{n}\n" for n in range(1, last + 1)))
            guest.shell("ls /mnt/moved; [ ! -e /mnt/gone ]; echo new >/mnt/new; rm /mnt/new")
            guest.migrate_to_file(tmp_path / f"saved-{number}", live=live)


PROGRAM = '#include <stdio.h>\nint twice(int);\nint main(void) { printf("%d\\n", twice(21)); return 0; }\n'


GCC = shutil.which("gcc")


@pytest.mark.skipif(GCC is None, reason="there is no compiler to be shared")
def test_a_guest_compiles_with_the_hosts_compiler(share: Path, tmp_path: Path) -> None:
    (share / "main.c").write_text(PROGRAM)
    (share / "twice.c").write_text("int twice(int number) { return 2 * number; }\n")
    sockets = tmp_path / "host", tmp_path / "work"
    with (
        OurDevice(sockets[0], "fs", "/", "--tag", "host", "--read-only") as host,
        OurDevice(sockets[1], "fs", str(share), "--tag", "work"),
        LinuxGuest.bare(Shape(memory=512)) as guest,
    ):
        for tag, socket, at in (("host", sockets[0], "/mnt"), ("work", sockets[1], "/mnt/tmp")):
            guest.plug(Device("fs", socket, tag, {"tag": tag}))
            guest.wait_until(f"mount -t virtiofs {tag} {at} 2>/dev/null")
        gcc = f"PATH=/bin:/usr/bin chroot /mnt {GCC} -pipe"
        for name in ("main", "twice"):
            guest.shell(f"{gcc} -c -o /tmp/{name}.o /tmp/{name}.c")
        guest.shell(f"{gcc} -o /tmp/program /tmp/main.o /tmp/twice.o")
        assert guest.shell("chroot /mnt /tmp/program") == "42\n"
        assert host.alive
    assert subprocess.run([share / "program"], capture_output=True, check=True).stdout == b"42\n"
