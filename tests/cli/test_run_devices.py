"""`hfsched run --device`: a disk that `hfsched device` serves, on the command line and in a manifest."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched.vmm.guests import bundled_images

if TYPE_CHECKING:
    from conftest import Process, Start

SECTORS = 64
with_images = pytest.mark.skipif(
    "block.bin" not in bundled_images(), reason="the bundled guests are not built: script/guests"
)


def disk(hfsched: Start, name: str) -> Process:
    """Serve a disk that begins with its name, at `NAME.sock`."""
    Path(name).write_bytes(name.encode().ljust(512 * SECTORS, b"\0"))
    device = hfsched("device", "block", "--socket", f"{name}.sock", name)
    device.until("listening at", "err")
    return device


@with_images
def test_a_guest_has_the_disks_of_the_command_line(hfsched: Start, run: Start) -> None:
    pytest.importorskip("unicorn")
    first, second = disk(hfsched, "one"), disk(hfsched, "two")
    guest = run(
        "a=aarch64/block.bin", "b=aarch64/block.bin", "--engine", "unicorn",
        "--device", "vhost-user,type=block,socket=one.sock",
        "--device", "b:vhost-user,type=2,socket=two.sock",
    )  # fmt: skip
    guest.type("read 0\n@b read 0\nwrite 1 hello\n")
    assert guest.wait() == 0, guest.err
    assert {"a: one", "b: two", "a: wrote 1"} <= set(guest.out.splitlines())
    assert Path("one").read_bytes()[512:518] == b"hello\0"
    for device in (first, second):
        device.interrupt()
        assert device.wait() == 0


@with_images
def test_a_guest_has_two_disks_of_a_manifest_and_one_dies(hfsched: Start, run: Start) -> None:
    pytest.importorskip("unicorn")
    with ExitStack() as stack:
        first = disk(hfsched, "one")
        second = disk(hfsched, "two")
        Path("m.toml").write_text(
            'engine = "unicorn"\n[[vm]]\nimage = "aarch64/block.bin"\n'
            + "".join(
                f'[[vm.device]]\ntype = "block"\nsocket = "{name}.sock"\n'
                for name in ("one", "two")
            )
        )
        guest = run("m.toml")
        guest.until(f"block: up, {SECTORS} sectors")
        second.interrupt()
        assert second.wait() == 0
        guest.until("device block at two.sock: the back-end is lost", "err")
        guest.type("read 0\n")
        guest.until("^block: one$")
        stack.callback(disk(hfsched, "two").interrupt)
        guest.until("device block at two.sock: the back-end is back", "err")
        guest.end_input()
        assert guest.wait() == 0
        first.interrupt()


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("block", "'block': vhost-user is the kind of a device"),
        ("vhost-user,type=block", "socket= is missing"),
        ("vhost-user,socket=s", "type= is missing"),
        ("vhost-user,type=block,socket=s,type=rng", "'type=rng': type=TYPE and socket=PATH, each once"),
        ("vhost-user,type=block,socket=s,fast", "'fast': type=TYPE and socket=PATH, each once"),
        ("b:vhost-user,type=block,socket=s", "no VM 'b': there is echo"),
        ("vhost-user,type=70000,socket=s", "type 70000: 1 to 65535"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing(run: Start, option: str, why: str) -> None:
    refused = run("echo", "--engine", "script", "--device", option)
    assert refused.wait() == 2
    assert refused.err.count("--device") == 1
    assert why in refused.err


def test_a_device_and_swap(run: Start) -> None:
    device = ("--device", "vhost-user,type=block,socket=s")
    refused = run("echo", "--engine", "script", "--swap-dir", ".", *device)
    assert refused.wait() == 2
    assert "vm echo: device block at s: no swap: its back-end would read zeros" in refused.err
    refused = run("--restore", "d", *device)
    assert refused.wait() == 2
    assert "--device: a machine of a snapshot has none" in refused.err


def test_a_back_end_that_is_not_there(run: Start) -> None:
    refused = run("echo", "--engine", "script", "--device", "vhost-user,type=block,socket=none")
    assert refused.wait() == 1
    assert "error: vm echo: device block at none: No such file or directory" in refused.err


@with_images
def test_a_machine_with_a_disk_is_restored_from_a_snapshot(hfsched: Start, run: Start) -> None:
    pytest.importorskip("unicorn")
    device = disk(hfsched, "one")
    options = ("--engine", "unicorn", "--device", "vhost-user,type=block,socket=one.sock")
    guest = run("aarch64/block.bin", *options, "--name", "demo", "--no-stdin")
    guest.until(f"block: up, {SECTORS} sectors")
    took = hfsched("snapshot", "take", "demo", "monday")
    assert took.wait() == 0, took.err
    kept = "vm block: device block at one.sock: what its back-end keeps elsewhere is not in"
    assert kept in took.out + took.err
    guest.interrupt()
    assert guest.wait() == 130
    again = run("--restore", "monday")
    again.type("read 0\nwrite 1 restored\nstate\n")
    assert again.wait() == 0, again.err
    assert "memory is read before the guests run: vm block: device block at one.sock" in again.err
    assert again.out.splitlines() == [
        "block: one", "block: wrote 1", "block: completed 2 odd 0",
    ]  # fmt: skip
    assert Path("one").read_bytes()[512:520] == b"restored"
    device.interrupt()
