"""Memory of an x86-64 VM under KVM: slots that change under running CPUs, and where they may be."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest
import x64
from kvm_guest import BASE, DATA, PAGE_FAULT, REPORT_ALL, SIZE, Guest, args, needs_kvm

from hfsched.errors import ConfigError, InternalError
from hfsched.memory.ram import Ram
from hfsched.vcpu.engine import Exit, Failed, Fault, Hypercall, Kicked, Mmio, Permissions
from hfsched.vcpu.kvm import tables

pytestmark = needs_kvm

CALL = x64.out(x64.HVC)
READ_ALL = x64.forever(CALL + x64.load("rax", "rdi"))  # RDI: an address, RAX: what is there
STOP, CODE = DATA + 0x1000, BASE + 0x2_0000


def read(guest: Guest, address: int) -> Exit:
    guest.cpu.reply((0, address))
    return guest.enter()


@pytest.mark.parametrize("base", [0x1_0000_0000, 0x1_7FFF_F000, 0x8_0000_0000, 0x40_0000_0000])
def test_memory_beyond_4_gib(base: int) -> None:
    """It is in the first page tables, and a CPU runs code there."""
    ram = Ram("high", 0x3000)
    ram.write(0x1000, x64.mov("rax", base) + x64.store("rax", "rdi") + CALL)
    with Guest() as guest:
        guest.space.map(base, ram, 0, 0x3000, Permissions.RWX)
        guest.cpu.reset(base + 0x1000, 99)
        assert guest.call()[:2] == (base, 99)
        assert ram.read(0, 8) == (99).to_bytes(8, "little")
        guest.space.close()
        ram.close()


def test_each_ipa_shows_its_part_of_its_ram() -> None:
    ram = Ram("odd", 0x60_0000)
    for page in range(0, ram.size, 0x1000):
        ram.write(page, (page | 0x5A).to_bytes(8, "little"))
    with Guest(READ_ALL) as guest:
        guest.call()
        guest.space.map(0x4000_3000, ram, 0x1000, ram.size - 0x1000, Permissions.READ)
        guest.space.map(0x5000_0000, ram, 0x5000, 0x2000, Permissions.RWX)
        guest.space.map(0x4020_0000, ram, 0, 0x1000, Permissions.RW)  # over what was there
        for ipa, offset in (
            (0x4000_3000, 0x1000),
            (0x401F_F000, 0x1F_D000),
            (0x4020_0000, 0),
            (0x4020_1000, 0x1F_F000),
            (0x405F_F000, 0x5F_D000),
            (0x5000_1000, 0x6000),
        ):
            assert args(read(guest, ipa))[0] == offset | 0x5A
        guest.space.close()
        ram.close()


def test_a_page_may_be_in_two_machines() -> None:
    with Guest(READ_ALL) as one, Guest(READ_ALL) as two:
        one.call()
        two.call()
        two.space.map(0x4000_0000, one.ram, DATA - BASE, 0x1000, Permissions.READ)
        one.ram.write(DATA - BASE, b"\x11" * 8)
        assert args(read(one, DATA))[0] == args(read(two, 0x4000_0000))[0] == 0x1111_1111_1111_1111
        two.space.close()


def test_a_page_that_may_not_be_written_can_be_read_and_executed() -> None:
    code = x64.mov("rbx", DATA) + x64.load("rdx", "rbx") + x64.store("rbx", "rdx")
    with Guest(code, handlers={PAGE_FAULT: REPORT_ALL}) as guest:
        guest.ram.write(DATA - BASE, (5).to_bytes(8, "little"))
        guest.space.protect(DATA, 0x1000, Permissions.READ)
        assert guest.enter() == Mmio(DATA, 8, write=True, value=5)
        guest.cpu.inject_abort()
        assert guest.call()[3] == 5
        assert guest.call()[1:4] == (0x4002, guest.start + len(code), DATA)


@pytest.mark.parametrize("taken", [Permissions(0), None], ids=["protected", "unmapped"])
def test_a_page_that_may_not_be_read_is_not_there(taken: Permissions | None) -> None:
    with Guest(READ_ALL) as guest:
        guest.call()
        if taken is None:
            guest.space.unmap(DATA, 0x1000)
        else:
            guest.space.protect(DATA, 0x1000, taken)
        for address in (DATA - 8, DATA + 0x1000):
            assert isinstance(read(guest, address), Hypercall)
        assert read(guest, DATA) == Mmio(DATA, 8, write=False, value=0)
        guest.space.map(DATA, guest.ram, DATA - BASE, 0x1000, Permissions.RWX)
        guest.call()


def _beside(guest: Guest, change: Callable[[int], object], rounds: int) -> list[Exit]:
    """Run CPU 0 beside `rounds` changes; then it is to stop.  Return its exits to that call."""
    stops: list[Exit] = []

    def run() -> None:
        while not isinstance(stop := guest.enter(), Hypercall | Failed | Kicked):
            stops.append(stop)
            time.sleep(0)  # a fault that is not yet repaired
        stops.append(stop)

    def disturb() -> None:
        for n in range(rounds):
            change(n)
        guest.ram.write(STOP - BASE, b"\0")

    guest.ram.write(STOP - BASE, b"\1" + bytes(7))
    guest.together(run, disturb)
    return stops


def counter() -> bytes:
    """Write a number (RDI) to DATA and read it (RDX), each time the next, as long as both agree.

    It ends with a call, when STOP is 0 or what was read is another number.
    """
    setup = x64.mov("rbx", DATA) + x64.mov("rsi", STOP) + x64.mov("rcx", 0)
    check = x64.compare("rsi", "rcx")  # is STOP 0?
    body = x64.inc("rdi") + x64.store("rbx", "rdi") + x64.load("rdx", "rbx")
    body += b"\x48\x39\xfa"  # cmp %rdi, %rdx
    again = x64.jump_if_not_zero(0)
    body += x64.jump_if_not_zero(6 + len(check) + len(again))  # to the end
    body += check
    return setup + x64.until_zero(body) + CALL


@pytest.mark.parametrize(
    "kinds",
    [
        (Permissions.READ, Permissions.RW),
        (Permissions(0), Permissions.RW),
        (Permissions.READ, Permissions(0), Permissions.RWX),
    ],
    ids=["read-only", "nothing", "both"],
)
def test_a_page_changes_its_permissions_under_a_running_cpu(kinds: tuple[Permissions, ...]) -> None:
    """Each access is made, once, when it may be; no exit is but of that page, of the right kind."""
    with Guest(counter()) as guest:
        turns = itertools.cycle(kinds)

        def change(n: int) -> None:
            guest.space.protect(DATA, 0x1000, next(turns))

        *faults, last = _beside(guest, change, 150 * len(kinds))
        _, count, _, read_back, *_ = args(last)
        assert read_back == count
        assert guest.word(DATA) == count
        for fault in faults:
            assert isinstance(fault, Mmio)
            assert fault.address == DATA
            assert fault.write or Permissions(0) in kinds


def test_other_pages_change_under_a_running_cpu_that_sees_nothing() -> None:
    ram = Ram("other", 0x10_0000)
    with Guest(counter()) as guest:

        def change(n: int) -> None:
            place = 0x4000_0000 + n % 7 * 0x2000
            guest.space.map(place, ram, n % 16 * 0x1000, 0x2000, Permissions.RW)
            guest.space.protect(place, 0x1000, Permissions.READ)
            if n % 3:
                guest.space.unmap(place, 0x1000)
            guest.space.protect(STOP + 0x1000, 0x1000, Permissions(n % 2))  # splits its slot

        (last,) = _beside(guest, change, 100)
        assert args(last)[1] == args(last)[3] == guest.word(DATA)
        guest.space.close()
        ram.close()


def test_the_code_of_a_running_cpu_goes_and_comes_back() -> None:
    with Guest() as guest:
        guest.ram.write(CODE - BASE, counter())
        guest.cpu.reset(CODE, 0)

        def change(n: int) -> None:
            if n % 2:
                guest.space.map(CODE, guest.ram, CODE - BASE, 0x1000, Permissions.RX)
            else:
                guest.space.unmap(CODE, 0x1000)

        *faults, last = _beside(guest, change, 200)
        assert args(last)[1] == args(last)[3]
        for fault in faults:
            assert isinstance(fault, Fault)
            assert fault.fetch
            assert fault.address & ~0xFFF == CODE


def test_code_that_comes_back_while_its_fetch_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no instruction that KVM cannot do, as it would be if it failed with nothing changed."""
    with Guest(x64.mov("rbx", CODE) + x64.jump_to("rbx")) as guest:
        guest.ram.write(CODE - BASE, CALL)
        guest.space.unmap(CODE, 0x1000)
        looks = 0

        def has(ipa: int) -> bool:
            nonlocal looks
            looks += 1
            # Each failure looks at two pages; at the third the right one comes.
            place = CODE if looks > 4 else 0x4000_0000 + 0x1000 * looks
            guest.space.map(place, guest.ram, CODE - BASE, 0x1000, Permissions.RX)
            return True

        monkeypatch.setattr(guest.space, "has", has)
        guest.call()
        assert looks > 4
        guest.space.unmap(CODE, 0x1000)
        monkeypatch.setattr(guest.space, "has", lambda _ipa: True)
        guest.cpu.reset(BASE, 0)
        end = guest.enter()
        assert isinstance(end, Failed)
        assert "cannot emulate" in end.reason


