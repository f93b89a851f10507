"""One run of a machine: from its construction to its summary and exit status."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from hfsched import __version__
from hfsched.cli.console import Console
from hfsched.cli.jobcontrol import JobControl
from hfsched.cli.leftovers import left_behind, summary_lines
from hfsched.cli.lines import Lines
from hfsched.cli.lingering import Linger
from hfsched.cli.output import Output
from hfsched.cli.serving import Serving
from hfsched.cli.signals import Signals
from hfsched.control import events
from hfsched.errors import UserError
from hfsched.limits import cause
from hfsched.mailbox.mailbox import RxState
from hfsched.runtime.threads import ThreadRuntime
from hfsched.text import count, printable
from hfsched.vmm.machine import Machine, VmSummary
from hfsched.vmm.manifest import MachineSpec

if TYPE_CHECKING:
    from hfsched.cli.preflight import Clients
    from hfsched.cli.restoring import Restoration
    from hfsched.runtime.base import Event
    from hfsched.vmm.lazy import LazyMemory
    from hfsched.vmm.records import MachineRecord

__all__ = ["RunSession"]

_NS = 1_000_000_000
_UNREAD = 3
_HIBERNATED = 4
_SHORTAGES = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
)  # what no code of ours could mend
MONITOR = "hfsched.swap.monitor.program"  # what the spawner's children import
END_WITHIN = 30 * _NS  # a clock, after the last thread that ended: then something never completes


class RunSession:
    """Created from the command line, a checked description and what descriptors allow; `run` once."""

    def __init__(
        self,
        args: argparse.Namespace,
        spec: MachineSpec,
        names: list[str],
        clients: Clients,
        restoration: Restoration | None = None,
    ) -> None:
        self._restoration = restoration
        clone = restoration is not None and restoration.clone
        if clone and args.name is None and args.no_sockets:
            spec.name = None  # nobody can ask which names are free
        self._numbered = clone and args.name is None and spec.name is not None
        self._args = args
        self._clients = clients
        self._spec = spec
        self._failures: list[str] = []
        self._runtime = ThreadRuntime(self._failed)
        self._lazy = restoration is not None and restoration.lazy
        # Before any other thread, and before anything is given up.
        if spec.swap is not None or self._lazy:
            try:
                self._runtime.start_spawner([MONITOR])
            except OSError as exc:
                remedy = ": --eager needs none" if spec.swap is None else ""
                raise UserError(
                    f"swap: no process can be started: {exc.strerror}{remedy}"
                ) from None
        self._changed = self._runtime.event("changed")
        self._summed = self._runtime.event(
            "summed"
        )  # only the reader of the output is waited for now
        self._over = self._runtime.event("over")
        self._began = self._runtime.now()
        self._errors: list[str] = []
        self._job = JobControl(self._runtime, self._changed)
        self._output = Output(
            self._runtime,
            1,
            names,
            as_json=args.json,
            changed=self._changed,
            gate=self._job.gate(1),
            escape=args.escape or "auto",
        )
        self._notices = Lines(
            self._runtime,
            "notices",
            2,
            lambda lost: f"hfsched: {count(lost, 'notice')} lost: not read in time\n".encode(),
            self._runtime.event("notices.broken"),
            self._job.gate(2),
        )
        self._signals: Signals | None = None
        self._default = args.to or names[0]
        self._events = events.Hub(self._runtime)
        self._serving = Serving(
            self._runtime, args, spec.name, clients, self._events, self._changed.set, self._notice
        )

    def run(self) -> int:
        """Run the machine to its end; return the exit status."""
        try:
            self._name_clone()
            with self._machine() as machine:
                self._signals = Signals(
                    self._runtime,
                    self._changed,
                    lambda n: self._end_soon(128 + n, self._over),
                    self._job,
                )
                if self._spec.name is not None and not self._args.no_sockets and not self._numbered:
                    self._serving.claim()  # before anything boots: the name may be in use
                return self._run(machine)
        finally:
            self._job.release()
            self._serving.close()
            self._notices.close(self._runtime.now() + _NS)
            self._output.close(self._runtime.now() + _NS)  # before the record of an error
            self._summed.set()
            self._over.set()
            self._runtime.close()

    def _name_clone(self) -> None:
        """Give a clone that the user gave no name one of its own."""
        if self._numbered:
            self._spec.name = self._serving.claim_copy()
        for text in () if self._restoration is None else self._restoration.notices(self._spec.name):
            self._notice(text)

    def _machine(self) -> Machine:
        def make(saved: MachineRecord | None, lazy: LazyMemory | None = None) -> Machine:
            return Machine(
                self._spec,
                self._runtime,
                self._output.log,
                self._notice,
                self._aborted,
                self._changed.set,
                self._events.note_hold,
                saved=saved,
                lazy=lazy,
            )

        restoration = self._restoration
        if restoration is None:
            return make(None)
        if restoration.why_not_lazy is not None:
            self._notice(f"memory is read before the guests run: {restoration.why_not_lazy}")
        return restoration.machine(make)

    def _run(self, machine: Machine) -> int:
        console = Console(
            self._runtime, machine, self._output, self._default, self._changed, self._job
        )
        console.open()
        machine.services.wall_clock = time.time_ns
        restored = list(machine.aborts.items())  # of VMs that had ended before the snapshot
        machine.start()
        names = tuple(machine.vm_names())
        self._events.publish(events.Started(machine=machine.name, version=__version__, vms=names))
        for vm, reason in restored:
            self._aborted(vm, reason)
        if not self._args.no_stdin:
            console.listen(0)
        if not self._args.no_sockets:
            self._serving.open(machine)
        elif self._spec.swap is not None:
            self._notice(
                "--no-sockets: no control socket, so `hfsched swap` cannot reach this machine"
            )
        if machine.user_hold.held():
            self._tell_held(machine)
        self._wait(machine, console)
        self._job.release()
        hibernated = machine.snapshots.hibernated
        why = b"it goes on from a snapshot" if hibernated else b""
        machine.services.end(why)  # requests of control clients wait for guests
        stuck = self._serving.close_commands("hibernates" if hibernated else None)
        interrupted = self._interrupted()
        for name in machine.stop():
            vm, _, index = name.rpartition(".")
            self._errors.append(
                f"vm {vm}: vCPU {index} did not stop: an instruction of its guest does not complete"
            )
        stuck += self._serving.close_ports()
        self._errors += [f"{task} did not stop: please report it" for task in stuck]
        limit = None if interrupted is None else self._runtime.now() + _NS
        summary = self._summary(machine)
        self._summed.set()
        console.drain(limit)
        ended = "the machine has hibernated" if hibernated else None
        if interrupted is not None:
            ended = "the run was interrupted"
        left = self._left(console, summary, ended, hibernated=hibernated)
        self._record_errors(left)
        self._print_summary(summary)
        self._output.close(limit)
        if interrupted is None and not hibernated:
            status = self._verdict(machine, console, summary, left)
        else:
            for text in left:
                self._say_unless_quiet(text)
            status = 0 if interrupted is not None else self._report_errors() or _HIBERNATED
        interrupted = self._interrupted()
        return status if interrupted is None else 128 + interrupted

    def _tell_held(self, machine: Machine) -> None:
        """Say that a restored machine is suspended, as it was; resume it where nobody else could."""
        if self._args.no_sockets:
            machine.user_hold.resume()
            self._notice("the machine was suspended when it was saved; --no-sockets: it is resumed")
        else:
            again = f"`hfsched resume {machine.name}`"
            self._notice(f"machine {machine.name} is suspended, as when it was saved: {again}")

    def _end_soon(self, status: int, by: Event) -> None:
        """End the process unless `by` is set while threads still end.

        A thread that accesses guest memory that is out waits for as long as the monitor does not
        answer, and may hold a VM's lock; a thread that needs the lock then waits too.
        """

        def watch() -> None:
            if self._ends(by):
                return
            served = self._spec.swap is not None or self._lazy
            why = ": guest memory that is out does not come back" if served else ""
            for text in self._failures:
                self._say(f"error: {text}")
            self._say(
                f"error: the run does not end, and is terminated: no thread of it has ended for {END_WITHIN // _NS} s{why}"
            )
            self._notices.close(self._runtime.now() + _NS)
            with suppress(OSError):
                self._serving.close()
            os._exit(status)

        with suppress(UserError):  # no thread for it: a second signal does the same
            self._runtime.spawn("end", watch)

    def _ends(self, by: Event) -> bool:
        """Wait for `by`; return False once no thread has ended for `END_WITHIN`."""
        left = threading.active_count()
        while not by.wait(self._runtime.now() + END_WITHIN):
            before, left = left, threading.active_count()
            if left >= before:
                return False
        return True

    def _interrupted(self) -> int | None:
        """Return the signal that came, None without one."""
        return None if self._signals is None else self._signals.number

    # Waiting for the end.

    def _wait(self, machine: Machine, console: Console) -> None:
        linger = Linger(machine, self._args.linger)
        while True:
            self._changed.clear()
            if self._job.attend(machine, self._notice, quiet=self._args.quiet):
                console.restart_linger()
                machine.stalls.restart()
            held, was_held = machine.user_hold.look()
            if was_held and not held:
                console.restart_linger()
                machine.stalls.restart()
            if self._failures or self._output.error or self._interrupted() is not None:
                return
            if len(machine.aborts) == len(self._spec.vm) or machine.snapshots.hibernated:
                return
            if held:  # neither quiet nor stalled; the end of the hold is told
                self._changed.wait()
                continue
            for text in machine.stalls.look(self._runtime.now()):
                self._notice(text)
            deadline = None
            if console.ended:
                if not self._serving.pending() and console.unsent() == 0 and machine.quiet():
                    return
                deadline = linger.look(console.progress, self._runtime.now())
                if deadline is None:
                    errors, cut_off = linger.cut_off(self._runtime.now())
                    self._errors += errors
                    if cut_off is not None:
                        self._notice(cut_off)
                    return
            ends = [when for when in (deadline, machine.stalls.next) if when is not None]
            self._changed.wait(min(ends, default=None))

    # The end.

    def _record_errors(self, left: list[str]) -> None:
        """With --json: print what `_verdict` will report, while standard output can still be written."""
        for text in self._errors + self._failures:
            self._output.event({"event": "error", "text": text})
        for text in left:
            self._output.event({"event": "undelivered", "text": text})

    def _report_errors(self) -> int:
        """Report what went wrong in a run that was ended; return 1, or 0 if nothing did."""
        for text in self._errors + self._failures:
            self._say(f"error: {text}")
        return 1 if self._errors or self._failures else 0

    def _verdict(
        self, machine: Machine, console: Console, summary: list[VmSummary], left: list[str]
    ) -> int:
        if (error := self._output.error) is not None:
            closed = isinstance(error, BrokenPipeError)
            what = " was closed before the end" if closed else f": {cause(error)}"
            self._errors.append(f"standard output{what}")
            left = self._left(console, summary, "the run had ended")
        self._errors += self._failures
        status = 1 if self._errors or console.refused or machine.aborts else 0
        if left and not machine.aborts and not self._failures and error is None:
            status = _UNREAD
        for text in self._errors + left:
            self._say(f"error: {text}")
        for vm in summary:
            if vm.rx == RxState.READ.value and vm.abort is None:
                text = f"vm {vm.name}: RX is not released: no FFA_RX_RELEASE after a message"
                self._say_unless_quiet(text)
        return status

    def _summary(self, machine: Machine) -> list[VmSummary]:
        """Return what happened; messages for clients that had disconnected are counted in two places."""
        return [
            replace(vm, discarded=vm.discarded + self._serving.discarded(vm.name))
            for vm in machine.summary()
        ]

    def _left(
        self,
        console: Console,
        summary: list[VmSummary],
        ended: str | None,
        *,
        hibernated: bool = False,
    ) -> list[str]:
        return left_behind(
            summary,
            lines=console.undelivered(),
            unsent=self._serving.undelivered(),
            ended=ended,
            hibernated=hibernated,
        )

    def _print_summary(self, summary: list[VmSummary]) -> None:
        seconds = (self._runtime.now() - self._began) / _NS
        vms = [asdict(vm) for vm in summary]
        self._output.event({"event": "summary", "seconds": round(seconds, 6), "vms": vms})
        if not self._args.quiet:
            self._say(*summary_lines(seconds, summary))

    def _say(self, *lines: str) -> None:
        """Print lines on standard error; never blocks."""
        text = "\n".join(map(printable, lines))
        self._notices.offer(f"hfsched: {text}\n".encode("utf-8", "backslashreplace"))

    def _notice(self, text: str) -> None:
        self._output.offer({"event": "notice", "text": text})
        self._say_unless_quiet(text)

    def _say_unless_quiet(self, text: str) -> None:
        if not self._args.quiet:
            self._say(text)

    def _aborted(self, vm: str, reason: str) -> None:
        self._output.offer({"event": "aborted", "vm": vm, "reason": reason})
        self._say(f"error: vm {vm} aborted: {reason}")
        self._events.publish(events.Aborted(vm=vm, reason=reason))
        self._serving.vm_ended(vm, reason)

    def _failed(self, task: str, error: BaseException) -> None:
        if isinstance(error, UserError):
            self._failures.append(str(error))
        elif isinstance(error, MemoryError):
            self._failures.append(f"{task}: {cause(OSError(errno.ENOMEM, 'not enough memory'))}")
        elif isinstance(error, OSError) and error.errno in _SHORTAGES:
            self._failures.append(f"{task}: {cause(error)}")
        else:
            self._failures.append(f"internal error in {task}: {type(error).__name__}: {error}")
            if os.environ.get("HFSCHED_TRACEBACK"):
                sys.excepthook(type(error), error, error.__traceback__)
        if len(self._failures) == 1:
            self._end_soon(1, self._summed)
        self._changed.set()
