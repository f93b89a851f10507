"""Several CPUs in several threads: one turn, exact atomics, everybody's progress."""

from __future__ import annotations

import a64
import pytest
from a64 import mov, mrs
from unicorn_guest import BASE, DATA, Guest, args

from hfsched.memory.ram import Ram
from hfsched.vcpu.engine import Exit, Fault, Hypercall, Kicked, Permissions
from hfsched.vcpu.unicorn.cpu import NEW_BLOCKS

ROUNDS = 500_000


@pytest.mark.parametrize("kind", ["exclusive", "atomic"])
def test_two_cpus_count_to_the_last_update(kind: str) -> None:
    update: list[a64.Item] = (
        ["again:", a64.ldxr(2, 1), a64.add(2, 2, 1), a64.stxr(3, 2, 1), a64.cbnz(3, "again")]
        if kind == "exclusive"
        else [a64.ldadd(5, 2, 1)]
    )
    with Guest(vcpus=2) as guest:
        guest.load(
            mov(1, DATA),
            mov(4, ROUNDS),
            mov(5, 1),
            "l:",
            *update,
            a64.sub(4, 4, 1),
            a64.cbnz(4, "l"),
            a64.hvc(),
        )
        ends = []

        def run(index: int) -> None:
            cpu = guest.space.vcpu(index)
            cpu.reset(BASE, 0)
            ends.append(cpu.enter())

        tasks = [guest.runtime.spawn(f"cpu {i}", lambda i=i: run(i)) for i in range(2)]  # type: ignore[misc]
        for task in tasks:
            assert task.join(guest.runtime.now() + 60 * 10**9)
        assert [type(end) for end in ends] == [Hypercall, Hypercall]
        assert guest.word(DATA) == 2 * ROUNDS


def test_two_spinning_cpus_both_go_on() -> None:
    """Each waits for the other, a thousand times: no thread holds the turn for ever."""
    with Guest(vcpus=2) as guest:
        # x0 = my word, x1 = the other's word, x2 = round: publish the round, spin for the other's.
        guest.load(
            mov(2, 0),
            "l:",
            a64.add(2, 2, 1),
            a64.store(2, 0),
            "spin:",
            a64.ldr(3, 1),
            0xEB02007F,  # cmp x3, x2
            a64.bcond(3, "spin"),  # b.lo
            a64.sub(4, 2, 20),
            a64.cbnz(4, "l"),
            a64.hvc(),
        )
        done = []

        def run(index: int) -> None:
            cpu = guest.space.vcpu(index)
            cpu.reset(BASE, 0)
            cpu.reply([DATA + 8 * index, DATA + 8 * (1 - index)])
            done.append(cpu.enter())

        tasks = [guest.runtime.spawn(f"cpu {i}", lambda i=i: run(i)) for i in range(2)]  # type: ignore[misc]
        for task in tasks:
            assert task.join(guest.runtime.now() + 60 * 10**9)
        assert [type(end) for end in done] == [Hypercall, Hypercall]


def test_a_kick_and_a_line_need_no_turn() -> None:
    """CPU 0 spins and has the turn; CPU 1 waits for it; both are kicked by a third."""
    with Guest(vcpus=2) as guest:
        guest.load("l:", a64.b("l"))
        cpus = [guest.space.vcpu(i) for i in range(2)]
        ends: list[object] = []

        def run(index: int) -> None:
            cpus[index].reset(BASE, 0)
            ends.append(cpus[index].enter())

        tasks = [guest.runtime.spawn(f"cpu {i}", lambda i=i: run(i)) for i in range(2)]  # type: ignore[misc]
        for cpu in cpus:
            cpu.set_irq(True)
            cpu.kick()
        for task in tasks:
            assert task.join(guest.runtime.now() + 30 * 10**9)
        assert ends == [Kicked(), Kicked()]


COUNT = DATA + 0x1000  # in another page


def test_a_change_of_memory_holds_from_its_return() -> None:
    """The CPU reads DATA, counts, and again; beside it the page goes and comes."""
    with Guest() as guest:
        guest.start(
            mov(1, DATA),
            mov(2, COUNT),
            "l:",
            a64.ldr(3, 1),
            a64.add(0, 0, 1),
            a64.store(0, 2),
            a64.b("l"),
        )
        ends: list[Exit] = []
        for _ in range(20):
            before = guest.word(COUNT)
            task = guest.runtime.spawn("cpu", lambda: ends.append(guest.cpu.enter()))
            while guest.word(COUNT) == before:
                guest.runtime.checkpoint("not yet")
            guest.space.protect(DATA, 0x1000, Permissions(0))
            seen = guest.word(COUNT)
            assert task.join(guest.runtime.now() + 60 * 10**9)
            assert isinstance(ends[-1], Fault)
            assert guest.word(COUNT) - seen <= 1, "it was between the two"
            guest.space.protect(DATA, 0x1000, Permissions.RWX)


def test_memory_comes_and_goes_beside_running_cpus() -> None:
    """New RAM, tables that split and join: the CPUs see nothing of it."""
    with Guest(vcpus=2) as guest:
        guest.load(
            mov(1, COUNT),
            mov(4, ROUNDS),
            mov(5, 1),
            "l:",
            a64.ldadd(5, 2, 1),
            a64.sub(4, 4, 1),
            a64.cbnz(4, "l"),
            a64.hvc(),
        )
        ends: list[Exit] = []

        def run(index: int) -> None:
            cpu = guest.space.vcpu(index)
            cpu.reset(BASE, 0)
            ends.append(cpu.enter())

        tasks = [guest.runtime.spawn(f"cpu {i}", lambda i=i: run(i)) for i in range(2)]  # type: ignore[misc]
        rams = []
        for number in range(30):
            ram = Ram(f"{number}", 0x20_0000)
            rams.append(ram)
            place = 0x8000_0000 + number * ram.size
            guest.space.map(place, ram, 0, ram.size, Permissions.RWX)
            guest.space.protect(place + 0x1000, 0x1000, Permissions.READ)
            guest.space.protect(DATA + 0x2000, 0x1000, Permissions(number % 8))
            guest.space.unmap(place, ram.size)
        for task in tasks:
            assert task.join(guest.runtime.now() + 60 * 10**9)
        assert [type(end) for end in ends] == [Hypercall, Hypercall]
        assert guest.word(COUNT) == 2 * ROUNDS
        guest.space.close()
        for ram in rams:
            ram.close()


def test_each_cpu_knows_its_number() -> None:
    with Guest(vcpus=4) as guest:
        guest.load(mrs(0, a64.MPIDR), a64.hvc())
        for i in range(4):
            cpu = guest.space.vcpu(i)
            assert cpu.index == i
            cpu.reset(BASE, 0)
            assert args(cpu.enter())[0] == i, "without bit 31, as Hafnium has it"


class _CountingTurn:
    """The turn of a CPU that is alone: counts how often it is taken."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self, _place: object, _unwanted: object) -> bool:
        self.taken += 1
        return True

    def give(self) -> None:
        pass

    def forget(self, _place: object) -> None:
        pass


def test_code_that_is_all_new_does_not_keep_the_turn() -> None:
    """Translating costs a thousand times what executing does."""
    with Guest() as guest:
        turn = _CountingTurn()
        guest.cpu._turn = turn  # type: ignore[attr-defined]
        guest.start([a64.add(0, 0, 1), 0x14000001] * 3000, a64.hvc())
        assert args(guest.cpu.enter())[0] == 3000
        assert 3000 // NEW_BLOCKS <= turn.taken <= 3000 // NEW_BLOCKS + 3
