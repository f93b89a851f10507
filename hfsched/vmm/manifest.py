"""The machine's description: typed, from a TOML file or from the command line.

name = "demo"                 # optional: how the machine is called on this host
engine = "auto"
swap = "/var/tmp"             # optional: where guest memory may be swapped to
swap_idle = "30s"             # optional: and when all VMs have waited for that long, it is

[[vm]]
name = "trusty"
image = "trusty.bin"          # relative to the manifest, else one of the bundled guests
memory = "16MiB"
vcpus = 1
dialect = "ffa-1.0"
fdt = "trusty.dtb"            # optional; "auto" has one made (a file of that name is "./auto")
# bootargs = "quiet"          # with fdt = "auto" alone: /chosen/bootargs
framing = "ports"             # or "raw": no port header on messages to and from the host
ports = { smc = 0, text = 1 } # names for ports, for `connect(port="smc")`; stdin talks to "text"
base = 0x7f000000             # optional: IPA of its memory; or "2032MiB"
uuid = "..."                  # optional

[[vm.device]]                 # optional: a device of this VM that another program serves
type = "block"                # or the number of a virtio type
socket = "disk.sock"          # where its vhost-user back-end listens
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import UUID

import msgspec

from hfsched.abi.dialects import DEFAULT, DIALECTS
from hfsched.abi.virtio import DEVICES_MAX
from hfsched.errors import ConfigError
from hfsched.mailbox.ports import FIRST_CONNECTION
from hfsched.text import integer, nearest, one_of
from hfsched.vcpu.engines import EngineId
from hfsched.vmm.devicespec import KINDS, DeviceSpec
from hfsched.vmm.layout import ADDRESS_MAX
from hfsched.vmm.manifest_text import NO_VM, Vocabulary, read_tables
from hfsched.vmm.sizes import VCPUS_MAX, IdleTime, parse_address, parse_idle, parse_size

__all__ = [
    "FDT_AUTO",
    "EngineName",
    "MachineSpec",
    "VmSpec",
    "expand",
    "load",
]

EngineName = Literal["auto", EngineId]
Framing = Literal["ports", "raw"]
Format = Literal["auto", "raw"]
FDT_AUTO = "auto"
"""In place of a device tree's file: one is made for the VM."""

TEXT_PORT = 1
VMS_MAX = 1024
TEXT_MAX = 1 << 24  # bytes
MEMORY_DEFAULT = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class VmSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One VM.  `memory` and `base` are in bytes once checked; addresses and sizes are multiples of 4096."""

    image: str
    name: str = ""
    memory: int | str = MEMORY_DEFAULT
    vcpus: int = 1
    dialect: str = DEFAULT.name
    fdt: str | None = None
    bootargs: str | None = None
    framing: Framing = "ports"
    format: Format = "auto"
    ports: dict[str, int] = {}
    base: int | str | None = None
    uuid: str | None = None
    device: list[DeviceSpec] = []

    @property
    def text_port(self) -> int:
        """The port that stdin talks to."""
        return self.ports.get("text", TEXT_PORT)

    @property
    def memory_bytes(self) -> int:
        """The size of its memory."""
        return parse_size(f"vm {self.name}: memory", self.memory)

    @property
    def base_address(self) -> int | None:
        """Where its memory is to be; None: anywhere."""
        return None if self.base is None else parse_address(f"vm {self.name}: base", self.base)


class MachineSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A machine.  `folder` is what relative paths are relative to."""

    vm: list[VmSpec]
    name: str | None = None
    engine: EngineName = "auto"
    swap: str | None = None
    swap_idle: IdleTime | None = None  # how long all VMs are idle before they are swapped out

    def check(self, source: str) -> None:
        """Give unnamed VMs a name, and raise ConfigError for what cannot be used."""
        if not self.vm:
            raise ConfigError(f"{source}: {NO_VM}")
        if len(self.vm) > VMS_MAX:
            raise ConfigError(f"{source}: {len(self.vm)} VMs: at most {VMS_MAX}")
        if self.name is not None:
            _check_name(source, "machine name", self.name)
        if self.swap == "":
            raise ConfigError(f"{source}: swap is empty: name a directory, or leave it out")
        _check_path(source, "swap", self.swap)
        if self.swap_idle is not None and self.swap is None:
            raise ConfigError(f"{source}: swap_idle needs swap, a directory (--swap-dir DIR)")
        asked = {spec.name for spec in self.vm if spec.name}
        numbers: dict[str, int] = {}
        for spec in self.vm:
            if not spec.name:
                spec.name = _free_name(spec.image, asked, numbers)
                asked.add(spec.name)
        for spec in self.vm:
            if spec.device and self.swap is not None:
                raise ConfigError(
                    f"{source}: vm {spec.name}: {spec.device[0]}: no swap: its back-end would read"
                    " zeros where memory is swapped out"
                )
        names: set[str] = set()
        for spec in self.vm:
            _check_vm(source, spec)
            if spec.name in names:
                raise ConfigError(f"{source}: two VMs are called {spec.name!r}: rename one")
            names.add(spec.name)


