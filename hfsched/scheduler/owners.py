"""The threads that own vCPUs: one each, which runs it, and does the work that is posted to it.

An engine's vCPU may be entered, and its registers read, by one thread alone.  Others post work: it is
done between two RUNs, or, where the thread sleeps in the mirror, in a port or in a suspension,
without a RUN.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

from hfsched.errors import HfschedError
from hfsched.mailbox.slot import VcpuActivity
from hfsched.runtime.declared import uncompared

if TYPE_CHECKING:
    from hfsched.hypervisor.interface import PrimaryInterface
    from hfsched.mailbox.ports import Ports
    from hfsched.runtime.base import Runtime, Task
    from hfsched.scheduler.driver import DrivenVm

__all__ = ["OwnerGoneError", "PostedWork", "VcpuOwners"]

T = TypeVar("T")


class OwnerGoneError(HfschedError):
    """The thread that owned a vCPU has ended: its VM is dead, or the machine stopped."""


class PostedWork(Generic[T]):
    """Work on its way to a vCPU's thread; `result` waits for it."""

    def __init__(self, runtime: Runtime, name: str, work: Callable[[], T]) -> None:
        self._work = work
        self._done = runtime.event(f"{name}.posted")
        self._value: list[T] = []
        self._error: BaseException | None = None

    def result(self, deadline: int | None = None) -> T:
        """Return what the work returned, or raise what it raised.

        Raises OwnerGoneError where it could not be done, TimeoutError at the deadline (ns); then it
        may still be done later.
        """
        if not self._done.wait(deadline):
            raise TimeoutError("a vCPU's thread did not do its posted work in time")
        if self._error is not None:
            raise self._error
        return self._value[0]

    def run(self) -> None:
        """Do the work, on the vCPU's thread."""
        try:
            self._value.append(self._work())
        except Exception as exc:  # noqa: BLE001 - raised again by `result`
            self._error = exc
        self._done.set()

    def fail(self) -> None:
        """Give it up: the thread has ended."""
        self._error = OwnerGoneError("the vCPU's thread has ended")
        self._done.set()


@uncompared(
    _posted="the numbers are compared; the order is that in which the posters have seen them grow"
)
class VcpuOwners:
    """The threads of all vCPUs of a machine."""

    def __init__(self, runtime: Runtime, interface: PrimaryInterface, ports: Ports) -> None:
        self._runtime = runtime
        self._interface = interface
        self._ports = ports
        self._lock = runtime.lock("posted", state=self.key)
        self._posted: dict[tuple[int, int], list[PostedWork[object]]] = {}
        self._gone: set[tuple[int, int]] = set()
        self._tasks: list[Task] = []
        self._task_of: dict[tuple[int, int], Task] = {}

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        counts = tuple(sorted((where, len(work)) for where, work in self._posted.items()))
        return (counts, tuple(sorted(self._gone)))

    def start(self, vm: DrivenVm, index: int, loop: Callable[[], None]) -> None:
        """Start the thread of a vCPU; it runs `loop`, which ends with `leave`."""
        task = self._runtime.spawn(f"{vm.name}.{index}", loop)
        self._tasks.append(task)
        self._task_of[vm.id, index] = task

    def processor_time(self, vm: int, index: int) -> int | None:
        """Return the ns for which the thread of a vCPU has run; None: it has ended, or that is unknown."""
        task = self._task_of.get((vm, index))
        return None if task is None else task.processor_time()

    def join(self, deadline: int | None = None) -> list[str]:
        """Wait for all threads to end; return the names of those that did not by the deadline."""
        return [task.name for task in self._tasks if not task.join(deadline)]

    def post(self, vm: DrivenVm, index: int, work: Callable[[], T]) -> PostedWork[T]:
        """Have the thread of a vCPU do something; any thread, never blocks."""
        posted = PostedWork(self._runtime, f"{vm.name}.{index}", work)
        where = (vm.id, index)
        with self._lock:
            gone = where in self._gone
            if not gone:
                self._posted.setdefault(where, []).append(posted)  # type: ignore[arg-type]
        if gone:
            posted.fail()
        elif vm.mirror.post(index) is VcpuActivity.RUNNING:
            self._interface.preempt(vm.id, index)
            self._ports.nudge(vm.id)
        return posted

    def work(self, vm: int, index: int) -> None:
        """Do what was posted; on the vCPU's thread, in no RUN."""
        with self._lock:
            found = self._posted.pop((vm, index), [])
        for posted in found:
            posted.run()

    def leave(self, vm: int, index: int) -> None:
        """Note that a vCPU's thread ends; what was posted to it fails."""
        with self._lock:
            self._gone.add((vm, index))
            found = self._posted.pop((vm, index), [])
        for posted in found:
            posted.fail()