def test_the_first_page_tables_grow_under_a_running_cpu() -> None:
    ram = Ram("far", 0x1000)
    with Guest(counter()) as guest:

        def change(n: int) -> None:
            guest.space.map((5 + 30 * n) << 30, ram, 0, 0x1000, Permissions.RW)

        (last,) = _beside(guest, change, 40)
        assert args(last)[1] == args(last)[3]
        guest.space.close()
        ram.close()


def test_several_threads_change_the_memory_of_several_running_cpus() -> None:
    with Guest(
        x64.forever(CALL + x64.mov("rbx", DATA) + x64.lock_add("rbx", "rax")), vcpus=2
    ) as guest:
        over = threading.Event()

        def run(index: int) -> None:
            for _ in range(300):
                stop = guest.vcpus[index].enter()
                args(stop)
                guest.vcpus[index].reply((1,))
            done.append(index)
            if len(done) == 2:
                over.set()

        def disturb(page: int) -> None:
            while not over.is_set():
                guest.space.protect(STOP + page, 0x1000, Permissions.READ)
                guest.space.protect(STOP + page, 0x1000, Permissions.RWX)

        done: list[int] = []
        guest.together(lambda: run(0), lambda: run(1), lambda: disturb(0), lambda: disturb(0x3000))
        # The first call of each comes before its first addition.
        assert guest.word(DATA) == 2 * 299


