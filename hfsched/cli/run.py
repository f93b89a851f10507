"""``hfsched run``: boot guests, print what they say, carry messages, end in good order."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.cli.console import Console
from hfsched.cli.output import Output, escape, notice
from hfsched.errors import ConfigError, UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vmm.machine import Machine, VmSummary
from hfsched.vmm.manifest import DIALECTS, MachineSpec, VmSpec, load

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["add_parser", "run"]

_NS = 1_000_000_000
_UNREAD = 3
_SPIN_MIN = 0.05  # seconds; below, running is no spinning
_SWITCH_INTERVAL = 1e-4  # seconds; at Python's 5 ms a busy thread holds a vCPU up for milliseconds

_DESCRIPTION = """\
Boot guests and talk to them. A guest's log appears with its VM's name in brackets. A line typed on
standard input goes to the first guest (or, written as "@NAME text", to VM NAME) as a message, and
the answers come out as "NAME: text".

  hfsched run --guest trusty.bin
  echo version | hfsched run --guest trusty.bin
  hfsched run --guest relay.bin --guest a=echo.bin
  hfsched run machine.toml --json
"""
_EPILOG = """\
IMAGE is a file (a raw arm64 Linux image or an ELF64), or the name of a bundled guest: trusty.bin,
echo.bin, relay.bin, smp.bin, stress.bin, hostile.bin; FILE.py[:FUNCTION] and MODULE:FUNCTION are
guests written in Python.

The run ends at the end of input, as soon as every message is read and released and all vCPUs rest,
or after --linger seconds; Ctrl-C ends it at once. Exit status: 0 nothing was lost and no guest
aborted; 1 an error; 2 misuse; 3 a message was left unread; 130 interrupted.
"""


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "run",
        help="boot guests and talk to them",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifest", nargs="?", metavar="MACHINE.toml", help="a machine's manifest")
    guests = parser.add_argument_group("guests (without a manifest)")
    guests.add_argument(
        "--guest",
        action="append",
        default=[],
        metavar="[NAME=]IMAGE",
        help="boot this image; give it several times for several VMs",
    )
    guests.add_argument("--memory", metavar="SIZE", help="memory of each VM (16MiB)")
    guests.add_argument("--vcpus", type=int, metavar="N", help="vCPUs of each VM (1)")
    guests.add_argument("--dialect", choices=DIALECTS, help="what the guests speak")
    guests.add_argument("--fdt", metavar="FILE", help="a device tree blob for each VM")
    guests.add_argument(
        "--framing",
        choices=("ports", "raw"),
        help="whether messages begin with 16 bytes of port numbers (ports)",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "unicorn", "kvm", "script"),
        help="what runs the vCPUs (auto: what fits, and says why)",
    )
    parser.add_argument("--name", help="the machine's name for host programs (m<pid>)")
    parser.add_argument("--to", metavar="NAME", help="the VM that standard input talks to")
    parser.add_argument(
        "--linger", type=float, default=2.0, metavar="SECONDS", help="wait at the end of input (2)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--quiet", action="store_true", help="no summary, no notices")
    parser.add_argument(
        "--no-stdin", action="store_true", help="do not read standard input; run until Ctrl-C"
    )
    parser.add_argument("--no-sockets", action="store_true", help="open no ports to host programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run a machine to its end; return the exit status."""
    spec = _spec(args)
    if not 0 <= args.linger <= 86_400:
        raise ConfigError(f"--linger {args.linger}: 0 to 86400 seconds")
    names = [vm.name for vm in spec.vm]
    if args.to is not None and args.to not in names:
        raise ConfigError(f"--to {args.to}: no such VM: there are {', '.join(names)}")
    sys.setswitchinterval(_SWITCH_INTERVAL)
    return _Session(args, spec, names).run()


def _spec(args: argparse.Namespace) -> MachineSpec:
    """Return the description of the machine that a command line asks for."""
    if (args.manifest is None) == (not args.guest):
        raise ConfigError("name either a manifest or at least one --guest, such as trusty.bin")
    if args.manifest is not None:
        unfit = [
            f"--{name}"
            for name in ("memory", "vcpus", "dialect", "fdt", "framing")
            if getattr(args, name) is not None
        ]
        if unfit:
            raise ConfigError(f"{', '.join(unfit)}: write it into the manifest instead")
        spec = load(Path(args.manifest))
    else:
        vms = [_vm(args, guest) for guest in args.guest]
        spec = MachineSpec(vm=vms)
    if args.engine is not None:
        spec.engine = args.engine
    if args.name is not None:
        spec.name = args.name
    spec.check("command line" if args.manifest is None else f"manifest {args.manifest}")
    return spec


def _vm(args: argparse.Namespace, guest: str) -> VmSpec:
    name, image = "", guest
    if "=" in guest and not os.path.exists(guest):  # noqa: PTH110
        name, _, image = guest.partition("=")
    vm = VmSpec(image=image, name=name)
    if args.memory is not None:
        vm.memory = args.memory
    if args.vcpus is not None:
        vm.vcpus = args.vcpus
    if args.dialect is not None:
        vm.dialect = args.dialect
    if args.fdt is not None:
        vm.fdt = args.fdt
    if args.framing is not None:
        vm.framing = args.framing
    return vm


