"""`hfsched device TYPE --socket PATH ...`: serve a vhost-user device.

Exit status: 0 it was ended by a signal, or with --once by its front-end; 1 an error; 2 misuse.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from hfsched.cli.device_ends import add_arguments, console, listen, vsock
from hfsched.cli.ending import handle_ends
from hfsched.cli.output import notice
from hfsched.control.named_socket import is_listening
from hfsched.errors import MisuseError, UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.text import printable
from hfsched.vhost import serve, serve_connected
from hfsched.vhost.mapping import core_problem

if TYPE_CHECKING:
    from hfsched.runtime.base import Listener, Runtime
    from hfsched.vhost import Device

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Serve a device to QEMU, libblkio or any other vhost-user front-end, one after another.

  hfsched device block --socket disk.sock disk.img
  qemu-system-x86_64 ... -object memory-backend-memfd,id=m,size=1G,share=on \\
      -chardev socket,id=c,path=disk.sock -device vhost-user-blk-pci,chardev=c

When a front-end goes, the device is suspended and waits for the next one.
"""
# What each type has a use for, besides where it is served.
_OPTIONS = {
    "block": ("files", "read_only", "serial", "queues"),
    "console": ("connect", "listen"),
    "fs": ("files", "tag", "read_only", "queues"),
    "rng": (),
    "vsock": ("cid", "uds"),
}
_TYPES = tuple(_OPTIONS)
_QUEUES_MAX = 256


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "device",
        help="serve a vhost-user device",
        description=_DESCRIPTION,
        epilog="Exit status: 0 ended by a signal, or with --once by its front-end; 1 an error; 2 misuse.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("type", choices=_TYPES, metavar="|".join(_TYPES))
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="block: a disk image, or a disk; fs: a directory"
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--socket", metavar="PATH", help="listen there")
    place.add_argument(
        "--fd", type=int, metavar="N", help="a socket that listens already, or is connected"
    )
    parser.add_argument("--once", action="store_true", help="end with the first front-end")
    parser.add_argument("--read-only", action="store_true", help="block, fs: refuse writes")
    parser.add_argument("--serial", metavar="TEXT", help="block: at most 20 bytes")
    parser.add_argument("--tag", metavar="TAG", help="fs: what the guest mounts it by")
    parser.add_argument(
        "--queues", type=int, metavar="N", help="block, fs: how many, for requests (default: 1)"
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; return the exit status."""
    why_not = core_problem()
    if why_not is not None:
        raise UserError(f"device: {why_not}")
    runtime = ThreadRuntime()
    with ExitStack() as stack:
        stack.callback(runtime.close)
        listens = args.fd is None or _listens(args.fd)
        device = _device(args, runtime, stack)
        closing = runtime.event("closing")
        handle_ends(_ender(closing.set))
        if not listens:
            connection = runtime.adopt_connection("front-end", args.fd)
            serve_connected(runtime, device, connection, closing, notice=notice)
            return 0
        try:
            listener = stack.enter_context(_open_listener(runtime, args))
        except BaseException:
            device.close()
            raise
        if args.socket is not None:
            notice(f"device {args.type}: listening at {printable(args.socket)}")
        serve(runtime, device, listener, closing, once=args.once, notice=notice)
    return 0


def _listens(fd: int) -> bool:
    """Return whether a descriptor that was given listens, or is connected; raises UserError for another."""
    try:
        if fd > sys.stderr.fileno():
            return is_listening(fd)
    except (OSError, OverflowError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not open"
        raise UserError(f"--fd {fd}: {why}: name a socket") from None
    raise UserError(f"--fd {fd}: a standard descriptor: name a socket")


def _device(args: argparse.Namespace, runtime: Runtime, stack: ExitStack) -> Device:
    """Return the device that is asked for; raises MisuseError, UserError."""
    _check_options(args)
    match args.type:
        case "block":
            return _block(args)
        case "console":
            return console(args, runtime, stack)
        case "fs":
            return _fs(args)
        case "vsock":
            return vsock(args, runtime, stack)
    from hfsched.vhost.devices.rng import Rng  # noqa: PLC0415 - the one that is needed

    return Rng()


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what the type has no use for."""
    for name in dict.fromkeys(name for names in _OPTIONS.values() for name in names):
        if name not in _OPTIONS[args.type] and getattr(args, name) not in (None, False, []):
            shown = repr(args.files[0]) if name == "files" else f"--{name.replace('_', '-')}"
            raise MisuseError(f"{shown}: {args.type} has no use for it")


def _block(args: argparse.Namespace) -> Device:
    from hfsched.vhost.devices.block import Block  # noqa: PLC0415 - likewise

    if len(args.files) != 1:
        raise MisuseError(f"block needs one FILE, got {len(args.files)}")
    queues = 1 if args.queues is None else args.queues
    if not 1 <= queues <= _QUEUES_MAX:
        raise MisuseError(f"--queues {queues}: 1 to {_QUEUES_MAX}")
    return Block(args.files[0], read_only=args.read_only, serial=args.serial or "", queues=queues)


def _fs(args: argparse.Namespace) -> Device:
    """Return a file system device; raises MisuseError, UserError."""
    from hfsched.vhost.devices.fs import Fs  # noqa: PLC0415 - likewise

    if len(args.files) != 1:
        raise MisuseError(f"fs needs one directory, got {len(args.files)}")
    if args.tag is None:
        raise MisuseError("fs needs --tag TAG")
    # Each file that the guest knows takes a descriptor.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    queues = 1 if args.queues is None else args.queues
    if not 1 <= queues < _QUEUES_MAX:
        raise MisuseError(f"--queues {queues}: 1 to {_QUEUES_MAX - 1}")
    return Fs(args.files[0], args.tag, read_only=args.read_only, request_queues=queues)


def _ender(end: Callable[[], None]) -> Callable[[int, object], None]:
    """Return a handler: the first signal ends the service, the second one the process."""
    seen: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if seen and number != signal.SIGHUP:
            os._exit(128 + number)
        seen.append(number)
        end()

    return handle


@contextmanager
def _open_listener(runtime: Runtime, args: argparse.Namespace) -> Iterator[Listener]:
    """Open what front-ends connect to; raises UserError."""
    if args.socket is None:
        yield runtime.adopt_listener("device", args.fd)
    else:
        with listen(runtime, "device", args.socket) as listener:
            yield listener