@pytest.mark.parametrize("base", [tables.ADDRESS, tables.ADDRESS + 0x4000, tables.ADDRESS - 0x1000])
def test_memory_where_the_first_page_tables_are_is_refused(base: int) -> None:
    with Guest(x64.forever(CALL)) as guest:
        guest.call()
        with pytest.raises(
            ConfigError, match="overlaps the first page tables at 0xffe00000"
        ) as told:
            guest.space.map(base, guest.ram, 0, 0x2000, Permissions.RWX)
        assert f"[{base:#x}, {base + 0x2000:#x})" in str(told.value)
        guest.space.map(tables.ADDRESS - 0x2000, guest.ram, 0, 0x2000, Permissions.RWX)
        guest.call()  # nothing has happened


def test_what_is_no_range_of_pages_is_refused() -> None:
    with Guest(x64.forever(CALL)) as guest:
        for ipa, offset, size in (
            (0x4000_0000, SIZE, 0x1000),
            (0x4000_0000, -0x1000, 0x1000),
            (0x4000_0000, 0x10, 0x1000),
            (0x4000_0010, 0, 0x1000),
            (0x4000_0000, 0, 0x10),
            (0x4000_0000, 0, 0),
        ):
            with pytest.raises(InternalError):
                guest.space.map(ipa, guest.ram, offset, size, Permissions.RWX)
        guest.call()
        guest.space.close()
        with pytest.raises(InternalError, match="closed"):
            guest.space.unmap(BASE, 0x1000)
