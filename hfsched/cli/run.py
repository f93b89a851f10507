"""``hfsched run``: boots guests, prints their output, carries messages."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from hfsched.abi.dialects import DIALECTS
from hfsched.cli.output import Escape
from hfsched.cli.preflight import check_limits
from hfsched.cli.session import RunSession
from hfsched.cli.words import Words, sort_words
from hfsched.errors import ConfigError, MisuseError, UserError
from hfsched.runtime.threads import tune_process
from hfsched.text import meant, there_are
from hfsched.times import seconds
from hfsched.vmm.devicespec import parse_device
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec, expand, load
from hfsched.vmm.sizes import parse_idle, parse_size, parse_vcpus

if TYPE_CHECKING:
    from hfsched.cli.restoring import Restoration

__all__ = ["add_parser", "run"]

T = TypeVar("T")
_GUEST = re.compile(r"\.(bin|elf|toml|py(:\w+)?)$")
_LINGER = "2s"
_LINGER_MAX = 86_400.0  # seconds

_DESCRIPTION = """\
Boot guests and talk to them. A guest's log appears with its VM's name in brackets. A line typed on
standard input goes to the first guest (or, written as "@NAME text", to VM NAME) as a message, and
the answers are printed as "NAME: text". A line that is to begin with "@" is written with "@@".

  hfsched run trusty.bin
  echo version | hfsched run trusty.bin
  hfsched run relay.bin a=echo.bin
  hfsched run block.bin --device vhost-user,type=block,socket=disk.sock
  hfsched run machine.toml --json
  hfsched run --restore DIR
  hfsched run --clone DIR
"""
_EPILOG = """\
IMAGE is a file (a raw arm64 Linux image or an ELF64), or the name of a bundled guest: trusty.bin,
echo.bin, relay.bin, smp.bin, cpus.bin, block.bin, stress.bin, hostile.bin; FILE.py[:FUNCTION] and
MODULE:FUNCTION are guests written in Python (guests/README.md has one).

The run ends at the end of input, as soon as every message is read and released and all vCPUs are
idle, or after --linger seconds; Ctrl-C, SIGTERM and SIGHUP (unless under nohup) end it at once.
Ctrl-Z, SIGTTIN and SIGTTOU stop it and the guests' clocks, `fg` continues both; the time of a
SIGSTOP is taken out of the clocks when the process goes on.

A guest's control characters and bytes that are not UTF-8 are shown escaped on a terminal (tabs and
ends of lines as they are) and written as they are to a pipe or a file: a terminal obeys what comes
out of a pipe to it. --escape always and --escape never do the one or the other everywhere.

With --json, standard output has one object a line; bytes that are not UTF-8 are base64 in "data":
  {"event": "log", "vm": "a", "line": "up"}             {"event": "log-lost", "lines": 3}
  {"event": "message", "vm": "a", "port": 1, "text": "hello"}
  {"event": "notice", "text": "..."}                    {"event": "refused", "text": "..."}
  {"event": "aborted", "vm": "a", "reason": "..."}
  {"event": "error", "text": "..."}                     {"event": "undelivered", "text": "..."}
  {"event": "summary", "seconds": 1.5, "vms": [...]}    always the last,
except of a run that an error keeps from starting. docs/architecture.md ("What the summary says")
explains its words.

Sockets are in DIR/MACHINE, DIR being $XDG_RUNTIME_DIR/hfsched, or /tmp/hfsched-UID where that is
not set: `ports` for host programs (hfsched.connect), `control` for `hfsched swap`,
`suspend`, `resume` and `events`.