def _check_name(source: str, what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{source}: {what} {name!r}: use 1 to 63 letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )


def _check_path(where: str, what: str, path: str | None) -> None:
    if path is not None and "\0" in path:
        raise ConfigError(f"{where}: {what} {path[:80]!r}: has a NUL character: name another file")


def _free_name(image: str, taken: set[str], numbers: dict[str, int]) -> str:
    """Return a name after the image's file, with a number where that is taken.

    `numbers` is the last number tried for each file's name: none below it is free.
    """
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", Path(image.partition(":")[0]).stem).lstrip("._-")[:50]
    stem = stem or "vm"
    number = numbers.get(stem, 1)
    name = stem if number == 1 else f"{stem}-{number}"
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    numbers[stem] = number
    return name


def _check_vm(source: str, spec: VmSpec) -> None:
    _check_name(source, "VM name", spec.name)
    where = f"{source}: vm {spec.name}"
    if not spec.image:
        raise ConfigError(f"{where}: image is empty: name a file")
    _check_path(where, "image", spec.image)
    _check_path(where, "fdt", spec.fdt)
    if not 1 <= spec.vcpus <= VCPUS_MAX:
        raise ConfigError(f"{where}: vcpus must be 1 to {VCPUS_MAX}, got {integer(spec.vcpus)}")
    if spec.fdt == "":
        raise ConfigError(f"{where}: fdt is empty: name a file, or leave it out")
    if spec.bootargs is not None and spec.fdt != FDT_AUTO:
        raise ConfigError(f'{where}: bootargs needs fdt = "{FDT_AUTO}"')
    if spec.bootargs is not None and "\0" in spec.bootargs:
        raise ConfigError(f"{where}: bootargs {spec.bootargs[:80]!r}: has a NUL character")
    if spec.dialect not in DIALECTS:
        raise ConfigError(f"{where}: dialect {spec.dialect!r}{one_of(spec.dialect, DIALECTS)}")
    size = parse_size(f"{where}: memory", spec.memory)
    spec.memory = size
    if spec.base is not None:
        base = parse_address(f"{where}: base", spec.base)
        if base + size > ADDRESS_MAX:
            raise ConfigError(
                f"{where}: base {base:#x}: its memory of {size:#x} bytes ends above 2^40"
            )
        spec.base = base
    if spec.uuid is not None:
        try:
            UUID(spec.uuid)
        except ValueError:
            raise ConfigError(f"{where}: uuid {spec.uuid!r}: not a valid UUID") from None
    _check_devices(where, spec)
    if "text" not in spec.ports:
        for name in spec.ports:
            if nearest(name, ["text"]):
                raise ConfigError(
                    f"{where}: port {name!r}: did you mean 'text', which gets lines of stdin?"
                    f" (if not, add text = {TEXT_PORT})"
                )
    for name, port in spec.ports.items():
        _check_name(where, "port name", name)
        if re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]+", name):
            raise ConfigError(
                f"{where}: port name {name!r}: it would be taken for the port's number: use another"
            )
        if not 0 <= port < FIRST_CONNECTION:
            raise ConfigError(
                f"{where}: port {name} = {integer(port)}: 0 to {FIRST_CONNECTION - 1}"
            )


