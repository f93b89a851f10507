"""`hfsched device rng` under QEMU with a Linux guest."""

from __future__ import annotations

from pathlib import Path

from frontends.linux import Device, LinuxGuest
from frontends.ours import OurDevice


def test_a_guest_has_random_bytes_of_a_device_that_is_plugged_in_and_out(tmp_path: Path) -> None:
    device = Device("rng", tmp_path / "socket")
    with OurDevice(device.socket, "rng") as served, LinuxGuest.bare() as guest:
        guest.plug(device)
        guest.wait_until("grep -q virtio /sys/class/misc/hw_random/rng_current")
        draws = {guest.shell("head -c 32 /dev/hwrng | sha256sum") for _ in range(3)}
        assert len(draws) == 3
        guest.unplug(device)
        assert served.alive
        assert "connection ends" not in served.errors()
