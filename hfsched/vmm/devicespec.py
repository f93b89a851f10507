"""Devices of a VM as users write them: in a manifest, and on the command line.

[[vm.device]]
kind = "vhost-user"           # optional: there is no other
type = "block"                # or the number of a virtio type
socket = "disk.sock"          # where its back-end listens; relative to the manifest

--device [VM:]vhost-user,type=block,socket=PATH
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hfsched.abi.virtio import DEVICE_TYPES
from hfsched.errors import ConfigError
from hfsched.text import meant

__all__ = ["KINDS", "DeviceSpec", "parse_device"]

DeviceKind = Literal["vhost-user"]
KINDS = ("vhost-user",)
_TYPE_MAX = 0xFFFF
_PATH_MAX = 107  # bytes of a socket's path


class DeviceSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One device, on a virtio-mmio transport."""

    type: str | int
    socket: str
    kind: DeviceKind = "vhost-user"

    @property
    def type_number(self) -> int:
        """The number of its virtio type; raises ConfigError."""
        text = str(self.type)
        if text in DEVICE_TYPES:
            return DEVICE_TYPES[text]
        try:
            number = int(text, 0)
        except ValueError:
            known = ", ".join(DEVICE_TYPES)
            close = meant(text, DEVICE_TYPES)
            raise ConfigError(
                f"type {text[:80]!r}: a number of virtio's, or one of {known}{close}"
            ) from None
        if not 1 <= number <= _TYPE_MAX:
            raise ConfigError(f"type {number}: 1 to {_TYPE_MAX}")
        return number

    def check(self, where: str) -> None:
        """Raise ConfigError for what cannot be used."""
        try:
            _ = self.type_number
        except ConfigError as exc:
            raise ConfigError(f"{where}: device: {exc}") from None
        if not self.socket or "\0" in self.socket:
            raise ConfigError(f"{where}: device: socket {self.socket[:80]!r}: name a socket")
        if len(self.socket.encode(errors="surrogateescape")) > _PATH_MAX:
            raise ConfigError(
                f"{where}: device: socket {self.socket[:80]!r}: longer than {_PATH_MAX} bytes"
            )

    def __str__(self) -> str:
        return f"device {self.type} at {self.socket}"


def parse_device(text: str) -> tuple[str | None, DeviceSpec]:
    """Return {VM or None, device} of an option `[VM:]vhost-user,type=TYPE,socket=PATH`; raises ConfigError."""
    head, *pairs = text.split(",")
    vm, colon, kind = head.rpartition(":")
    if kind not in KINDS:
        raise ConfigError(f"{kind[:80]!r}: {' or '.join(KINDS)} is the kind of a device")
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key not in ("type", "socket") or not equals or key in found:
            raise ConfigError(f"{pair[:80]!r}: type=TYPE and socket=PATH, each once")
        found[key] = value
    for key in ("type", "socket"):
        if not found.get(key):
            raise ConfigError(f"{key}= is missing")
    return vm if colon else None, DeviceSpec(type=found["type"], socket=found["socket"])