Exit status: 0 nothing was lost and no guest aborted; 1 an error, also an image that cannot be found
or booted (`hfsched image`: 2 and 1), a directory or socket that cannot be used, a --name that is in
use; 2 misuse: a command line that is wrong whatever files there are; 3 a message was left unread or
dropped; 4 hibernated: it goes on with --restore; 129, 130 or 143 ended by SIGHUP, Ctrl-C or
SIGTERM. A run that --linger cuts off while a guest works is 0 with a notice, and 1 if a vCPU spins
without a hypercall.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "run",
        help="boot guests and talk to them",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        action=Words,
        metavar="[NAME=]IMAGE",
        help="boot these images, each in a VM; or MACHINE.toml, a machine's manifest",
    )
    parser.add_argument(
        "--restore",
        metavar="DIR",
        help="run the machine of a snapshot, from where it was (`hfsched snapshot take`, `hibernate`)",
    )
    parser.add_argument(
        "--clone",
        metavar="DIR",
        help="the same, for one of several machines of a snapshot: it has a name of its own, and its guests are told",
    )
    parser.add_argument(
        "--clock",
        choices=("continue", "host"),
        help="with --restore and --clone: the guests' clocks go on from where they were, or count the time since (continue)",
    )
    parser.add_argument(
        "--eager",
        action="store_true",
        help="with --restore and --clone: read and check all memory before the guests run, not as they access it",
    )
    guests = parser.add_argument_group("guests (without a manifest)")
    guests.add_argument(
        "--guest",
        dest="words",
        action=Words,
        metavar="[NAME=]IMAGE",
        help="boot this image, as without --guest, whatever its name",
    )
    guests.add_argument("--memory", metavar="SIZE", help="memory of each VM (16MiB)")
    guests.add_argument("--vcpus", metavar="N", help="vCPUs of each VM (1)")
    guests.add_argument(
        "--dialect", choices=tuple(DIALECTS), help="the interface that the guests use"
    )
    guests.add_argument(
        "--fdt",
        metavar="FILE",
        help="a device tree blob for each VM; 'auto' has one made (a file of that name is ./auto)",
    )
    guests.add_argument(
        "--raw-image",
        action="store_true",
        default=None,
        help="take each image as it is, whatever its format: it is entered at its first byte, as arm64"
        " code, with --engine kvm as the host's",
    )
    guests.add_argument(
        "--framing",
        choices=("ports", "raw"),
        help="whether messages begin with 16 bytes of port numbers (ports)",
    )
    parser.add_argument(
        "--engine",
        choices=get_args(EngineName),
        help="the engine of the vCPUs (auto: one that fits, with --restore the snapshot's; the choice is printed)",
    )
    parser.add_argument(
        "--device",
        dest="devices",
        action="append",
        metavar="[VM:]vhost-user,type=TYPE,socket=PATH",
        help="give a VM (the first) a virtio device, block or any other name or number, that the vhost-user"
        " back-end at PATH serves, such as `hfsched device`; may be repeated",
    )
    parser.add_argument(
        "--swap-dir", metavar="DIR", help="the directory of the swap file; see `hfsched swap`"
    )
    parser.add_argument(
        "--swap-idle",
        metavar="TIME",
        help="swap out when all VMs have been idle for that long, such as 30s",
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help="another control socket, at this path: for `hfsched swap`, `suspend`, `events`, not for ports",
    )
    parser.add_argument(
        "--unread-limit",
        default="30s",
        metavar="TIME",
        help="disconnect a host program that reads nothing for that long while messages wait (30s)",
    )
    parser.add_argument("--name", help="the machine's name for host programs and commands (m<pid>)")
    parser.add_argument("--to", metavar="NAME", help="the VM that gets lines of standard input")
    parser.add_argument(
        "--linger", metavar="TIME", help="wait at the end of input, such as 500ms (2s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument(
        "--escape",
        choices=get_args(Escape),
        help="show control characters of guests escaped (auto: on a terminal)",
    )
    parser.add_argument("--quiet", action="store_true", help="no summary, no notices")
    parser.add_argument(
        "--no-stdin",
        action="store_true",
        help="do not read standard input; run until Ctrl-C, or until all VMs have aborted",
    )
    parser.add_argument(
        "--no-sockets",
        action="store_true",
        help="open no sockets: no ports for host programs, no `hfsched swap`, `suspend`",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run a machine to its end; return the exit status."""
    restoration = _restoration(args)
    if restoration is None:
        spec = _spec(args)
    else:
        spec = _checked(args, restoration.spec, restoration.directory)
    names = [vm.name for vm in spec.vm]
    if args.to is not None and args.to not in names:
        close = meant(args.to, names)
        raise MisuseError(f"--to {args.to}: no such VM: {there_are(names)}{close}")
    for option, value in (("--socket", args.socket), ("--name", args.name)):
        if value is not None and args.no_sockets:
            raise MisuseError(f"{option} and --no-sockets: choose one")
    if args.escape is not None and args.json:
        raise MisuseError("--escape and --json: choose one: JSON is always escaped")
    if args.no_stdin and args.to is not None:
        raise MisuseError("--to and --no-stdin: choose one: no line is read")
    if args.socket is not None:
        _check_socket(args.socket)
    args.unread_limit = _misuse(parse_idle, "--unread-limit", args.unread_limit)
    served = restoration is not None and restoration.lazy
    clients = check_limits(spec, 1 if args.socket is None else 2, served=served)
    tune_process()
    return RunSession(args, spec, names, clients, restoration).run()


def _restoration(args: argparse.Namespace) -> Restoration | None:
    """Return the snapshot that is restored or cloned, None without one."""
    if args.restore is not None and args.clone is not None:
        raise MisuseError("--restore and --clone: choose one")
    if args.devices and (args.restore is not None or args.clone is not None):
        raise MisuseError("--device: a machine of a snapshot has none")
    if args.restore is None and args.clone is None:
        if args.clock is not None:
            raise MisuseError("--clock needs --restore DIR or --clone DIR")
        if args.eager:
            raise MisuseError("--eager needs --restore DIR or --clone DIR")
        return None
    from hfsched.cli.restoring import open_snapshot  # noqa: PLC0415 - only where it is wanted

    _read(args)
    return open_snapshot(args)


def _check_socket(path: str) -> None:
    """Refuse a path for a socket before guests boot."""
    from hfsched.control.named_socket import check_place, path_problem  # noqa: PLC0415 - only here

    if (problem := path_problem(Path(path))) is not None:
        raise MisuseError(f"--socket {problem}: choose a shorter path")
    try:
        check_place(Path(path))
    except UserError as exc:
        raise UserError(f"--socket {exc}") from None
    except ValueError:
        raise MisuseError(f"--socket {path!r}: no file can have this name") from None


def _read(args: argparse.Namespace) -> None:
    """Read the values of options: first, because an option without its value takes the guest's name."""
    if args.linger is not None and args.no_stdin:
        raise MisuseError("--linger and --no-stdin: choose one: there is no end of input")
    if args.linger is None:
        args.linger = _LINGER
    linger = seconds(args.linger)
    if linger is None or linger > _LINGER_MAX:
        raise MisuseError(
            f"--linger {args.linger[:80]!r}: a time such as 500ms, 8s or 2m, up to 24h"
        )
    args.linger = linger
    if args.memory is not None:
        args.memory = _misuse(parse_size, "--memory", args.memory)
    if args.vcpus is not None:
        args.vcpus = _misuse(parse_vcpus, "--vcpus", args.vcpus)
    if args.swap_idle is not None:
        args.swap_idle = _misuse(parse_idle, "--swap-idle", args.swap_idle)


def _spec(args: argparse.Namespace) -> MachineSpec:
    """Return the description of the machine that a command line describes."""
    _read(args)
    if not args.words:
        raise MisuseError(
            f"name a guest, such as trusty.bin, or a machine's manifest{_taken(args)}"
        )
    manifest, guests = sort_words(args.words or [], args.engine or "", raw=bool(args.raw_image))
    if manifest is None:
        try:
            return _checked(args, MachineSpec(vm=[_vm(args, guest) for guest in guests]), "")
        except ConfigError as exc:
            raise MisuseError(str(exc)) from None
    unfit = [
        f"--{name.replace('_', '-')}"
        for name in ("memory", "vcpus", "dialect", "fdt", "framing", "raw_image")
        if getattr(args, name) is not None
    ]
    if unfit:
        how = ' (format = "raw")' if unfit == ["--raw-image"] else ""
        raise MisuseError(f"{', '.join(unfit)}: write it into the manifest {manifest} instead{how}")
    return _checked(args, load(Path(manifest)), f"manifest {manifest}")


def _taken(args: argparse.Namespace) -> str:
    """Return which option has taken what looks like the guest for its value."""
    for name in ("swap_dir", "socket", "name", "to", "fdt"):
        value = getattr(args, name)
        if value is not None and _GUEST.search(value):
            return f": --{name.replace('_', '-')} takes {value[:80]!r} for itself"
    return ""


def _checked(args: argparse.Namespace, spec: MachineSpec, source: str) -> MachineSpec:
    swap = None if args.swap_dir is None else expand(args.swap_dir)
    try:  # what is wrong with an option is not the source's mistake
        MachineSpec(vm=[VmSpec(image="a")], name=args.name, swap=swap).check("command line")
    except ConfigError as exc:
        raise MisuseError(str(exc)) from None
    if args.engine is not None:
        spec.engine = args.engine
    if args.name is not None:
        spec.name = args.name
    if swap is not None:
        spec.swap = swap
    if args.swap_idle is not None:
        spec.swap_idle = args.swap_idle
        if spec.swap is None:
            raise MisuseError("--swap-idle needs --swap-dir DIR: where guest memory goes")
    spec.check(source or "command line")
    if args.devices:
        _add_devices(args.devices, spec, source or "command line")
    return spec


def _add_devices(texts: list[str], spec: MachineSpec, source: str) -> None:
    """Add the devices of the command line; VMs have their names."""
    for text in texts:
        try:
            name, device = parse_device(text)
            device.check()
        except ConfigError as exc:
            raise MisuseError(f"--device: {exc}") from None
        names = [vm.name for vm in spec.vm]
        vm = spec.vm[0] if name is None else next((vm for vm in spec.vm if vm.name == name), None)
        if vm is None:
            raise MisuseError(f"--device: {text[:80]}: no VM {name!r}: {there_are(names)}")
        device.socket = expand(device.socket)
        vm.device = [*vm.device, device]
    try:
        spec.check(source)
    except ConfigError as exc:
        raise MisuseError(str(exc)) from None


def _misuse(parse: Callable[[str, str], T], option: str, text: str) -> T:
    try:
        return parse(option, text)
    except ConfigError as exc:
        raise MisuseError(str(exc)) from None


def _vm(args: argparse.Namespace, guest: str) -> VmSpec:
    name, image = "", guest
    if "=" in guest and not os.path.exists(guest):
        name, _, image = guest.partition("=")
    vm = VmSpec(image=expand(image), name=name)
    if args.memory is not None:
        vm.memory = args.memory
    if args.vcpus is not None:
        vm.vcpus = args.vcpus
    if args.dialect is not None:
        vm.dialect = args.dialect
    if args.fdt is not None:
        vm.fdt = expand(args.fdt)
    if args.framing is not None:
        vm.framing = args.framing
    if args.raw_image:
        vm.format = "raw"
    return vm