def _check_devices(where: str, spec: VmSpec) -> None:
    """Check a VM's devices; the guest finds them in a device tree, which is made if none was named."""
    if len(spec.device) > DEVICES_MAX:
        raise ConfigError(f"{where}: {len(spec.device)} devices: at most {DEVICES_MAX}")
    for device in spec.device:
        device.check(where)
    if spec.device and spec.fdt is None:
        spec.fdt = FDT_AUTO


def load(path: Path) -> MachineSpec:
    """Read a manifest; relative images and FDTs become relative to its folder.

    Raises ConfigError, in one line, for a file that cannot be read or used.
    """
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # reading it might never end
            raise ConfigError(f"manifest {path}: not a regular file")
        with path.open("rb") as file:
            text = file.read(TEXT_MAX + 1)
        if len(text) > TEXT_MAX:
            raise ConfigError(f"manifest {path}: longer than {TEXT_MAX} bytes")
    except OSError as exc:
        raise ConfigError(f"manifest {path}: {exc.strerror}") from None
    except ValueError:
        raise ConfigError(f"manifest {str(path)!r}: no file can have this name") from None
    spec = parse(str(path), text)
    for vm in spec.vm:
        vm.image = _beside(path, vm.image)
        if vm.fdt is not None and vm.fdt != FDT_AUTO:
            vm.fdt = _beside(path, vm.fdt)
        for device in vm.device:
            device.socket = str(path.parent / expand(device.socket))
    if spec.swap is not None:
        spec.swap = _beside(path, spec.swap)
    return spec


def expand(path: str) -> str:
    """Return a path with the home directory for ``~``, unless a file is called so."""
    if not path.startswith("~") or os.path.exists(path):
        return path
    try:
        return os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises for an unknown user
    except ValueError:  # a NUL in the user's name: no file is called so, which its reader says
        return path


def _beside(manifest: Path, name: str) -> str:
    name = expand(name)
    beside = manifest.parent / name.partition(":")[0]
    # os.path.exists says no where Path.exists would raise: too long a name, a NUL.
    return str(manifest.parent / name) if os.path.exists(beside) else name


def _decode_field(kind: type, value: Any) -> Any:
    """Return the value of a field whose type msgspec does not know: IdleTime alone."""
    assert kind is IdleTime
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise TypeError(f"Expected `int | str`, got `{type(value).__name__}`")
    return parse_idle("swap_idle", value)


def parse(source: str, text: bytes) -> MachineSpec:
    """Parse and check a manifest's text."""
    tables: dict[str, Any] = {}
    try:
        tables = read_tables(text, _VOCABULARY)
        spec: Any = msgspec.convert(tables, type=MachineSpec, dec_hook=_decode_field)
    except ConfigError as exc:
        raise ConfigError(f"manifest {source}: {exc}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as exc:
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise ConfigError(f"manifest {source}: {_VOCABULARY.reword(reason, tables)}") from None
    assert isinstance(spec, MachineSpec)
    spec.check(f"manifest {source}")
    return spec


_VOCABULARY = Vocabulary(
    MachineSpec.__struct_fields__,
    VmSpec.__struct_fields__,
    {
        "engine": get_args(EngineName),
        "framing": get_args(Framing),
        "format": get_args(Format),
        "kind": KINDS,
    },
    ("vcpus",),
    DeviceSpec.__struct_fields__,
)
