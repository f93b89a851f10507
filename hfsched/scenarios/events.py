"""Events at any point of the transfer of messages.

Each `event` happens once, at any point:

- ``suspend``: the machine is suspended and resumed, twice; meanwhile no vCPU may be in RUN, and
  no message may be written to the mailbox;
- ``abort``: the guest's last vCPU ends, and the VM aborts: no thread may stay asleep, and senders get
  an error;
- ``timer``: the guest waits for a message with a time-out, which may expire before any message;
- ``fault``: the page of the mailbox is evicted, and a pager restores it when it is accessed;
- ``post``: work is posted to the vCPUs' threads: each item runs once, outside of RUN;
- ``death``: the host program that sends dies; the messages that it has sent must still be read.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.explore.registry import Variant, spec_of
from hfsched.explore.scenario import World
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.mirror import VcpuActivity
from hfsched.runtime.base import ChannelClosedError
from hfsched.scenarios.guests import RECEIVERS, GuestLog, aborting
from hfsched.scenarios.machine import SIZE, Guest, Host, ScenarioMachine, not_empty
from hfsched.scenarios.memory import ComparedRam
from hfsched.scenarios.variants import PARTS
from hfsched.scheduler.outbox import Sent
from hfsched.text import count
from hfsched.vcpu.script import Program

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.hypervisor.vm import Vcpu
    from hfsched.runtime.base import End

__all__ = ["EVENTS", "EventsScenario", "suspend"]

EVENTS = ("suspend", "abort", "timer", "fault", "post", "death")


class PagedRam(ComparedRam):
    """RAM that may have been evicted: a thread that accesses it waits until the pager restores it."""

    def __init__(self, runtime: ExploreRuntime, name: str, size: int) -> None:
        super().__init__(runtime, name, size)
        self.present = runtime.event(f"{name}.present")
        self.present.set()
        self.fault = runtime.event(f"{name}.fault")

    def _touch(self) -> None:
        while not self.present.is_set():
            self.fault.set()
            self.present.wait()

    def read(self, offset: int, size: int) -> bytes:
        """See `Ram.read`."""
        self._touch()
        return super().read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """See `Ram.write`."""
        self._touch()
        super().write(offset, data)


@dataclass(frozen=True)
class EventsScenario:
    """One host sends `messages` to a `receiver` while an `event` happens.

    The pager of the variant ``locked-pager`` takes the VM's lock before it restores a page, which a
    faulting thread may hold.
    """

    event: str = "suspend"
    receiver: str = "echo"
    vcpus: int = 1
    messages: int = 2
    variant: str = ""

    values: ClassVar[Mapping[str, Collection[str]]] = {"event": EVENTS, "receiver": RECEIVERS}
    variants: ClassVar[Mapping[str, Variant]] = {
        "locked-pager": Variant(
            "the pager takes a lock that the faulting thread holds",
            {"event": "fault", "messages": 1},
        ),
    }

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise ValueError(f"event={self.event}: known: {', '.join(EVENTS)}")
        if self.receiver not in RECEIVERS:
            raise ValueError(f"receiver={self.receiver}: known: {', '.join(RECEIVERS)}")
        if not (2 if self.receiver in ("wfi-echo", "reader-1") else 1) <= self.vcpus <= 4:
            raise ValueError(f"vcpus={self.vcpus}: too few or more than 4 for {self.receiver}")
        if not 1 <= self.messages <= 100:
            raise ValueError(f"messages={self.messages}: not in 1..100")

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("events", self)

    def small(self) -> EventsScenario:
        """Return the size whose every interleaving a race pass runs."""
        vcpus = 2 if self.receiver in ("wfi-echo", "reader-1") else 1
        return replace(self, vcpus=vcpus, messages=1)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the machine, the sender, and the task of the event."""
        machine = ScenarioMachine(runtime, PARTS[""])
        vcpus = self.vcpus + (self.event == "abort")
        ram = PagedRam(runtime, "g", SIZE) if self.event == "fault" else None
        guest = machine.vm("g", vcpus, self._programs, ram)
        machine.start(boot=False, kicks=self.event in ("suspend", "abort", "post"))
        host = Host(machine, 0, guest, self.messages)
        if self.event == "death":
            self._client(machine, guest, host)
        else:
            runtime.spawn(host.name, host.run)
        suspended: list[RxState] = []
        resumed: list[bool] = []
        posted: list[int] = []
        if self.event == "suspend":
            runtime.spawn("suspender", partial(_suspend_twice, machine, guest, suspended, resumed))
        elif self.event == "abort":
            runtime.spawn("aborter", partial(machine.start_guest, guest, vcpus - 1))
        elif self.event == "post":
            runtime.spawn("poster", partial(self._post, machine, guest, posted))
        elif ram is not None:
            runtime.spawn("pager", partial(self._page, machine, guest, ram))
            runtime.event_of("eviction", partial(_evict, ram))

        def invariant() -> None:
            if suspended:
                state = guest.vm.mailbox.state
                assert state is suspended[0], (
                    f"the mailbox changes to {state.value} while suspended"
                )
                running = [vcpu.index for vcpu in guest.vm.vcpus if vcpu.claimed]
                assert not running, f"vCPU {running[0]} is in RUN though the machine is suspended"

        def check() -> None:
            if self.event == "abort":
                self._check_abort(machine, guest, host)
            else:
                self._check(guest, host)
                if self.event == "suspend":
                    assert len(resumed) == 2, "the suspender has not ended"
                if self.event == "post":
                    wanted = list(range(vcpus))
                    assert posted == wanted, f"posted work ran on vCPUs {posted}, not on {wanted}"

        def final() -> Hashable:
            return (guest.log.key(), guest.vm.mailbox.state, tuple(host.sent), host.ended)

        timers = self.event == "timer"
        return World(
            check,
            invariant=invariant,
            remembers=False,
            final=final,
            timers=timers,
            watch=machine.state,
        )

    def _programs(self, log: GuestLog, _id: int) -> Sequence[Program]:
        receiver = "ticking" if self.event == "timer" else self.receiver
        first, rest = (partial(program, log) for program in RECEIVERS[receiver])
        programs: list[Program] = [first, *[rest] * (self.vcpus - 1)]
        if self.event == "abort":
            programs.append(partial(aborting, log))
        return programs

    def _page(self, machine: ScenarioMachine, guest: Guest, ram: PagedRam) -> None:
        while True:
            machine.runtime.retain_only()
            ram.fault.wait()
            ram.fault.clear()
            if self.variant:
                with guest.vm.lock:
                    pass
            ram.present.set()

    def _post(self, machine: ScenarioMachine, guest: Guest, posted: list[int]) -> None:
        """Post work to each vCPU's thread, and wait for it."""

        def work(vcpu: Vcpu) -> None:
            assert not vcpu.claimed, f"posted work runs while vCPU {vcpu.index} is in RUN"
            posted.append(vcpu.index)

        for vcpu in guest.vm.vcpus:
            machine.driver.owners.post(guest.driven, vcpu.index, partial(work, vcpu)).result()
            machine.runtime.retain_only(len(posted))

    def _client(self, machine: ScenarioMachine, guest: Guest, host: Host) -> None:
        """Spawn a client process, which may die, and a session that forwards its messages."""
        here, there = machine.runtime.channel("client")

        def program(_: ExploreRuntime, end: End) -> None:
            for index in range(self.messages):
                end.send(bytes((host.number, index)))

        def session() -> None:
            try:
                while True:
                    machine.runtime.retain_only(len(host.sent))
                    received = here.recv()
                    assert received is not None
                    host.sent.append(received[0])
                    assert guest.outbox.send(received[0]) is Sent.SENT
            except ChannelClosedError:
                host.ended = True

        process = machine.runtime.process("client", program, [there])
        machine.runtime.may_die(process)
        machine.runtime.spawn(host.name, session)

    def _check(self, guest: Guest, host: Host) -> None:
        state, read = guest.vm.mailbox.state, guest.log.read
        assert state is RxState.EMPTY, not_empty(state)
        assert host.ended, f"the host still waits after {count(len(host.sent), 'message')}"
        assert read == host.sent, f"read {read}, sent {host.sent}"
        if self.event == "timer":
            assert guest.log.ticks == 1, f"{guest.log.ticks} time-outs of 1"

    def _check_abort(self, machine: ScenarioMachine, guest: Guest, host: Host) -> None:
        assert len(machine.aborts) == 1, f"{len(machine.aborts)} aborts were reported"
        for vcpu in guest.vm.vcpus:
            activity = guest.driven.mirror.activity(vcpu.index)
            assert activity is VcpuActivity.GONE, (
                f"the thread of vCPU {vcpu.index} has not ended: {activity.value}"
            )
        assert host.ended, "the host waits for a VM that is dead"
        assert guest.log.read == host.sent[: len(guest.log.read)], "read out of order"


def _suspend_twice(
    machine: ScenarioMachine, guest: Guest, suspended: list[RxState], resumed: list[bool]
) -> None:
    for _ in range(2):
        with machine.suspension.held("suspender"):
            suspended.append(guest.vm.mailbox.state)
            machine.runtime.checkpoint("suspended")
            suspended.clear()
        resumed.append(True)
        machine.runtime.retain_only(len(resumed))


def suspend(machine: ScenarioMachine, suspended: list[bool]) -> None:
    """Suspend and resume the machine; `suspended` is not empty while it is suspended."""
    with machine.suspension.held("suspender"):
        suspended.append(True)
        machine.runtime.checkpoint("suspended")
        suspended.clear()


def _evict(ram: PagedRam) -> None:
    ram.present._flag = False