class _Session:
    """One run of a machine, from its building to its summary."""

    def __init__(self, args: argparse.Namespace, spec: MachineSpec, names: list[str]) -> None:
        self._args = args
        self._spec = spec
        self._failures: list[str] = []
        self._runtime = ThreadRuntime(self._failed)
        self._changed = self._runtime.event("changed")
        self._began = self._runtime.now()
        self._errors: list[str] = []
        self._output = Output(
            self._runtime, sys.stdout.fileno(), names, as_json=args.json, changed=self._changed
        )
        self._default = args.to or names[0]

    def run(self) -> int:
        signal.signal(signal.SIGTERM, _terminate)
        status = 0
        with Machine(
            self._spec,
            self._runtime,
            self._output.log,
            self._notice,
            self._aborted,
            self._changed.set,
        ) as machine:
            console = Console(self._runtime, machine, self._output, self._default, self._changed)
            try:
                console.open()
                machine.start()
                if not self._args.no_stdin:
                    console.listen(sys.stdin.fileno())
                self._wait(machine, console)
            except KeyboardInterrupt as interrupt:
                status = 143 if isinstance(interrupt, _Terminated) else 130
            stuck = machine.stop()
            self._errors += [f"vCPU {name} did not stop: please report it" for name in stuck]
            limit = None if status == 0 else self._runtime.now() + _NS
            console.drain(limit)
            summary = machine.summary()
            self._print_summary(summary)
            self._output.close(limit)
            return status or self._verdict(machine, console, summary)

    # Waiting for the end.

    def _wait(self, machine: Machine, console: Console) -> None:
        linger = int(self._args.linger * _NS)
        seen: tuple[int, dict[str, int]] | None = None  # the RUNs so far, half-way to the deadline
        while True:
            self._changed.clear()
            everyone = machine.vm_names()
            if self._failures or self._output.broken.is_set():
                return
            if all(name in machine.aborts for name in everyone):
                return
            deadline = None
            if console.ended:
                if console.unsent() == 0 and machine.quiet():
                    return
                progress = console.progress
                deadline = progress + linger // 2
                if self._runtime.now() >= deadline:
                    deadline = progress + linger
                    if seen is None or seen[0] != progress:
                        seen = (progress, machine.runs())
                if self._runtime.now() >= deadline:
                    self._complain(machine, seen)
                    return
            self._changed.wait(deadline)

    def _complain(self, machine: Machine, seen: tuple[int, dict[str, int]] | None) -> None:
        """Name the vCPUs that were inside one RUN for half of the time to linger."""
        half = self._args.linger / 2
        if seen is None or half < _SPIN_MIN:
            return
        for vcpu, runs in machine.runs().items():
            if seen[1].get(vcpu) == runs:
                vm, _, index = vcpu.rpartition(".")
                self._errors.append(
                    f"vm {vm}: vCPU {index} spins: it ran for {half:g} s after the end of input and"
                    " did not once wait, yield or send"
                )

    # The end.

    def _verdict(self, machine: Machine, console: Console, summary: list[VmSummary]) -> int:
        if self._output.broken.is_set():
            self._errors.append("standard output was closed before the end")
        self._errors += self._failures
        status = 1 if self._errors or console.refused or machine.aborts else 0
        left = self._left(console, summary)
        if left and not machine.aborts and not self._failures:
            status = _UNREAD
        for text in self._errors + left:
            print(f"hfsched: error: {text}", file=sys.stderr)
        return status

    def _left(self, console: Console, summary: list[VmSummary]) -> list[str]:
        left = []
        for vm in summary:
            if vm.unread:
                left.append(f"vm {vm.name}: a message was left unread in its mailbox")
            if vm.unclaimed:
                left.append(f"vm {vm.name}: {vm.unclaimed} messages for host ports nobody opened")
            if vm.lost:
                left.append(f"vm {vm.name}: {vm.lost} messages to the host found no room")
        if lines := console.unaccepted():
            left.append(f"standard input: {lines} lines were not accepted by their guest")
        return left

    def _print_summary(self, summary: list[VmSummary]) -> None:
        seconds = (self._runtime.now() - self._began) / _NS
        vms = [asdict(vm) for vm in summary]
        self._output.event({"event": "summary", "seconds": round(seconds, 6), "vms": vms})
        if self._args.quiet:
            return
        lines = [f"summary after {seconds:.2f} s"]
        for vm in summary:
            runs = ", ".join(f"{count} {name}" for name, count in vm.runs.items())
            lines.append(
                f"  {vm.name}: messages {vm.from_host} from the host, {vm.to_host} to it,"
                f" {vm.to_guests} to guests; {sum(vm.runs.values())} RUNs ({runs});"
                f" {vm.wake_ups} wake-ups, {vm.spurious} spurious RUNs"
            )
            odd = {"discarded": vm.discarded, "malformed": vm.malformed}
            lines += [f"    {count} {what}" for what, count in odd.items() if count]
        notice("\n".join(lines))

    def _notice(self, text: str) -> None:
        if not self._args.quiet:
            notice(escape(text.encode()))

    def _aborted(self, vm: str, reason: str) -> None:
        print(f"hfsched: error: vm {vm} aborted: {reason}", file=sys.stderr)

    def _failed(self, task: str, error: BaseException) -> None:
        if isinstance(error, UserError):
            self._failures.append(str(error))
        else:
            self._failures.append(f"internal error in {task}: {type(error).__name__}: {error}")
            if os.environ.get("HFSCHED_TRACEBACK"):
                sys.excepthook(type(error), error, error.__traceback__)
        self._changed.set()


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated
