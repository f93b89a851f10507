"""The world of the scenario `machine`: the machine that ships, the tasks beside it, and the oracles."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import TYPE_CHECKING

from hfsched.explore.scenario import World
from hfsched.mailbox.ports import Ports
from hfsched.scenarios.shipped.asker import Asker, Copier
from hfsched.scenarios.shipped.clients import Client, servers_for
from hfsched.scenarios.shipped.devices import Doorbell
from hfsched.scenarios.shipped.guests import GUESTS
from hfsched.scenarios.shipped.hosts import (
    Host,
    Listener,
    Prober,
    Reporter,
    Requester,
    Suspender,
)
from hfsched.scenarios.shipped.looks import Looks
from hfsched.scenarios.shipped.swap import SwapModel, Swapper
from hfsched.scenarios.shipped.world import ShippedMachine, executing
from hfsched.scenarios.swapmain import FailingRuntime
from hfsched.services.transaction import Status
from hfsched.vmm.assembly import Parts

if TYPE_CHECKING:
    from hfsched.explore.handles import ProcessHandle, TaskHandle
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.scenarios.shipped.scenario import MachineScenario
    from hfsched.vmm.report import VmSummary

__all__ = ["MachineWorld"]


class MachineWorld:
    """One execution's world: the machine, who uses it, and what must hold."""

    def __init__(self, scenario: MachineScenario, runtime: ExploreRuntime) -> None:
        self._scenario = scenario
        self._runtime = runtime
        parts = Parts(ports=partial(Ports, queue_max=scenario.queue))
        self._kind = GUESTS[scenario.guest]
        self.swap = SwapModel(runtime)
        self.shipped = ShippedMachine(
            runtime,
            scenario.describe(),
            parts,
            swap=self.swap,
            failing=FailingRuntime(
                runtime,
                scenario.deaths,
                spawner_dies=scenario.spawner_dies,
                failing_starts=scenario.failing_starts,
            ),
            late=scenario.timers,
            by_turns=scenario.by_turns,
        )
        self.machine = self.shipped.machine
        self.hosts: list[Host] = []
        self.suspenders: list[Suspender] = []
        self._others: list[
            Asker | Listener | Doorbell | Prober | Reporter | Requester | Swapper
        ] = []
        self._askers: list[Asker] = []
        self._tasks: list[TaskHandle | ProcessHandle] = []
        kinds = scenario.clients.split("-") if scenario.clients else []
        self.servers = servers_for(runtime, self.shipped, kinds, scenario.places)
        self._user_suspends = "suspender" in kinds
        self._hibernates = "hibernator" in kinds
        self._over = runtime.event("over")
        self.looks = Looks(runtime, self._amounts)
        self.clients = [
            Client(runtime, self.servers, number, kind, scenario.messages)
            for number, kind in enumerate(kinds)
        ]

    def world(self) -> World:
        """Start the machine, and spawn the tasks."""
        scenario, runtime = self._scenario, self._runtime
        self.shipped.start()
        if not scenario.boot:
            runtime.settle()
        if not scenario.requests:
            runtime.declare_private("*.direct")
        self._make_tasks()
        self.shipped.failing.begin()
        for each in (*self.hosts, *self._others, *self.suspenders):
            self._tasks.append(runtime.spawn(each.name, each.run))
        for client in self.clients:
            task = client.begin()
            if client.leaves:
                self._tasks.append(task)
        servers = self.servers
        if scenario.quiet:
            self.shipped.on_activity = self.looks.changed.set
        elif self._hibernates and not scenario.stop:
            self.shipped.on_activity = self._over.set
        looks = (
            self.suspenders
            or self._user_suspends
            or self._hibernates
            or self.machine.swap is not None
            or scenario.quiet
        )
        main = partial(self.shipped.run, self._until, servers.close_commands, servers.close_ports)
        runtime.spawn("main", main)
        return World(
            self._check,
            invariant=self._look if looks else None,
            remembers=scenario.quiet,
            final=self._final,
            timers=scenario.timers,
            watch=self.shipped.state,
        )

    def _make_tasks(self) -> None:
        scenario, runtime, machine = self._scenario, self._runtime, self.machine
        names = machine.vm_names()
        for number in reversed(range(scenario.hosts)):
            patient = scenario.patient and not number
            host = Host(
                runtime,
                machine,
                number,
                names[number % len(names)],
                messages=scenario.messages,
                answers=self._kind.answers,
                sends=scenario.sends,
                before=[other.through for other in self.hosts] if patient else (),
            )
            self.hosts.insert(0, host)
        self.suspenders = [
            Suspender(runtime, machine, number, scenario.rounds, probes=bool(scenario.probes))
            for number in range(scenario.suspenders)
        ]
        prober: Prober | None = None
        if scenario.probes and not scenario.suspenders:
            prober = Prober(runtime, machine, scenario.probes)
            self._others.append(prober)
        if scenario.listener:
            after = None if scenario.listener != "late" or prober is None else prober.through
            handler = scenario.listener == "handler"
            unasked = self._kind.unasked
            self._others.append(
                Listener(runtime, machine, names[0], unasked, handler=handler, after=after)
            )
        if scenario.requests:
            self._others += [
                Requester(
                    runtime,
                    machine,
                    number,
                    scenario.requests,
                    deadlines=scenario.timers and not number,
                    alone=scenario.requesters == 1,
                )
                for number in range(scenario.requesters)
            ]
        if scenario.asks:
            self._askers.append(Asker(runtime, machine, scenario.asks))
        for number in range(scenario.copies):
            self._askers.append(Copier(runtime, machine, 1, f"copier.{number}"))
        self._others += self._askers
        if scenario.rings:
            self._others += [
                Doorbell(runtime, machine, scenario.rings, number)
                for number in range(self._kind.bells)
            ]
        if scenario.reports:
            self._others.append(Reporter(runtime, machine, scenario.reports))
        if self.machine.swap is not None and scenario.swap:
            words = scenario.swap.split("-")
            self._others.append(Swapper(runtime, self.machine.swap, words))

    def _until(self) -> None:
        if self._scenario.quiet:
            self.looks.until(lambda: not self.servers.pending() and self.machine.quiet())
        elif not self._scenario.stop and self._kind.dies:
            self.shipped.aborted.wait()  # a host may wait for an answer until the machine stops
            if self._scenario.vms == 1:
                self.machine.driver.owners.join()  # a dead VM's threads end without a stop
        elif self._hibernates and not self._scenario.stop:
            while not self.machine.snapshots.hibernated:
                self._runtime.retain_only(level=1)
                self._over.wait()
                self._over.clear()
        elif not self._scenario.stop:
            for task in self._tasks:
                task.join()

    # Oracles.

    def _look(self) -> None:
        for each in self.suspenders:
            each.look()
        if self._user_suspends or self._hibernates:
            self._look_held()
        self.swap.memory.look()
        if self._scenario.quiet:
            self.looks.look()

    def _look_held(self) -> None:
        """Check that nothing runs while the user holds the machine, nor when it goes on elsewhere."""
        if self.machine.user_hold.peek() or self.machine.snapshots.peek():
            running = [name for vm in self.machine.assembly.vms for name in executing(vm)]
            assert not running, f"vCPU {running[0]} is in RUN, and the machine is held"

    def _amounts(self) -> tuple[int, int]:
        """Return how many messages have been sent, and what is still to come of them."""
        kind = self._kind
        sent = sum(host.sent for host in self.hosts) + sum(client.sent for client in self.clients)
        vms = self.machine.assembly.vms
        through = sum(each.to_host for vm in vms for each in vm.driven.counters)
        owed = sent * kind.answers + len(vms) * kind.unasked
        unread = self.machine.ports.peek()
        return sent, unread if self.machine.aborts else owed - through + unread

    def _check(self) -> None:
        early = self._scenario.stop or self._kind.dies or self._scenario.timers or self._hibernates
        for host in self.hosts:
            assert host.ended, f"{host.name} has sent {host.sent} and read {host.read}, and waits"
            assert early or not host.stopped, f"{host.name} was stopped early"
        for each in (*self._others, *self.suspenders):
            assert each.ended, f"{each.name} waits"
            assert early or not each.stopped, f"{each.name} was stopped early"
        self._check_askers()
        for client in self.clients:
            client.check(early=early or self._scenario.places < len(self.clients))
        if not self._scenario.stop and not self._scenario.timers:
            self._check_last_words()
        assert self.shipped.closed, "main has not ended"
        self._check_tasks()
        self._check_held(early=early)
        for made in self.machine.assembly.vms:
            assert not made.outbox.waiting(), f"a sender to {made.name} that has gone has the turn"
        self.swap.check()
        patient = all(client.waits for client in self.clients)
        for vm in self.shipped.summary if self._kind.hosts_max else []:
            self._check_vm(vm, all_through=patient and not early)

    def _check_askers(self) -> None:
        scenario = self._scenario
        ends = [Status.TIMED_OUT] if scenario.timers else []
        if scenario.guest == "hibernator":
            ends.append(Status.HIBERNATED)
        elif scenario.guest == "twins" and scenario.boot:
            ends.append(Status.DAEMON_GONE)  # the second offer ends what the first was asked
        elif scenario.copies:
            ends.append(Status.BUSY)
        for asker in self._askers:
            asker.check(*ends)
        if scenario.copies and not any(asker.stopped for asker in self._askers):
            done = any(Status.OK in asker.answers for asker in self._askers)
            assert done or scenario.timers, "each copy has failed, for another one"
        if scenario.guest == "files" and not any(asker.stopped for asker in self._askers):
            record = self.machine.services.save("g0")
            assert record is not None
            assert record.transfer is None, "a copy that has ended is under way"

    def _check_tasks(self) -> None:
        """Check that no task of a VM goes on, unless the time for the stop was short."""
        for vm in () if self._scenario.timers else self.machine.vm_names():
            mine = [task for task in self._runtime.tasks if task.name.startswith(f"{vm}.")]
            left = [task.name for task in mine if not task.done]
            assert not left, f"{', '.join(left)} goes on after the machine's end"

    def _check_held(self, *, early: bool) -> None:
        """Check that no user holds the machine but one who knows, and was sent away before the resume."""
        if "user" in self.machine.suspended_by() and not early:
            known = any(client.reason and client.read for client in self.clients)
            assert known, "the user holds it for ever"

    def _check_last_words(self) -> None:
        """Check that the one answer of a guest that ends by it has come to the client that asked."""
        asking = [client for client in self.clients if client.kind == "asks"]
        if self._scenario.guest == "mortal" and asking and not self._scenario.hosts:
            assert sum(client.read for client in asking) == 1, "the guest's last message is lost"

    def _check_vm(self, vm: VmSummary, *, all_through: bool) -> None:
        """Check that every message that its mailbox has accepted was answered, or is in the summary."""
        kind = self._kind
        accepted = sum(host.sent for host in self.hosts if host.vm == vm.name)
        if self.servers.ports is not None and vm.name == "g0":
            accepted += sum(client.sent for client in self.clients)
            accepted -= self.servers.ports.undelivered().get(vm.name, 0)
        if self._scenario.timers and vm.from_host < accepted:
            return  # the time for the stop was too short for a sender that was half-way
        if self.clients and vm.abort is not None and vm.from_host < accepted:
            return  # what a client has sent to a VM that has ended is not counted
        assert vm.from_host == accepted, f"{vm.from_host} of {accepted} sent are counted"
        held = (
            (vm.from_host - vm.unread - vm.unmapped) * kind.answers
            + kind.unasked
            - vm.to_host
            - vm.lost
        )
        most = 0 if all_through else max(kind.answers, kind.unasked) * kind.vcpus
        assert 0 <= held <= most, f"{held} messages of {vm} are nowhere"

    def _final(self) -> Hashable:
        hosts = tuple((host.sent, host.read, host.busy, host.stopped) for host in self.hosts)
        others: tuple[Hashable, ...] = tuple(each.stopped for each in self._others)
        others += tuple(client.key() for client in self.clients)
        others += tuple(tuple(asker.answers) for asker in self._askers)
        vms = tuple((vm.to_host, vm.lost, vm.unread, vm.rx) for vm in self.shipped.summary)
        return (hosts, others, vms)
