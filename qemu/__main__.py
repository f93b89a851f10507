"""The command line: ``script/qemu [OPTIONS] -- CMD ARGS...`` and ``script/qemu --shell``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from . import MachineError
from .cache import Cache
from .command import CPUS, Settings
from .cross import extensions
from .image import KERNELS, Image
from .machine import TIMED_OUT, run, shell

_LEAST_MEMORY = 384  # MiB: the file system, and its archive beside it at the start
_FAILED = 125  # ours, not the command's: as env and timeout do


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="script/qemu",
        description="Run a command of the project on arm64 KVM, in a machine that QEMU emulates.",
        epilog=f"The exit status is the command's; {TIMED_OUT} after a time-out; {_FAILED} if there "
        "is no machine to run it in, or it died.",
    )
    defaults = Settings()
    parser.add_argument(
        "--shell", action="store_true", help="an interactive shell; Ctrl-A X ends it"
    )
    parser.add_argument(
        "--cpu",
        choices=CPUS,
        default=defaults.cpu,
        help="cortex-a57 has no VHE, the others have (%(default)s)",
    )
    parser.add_argument(
        "--smp", type=int, default=defaults.smp, metavar="N", help="CPUs (%(default)s)"
    )
    parser.add_argument(
        "--memory", type=int, default=defaults.memory, metavar="MIB", help="(%(default)s)"
    )
    parser.add_argument("--kernel", choices=KERNELS, default=defaults.kernel, help="(%(default)s)")
    parser.add_argument(
        "--icount",
        type=int,
        choices=range(11),
        metavar="SHIFT",
        help="repeatable: an instruction takes 2**SHIFT ns (0 to 10), CPUs take turns",
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds from the start of QEMU")
    parser.add_argument(
        "--silence", type=float, metavar="S", help="seconds in which the machine says nothing"
    )
    parser.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="PATH=FILE",
        help="put a file of the host at PATH in the project; may be repeated",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing of what is being made")
    parser.add_argument("command", nargs="*", metavar="CMD")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.command) == options.shell:
        parser.error("give a command after --, or --shell")
    if options.memory < _LEAST_MEMORY:
        parser.error(f"--memory {options.memory}: at least {_LEAST_MEMORY}")
    settings = Settings(options.cpu, options.smp, options.memory, options.kernel, options.icount)
    extra = {}
    for text in options.add:
        path, _, file = text.partition("=")
        if not file or path.startswith("/") or ".." in path.split("/"):
            parser.error(f"--add {text}: not PATH=FILE with a path in the project")
        extra[path] = Path(file)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    image = Image(Cache(report=(lambda _line: None) if options.quiet else _report))
    try:
        extra = {**extensions(image), **extra}
        if options.shell:
            return shell(image, settings, extra)
        status = run(
            image,
            settings,
            options.command,
            out=_writer(sys.stdout.fileno()),
            err=_writer(sys.stderr.fileno()),
            stdin=_input(),
            timeout=options.timeout,
            silence=options.silence,
            extra=extra,
        )
        if status == TIMED_OUT:
            limits = {"no end after": options.timeout, "not a word for": options.silence}
            _report(", or ".join(f"{what} {s:g} s" for what, s in limits.items() if s is not None))
    except MachineError as error:
        print(f"qemu: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # nobody reads what the command prints
        return 128 + signal.SIGPIPE
    return status


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _report(line: str) -> None:
    print(f"qemu: {line}", file=sys.stderr, flush=True)


def _writer(descriptor: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        while data:
            data = data[os.write(descriptor, data) :]

    return write


def _input() -> int | None:
    """Return standard input, unless there is none, or it is a terminal that another job has."""
    try:
        descriptor = sys.stdin.fileno()
        if os.isatty(descriptor) and os.tcgetpgrp(descriptor) != os.getpgrp():
            return None
    except (AttributeError, OSError, ValueError):
        return None
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
