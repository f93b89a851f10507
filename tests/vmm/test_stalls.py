"""What lasts too long is reported once: unread messages while nothing runs, and vCPUs that spin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standins import SCRIPT
from talk import UNICORN
from talks import every_engine, talk

from hfsched.mailbox.ports import frame
from hfsched.vmm.stalls import STALL

if TYPE_CHECKING:
    from talk import Talk, Target


def lose(host: Talk, text: bytes) -> None:
    """Write a message into the first VM's mailbox, and wake nothing: a lost wake-up."""
    number = host.vm().id
    assert host.machine.hypervisor.primary.send(number, frame(1, 1, text), notify=False)


def test_a_lost_wake_up_is_named_while_it_lasts() -> None:
    with talk(SCRIPT, "echo") as host:
        host.until_quiet()
        stalls = host.machine.stalls
        lose(host, b"hello")
        assert stalls.look(0) == []
        assert stalls.next == STALL
        assert stalls.look(STALL - 1) == []
        (text,) = stalls.look(STALL)
        assert text.startswith(
            f"vm {host.vm().name}: a message of 21 bytes from the host has been unread for 1 s, and no vCPU runs:"
            " vCPU 0 waits for a message (enabled: "
        )
        assert stalls.next is None
        assert stalls.look(9 * STALL) == [], "once"
        host.machine.driver.recover(host.vm().id)  # it is read
        host.until_quiet()
        lose(host, b"hello again")
        assert stalls.look(10 * STALL) == []
        assert len(stalls.look(11 * STALL)) == 1, "another message"


def test_a_vcpu_that_wakes_begins_anew() -> None:
    with talk(SCRIPT, "echo") as host:
        host.until_quiet()
        stalls = host.machine.stalls
        lose(host, b"hello")
        assert stalls.look(0) == []
        host.machine.driver.vms[0].mirror.wake(0)
        host.until_quiet()
        lose(host, b"hello")
        assert stalls.look(STALL) == []
        assert stalls.next == 2 * STALL


def test_time_that_the_machine_was_suspended_does_not_count() -> None:
    with talk(SCRIPT, "echo") as host:
        host.until_quiet()
        stalls = host.machine.stalls
        lose(host, b"hello")
        assert stalls.look(0) == []
        stalls.restart()
        assert stalls.look(STALL) == []
        assert len(stalls.look(2 * STALL)) == 1


def test_a_machine_at_rest_is_not_looked_at_again() -> None:
    with talk(SCRIPT, "echo") as host:
        host.until_quiet()
        stalls = host.machine.stalls
        assert stalls.look(0) == []
        assert stalls.next is None
        assert stalls.look(1) == []
        assert stalls.next == STALL // 2, "a busy machine is not looked at each time that it rests"


@every_engine
def test_a_vcpu_that_spins_is_reported_once_with_its_pc(target: Target) -> None:
    with talk(target, "hostile") as host:
        host.ask("spin")
        stalls = host.machine.stalls
        ran = 0
        stalls.processor_time = lambda _vm, _index: ran
        driven = host.machine.driver.vms[0]
        assert host.until(lambda: driven.mirror.in_run(0))
        host.until(lambda: driven.mirror.in_run(0) and stalls.look(0) == [])
        assert stalls.next == STALL // 2
        assert stalls.look(STALL // 2) == []
        ran = STALL - 1  # it has waited for a processor
        assert stalls.look(STALL + STALL // 2) == []
        ran = STALL
        (text,) = stalls.look(2 * STALL)
        lasted = "vCPU 0 has run for 1 s without a hypercall or WFI; pc 0x"
        assert text.startswith(f"vm {host.vm().name}: {lasted}")
        assert stalls.look(9 * STALL) == []


def test_a_vcpu_that_makes_hypercalls_does_not_spin() -> None:
    with talk(UNICORN, "stress") as host:
        host.until_quiet()
        stalls = host.machine.stalls
        for now in range(5):
            host.send(b"check 7")
            assert stalls.look(now * STALL) == []
            host.receive()


def test_a_vcpu_that_waits_for_room_in_a_port_does_not_spin() -> None:
    with talk(SCRIPT, "echo") as host:
        end = host.end()
        driven = host.machine.driver.vms[0]
        sent = 0
        while driven.mirror.in_run(0) or sent < 17:
            if end.try_send(b"x").name == "SENT":
                sent += 1
            if sent > 17:
                break
        assert host.until(lambda: not driven.mirror.in_run(0))
        assert host.machine.busy() == {}
        assert [host.machine.stalls.look(now * STALL) for now in range(4)][-1] == []
