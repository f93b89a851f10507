"""Messages to a guest: the production hypervisor, driver and mirror, under every interleaving.

Hosts and guests send numbered messages; the receiver must read each of them once, in its sender's
order, and then wait with an empty mailbox.  `guests` has the receivers.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.hypervisor.interface import Busy, NotifyWaiters, WaitForInterrupt, WaitForMessage
from hfsched.mailbox.mailbox import RxState
from hfsched.scenarios.guests import RECEIVERS, GuestLog, sender
from hfsched.scenarios.machine import Courier, Guest, Host, ScenarioMachine, not_empty
from hfsched.scenarios.variants import PARTS, VARIANTS
from hfsched.vcpu.script import Program

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["MailboxScenario"]

_OF_TWO = ("wfi-echo", "reader-1", "reader-off")  # receivers that need two vCPUs


@dataclass(frozen=True)
class MailboxScenario:
    """`hosts` host tasks and `guests` other VMs send `messages` each to a `receiver`.

    With `boot` the guests' start-up is explored too; else they wait before the first message is sent.
    `runners` are further threads that RUN vCPU 0, once for each message of a host; `hurried` further hosts
    send as many, and do not wait for ever; `couriers` wait outside their sends.
    """

    receiver: str = "echo"
    vcpus: int = 1
    messages: int = 2
    hosts: int = 1
    guests: int = 0
    runners: int = 0
    hurried: int = 0
    couriers: int = 0
    boot: bool = False
    variant: str = ""

    values: ClassVar[Mapping[str, Collection[str]]] = {"receiver": RECEIVERS}
    variants: ClassVar[Mapping[str, Variant]] = VARIANTS

    def __post_init__(self) -> None:
        if self.receiver not in RECEIVERS:
            raise ValueError(f"receiver={self.receiver}: known: {', '.join(RECEIVERS)}")
        check_ranges(
            self,
            ("vcpus", 2 if self.receiver in _OF_TWO else 1, 4),
            ("messages", 1, 100),
            ("hosts", 0, 100),
            ("guests", 0, 8),
            ("runners", 0, 4),
            ("hurried", 0, 4),
            ("couriers", 0, 4),
        )

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("mailbox", self)

    def small(self) -> MailboxScenario:
        """Return the size whose every interleaving a race pass runs."""
        vcpus = 2 if self.receiver in _OF_TWO else 1
        hosts, guests = (1, 0) if self.hosts else (0, min(self.guests, 1))
        return replace(
            self,
            vcpus=vcpus,
            messages=1,
            hosts=hosts,
            guests=guests,
            runners=0,
            hurried=0,
            couriers=0 if self.hosts else min(self.couriers, 1),
            boot=vcpus == 1,
        )

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the machine and its senders."""
        machine = ScenarioMachine(runtime, PARTS[self.variant])
        receiver = machine.vm("g", self.vcpus, self._programs)
        senders = [
            machine.vm(f"s{number}", 1, partial(self._sending_guest, receiver.vm.id))
            for number in range(self.guests)
        ]
        machine.start(boot=self.boot, kicks=self.runners > 0)
        if self.hosts + self.hurried + self.couriers == 1:
            runtime.declare_private("g.outbox")
        for guest in senders:
            machine.start_guest(guest)
            machine.declare_exclusive(guest, receiver)
        hosts = [
            Host(machine, number, receiver, self.messages, hurried=number >= self.hosts)
            for number in range(self.hosts + self.hurried)
        ]
        hosts += [
            Courier(machine, len(hosts) + number, receiver, self.messages)
            for number in range(self.couriers)
        ]
        for host in hosts:
            runtime.spawn(host.name, host.run)
        for number in range(self.runners):
            runtime.spawn(f"runner.{number}", partial(self._run, machine, receiver))

        limit = 2 * self.messages * (len(hosts) + self.guests)

        vm, mirror = receiver.vm, receiver.mirror

        def invariant() -> None:
            spurious, claims = vm.spurious, mirror.wake_ups
            assert spurious <= limit + claims, f"{spurious} spurious RUNs: a livelock"
            machine.check_waiters()

        def check() -> None:
            self._check(receiver, hosts, senders)

        def final() -> Hashable:
            return (receiver.log.by_sender(), receiver.vm.mailbox.state.value)

        return World(
            check, invariant=invariant, final=final, timers=self.hurried > 0, watch=machine.state
        )

    def _programs(self, log: GuestLog, _id: int) -> Sequence[Program]:
        return [partial(program, log) for program in RECEIVERS[self.receiver]]

    def _sending_guest(self, to: int, log: GuestLog, own: int) -> Sequence[Program]:
        return [partial(sender(own, to, self.messages), log)]

    def _run(self, machine: ScenarioMachine, guest: Guest) -> None:
        """RUN vCPU 0 in addition to its own thread, as a scheduler with a pool of threads may."""
        runtime = machine.runtime
        for count in range(self.messages * self.hosts):
            while True:
                runtime.retain_only(count)
                result = machine.primary.run(guest.vm.id, 0)
                if isinstance(result, NotifyWaiters):
                    machine.driver.notify_waiters(guest.vm.id)
                elif isinstance(result, Busy | WaitForMessage | WaitForInterrupt):
                    break

    def _check(self, receiver: Guest, hosts: list[Host], senders: list[Guest]) -> None:
        expected = [bytes((n, m)) for n in range(self.hosts) for m in range(self.messages)]
        expected += [message for host in hosts[self.hosts :] for message in host.sent]
        expected += [bytes((guest.vm.id, n)) for guest in senders for n in range(self.messages)]
        state, read = receiver.vm.mailbox.state, receiver.log.read
        assert state is RxState.EMPTY, not_empty(state)
        for host in hosts:
            assert host.ended, f"host {host.number} sent {len(host.sent)} of {self.messages}"
        for guest in senders:
            assert guest.log.sent == self.messages, (
                f"{guest.vm.name} sent {guest.log.sent} of {self.messages}"
            )
        assert sorted(read) == sorted(expected), f"read {_list(read)} of {_list(expected)}"
        for number in {message[0] for message in expected}:
            mine = [message for message in read if message[0] == number]
            assert mine == sorted(mine), f"messages of {number} read in the order {_list(mine)}"


def _list(messages: list[bytes]) -> str:
    return " ".join(f"{sender}/{number}" for sender, number in messages) or "nothing"
