"""Saving, restoring, closing; the library that is missing or strange; any code at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import a64
import pytest
from a64 import mov, msr
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn_guest import BASE, DATA, SIZE, Guest, args, use_vectors

from hfsched.errors import InternalError, UserError
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Exit, Failed, Fault, Kicked, Mmio, Permissions, Timer
from hfsched.vcpu.unicorn import UnicornEngine, library


def test_a_computation_goes_on_in_another_machine() -> None:
    """Half of it on one CPU; the other half, with its memory, on a new one."""
    program: list[a64.Item] = [
        *mov(1, 0),
        *mov(2, 1),
        *mov(4, 50),
        msr(a64.TPIDR, 4),
        "l:",
        0x8B020003,  # add x3, x0, x2
        a64.movr(0, 2),
        a64.movr(2, 3),
        a64.hvc(),
        a64.sub(4, 4, 1),
        a64.cbnz(4, "l"),
        a64.hvc(1),
    ]
    with Guest() as first, Guest() as second:
        first.start(*program)
        for _ in range(25):
            args(first.cpu.enter())
        saved, key = first.cpu.save(), first.cpu.state_key()
        second.load(*program)
        second.cpu.restore(saved)
        assert second.cpu.state_key() == key
        rest = [args(second.cpu.enter()) for _ in range(26)]
        assert rest == [args(first.cpu.enter()) for _ in range(26)]
        assert rest[-1][2] == 20365011074  # the 51st Fibonacci number
        first.cpu.restore(saved)
        assert args(first.cpu.enter()) == rest[0]


def test_restore_forgets_the_translations_of_another_time() -> None:
    with Guest() as guest:
        guest.start(mov(1, DATA), "l:", a64.ldr(0, 1), a64.hvc(), a64.b("l"))
        before = guest.cpu.save()
        args(guest.cpu.enter())
        guest.ram.write(0, a64.program(BASE, mov(0, 9), a64.hvc()))
        guest.cpu.restore(before)
        assert args(guest.cpu.enter())[0] == 9


def test_a_saved_fault_can_still_be_answered_and_the_timer_is_saved() -> None:
    with Guest() as guest:
        guest.start(mov(9, 1), msr(a64.CNTV_CTL, 9), mov(1, 0x900_0000), a64.ldr(0, 1), a64.hvc())
        stop = guest.cpu.enter()
        if stop == Timer():  # CVAL is 0
            guest.cpu.mask_timer()
            stop = guest.cpu.enter()
        assert isinstance(stop, Mmio)
        saved = guest.cpu.save()
        guest.cpu.reset(BASE, 0)
        with pytest.raises(InternalError):
            guest.cpu.complete_mmio(0)
        guest.cpu.restore(saved)
        guest.cpu.complete_mmio(0x31)
        assert args(guest.cpu.enter())[0] == 0x31


def test_the_pending_line_survives_a_restore() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), a64.hvc(), a64.IRQ_ON, a64.NOP, a64.hvc())
        args(guest.cpu.enter())
        saved = guest.cpu.save()
        guest.cpu.set_irq(True)
        guest.cpu.restore(saved)
        assert args(guest.cpu.enter())[0] == 0x280
        guest.cpu.set_irq(False)
        guest.cpu.restore(saved)
        assert args(guest.cpu.enter())[0] == 0


@pytest.mark.parametrize("data", [b"", b"hfs-uc1\0", b"\0" * 12648])
def test_nonsense_is_not_restored(data: bytes) -> None:
    with Guest() as guest, pytest.raises(UserError):
        guest.cpu.restore(data)


def test_a_thousand_machines_leave_nothing_behind(descriptors: Callable[[], int]) -> None:
    engine = UnicornEngine(ThreadRuntime())
    ram = Ram("r", 1 << 20)

    def count() -> tuple[int, int]:
        maps = len(Path("/proc/self/maps").read_text().splitlines())
        return descriptors(), maps

    def use(times: int) -> None:
        for _ in range(times):
            space = engine.space("short", 1)
            space.map(0, ram, 0, ram.size, Permissions.RWX)
            space.vcpu(0).reset(0, 0)
            space.close()

    use(20)
    fds, maps = count()
    use(1000)
    fds_after, maps_after = count()
    assert fds_after <= fds
    assert maps_after < maps + 20
    engine.close()
    ram.close()


def test_a_missing_package_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install 'hfsched\[emulator\]'"):
        library.load.__wrapped__()


def test_a_cpu_that_never_ran_is_found_by_the_layout() -> None:
    """A jump buffer of the handle, too, may hold an address in a CPU that has run."""
    known = library.load()
    handle = known.new_handle()
    with library.SafeReader() as read:
        cpu = int.from_bytes(read(handle + known.layout.cpu, 8), "little")
        assert len(read(cpu, known.layout.size)) == known.layout.size
    known.close(handle)


def test_an_unknown_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = library.load()
    monkeypatch.setattr(library.SafeReader, "__call__", lambda *_: bytes(4096))
    with pytest.raises(UserError, match="laid out in an unknown way"):
        known._probe()


def test_what_a_space_refuses() -> None:
    with Guest() as guest:
        for index in (-1, 1):
            with pytest.raises(InternalError):
                guest.space.vcpu(index)
        with pytest.raises(InternalError):
            guest.space.map(0, guest.ram, SIZE, 0x1000, Permissions.RWX)
        guest.space.close()
        with pytest.raises(InternalError):
            guest.space.unmap(BASE, 0x1000)


# Words with a chance to mean something: half of them from the groups that touch the system.
WORDS = st.one_of(
    st.integers(0, (1 << 32) - 1),
    st.builds(
        lambda group, rest: group | rest & 0x3FFFFF, st.just(0xD5000000), st.integers(0, 1 << 22)
    ),
    st.sampled_from(
        [a64.ERET, a64.WFI, a64.svc(), a64.hvc(), a64.smc(), a64.brk(), a64.IRQ_ON, a64.br(1), 0]
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    code=st.lists(WORDS, min_size=1, max_size=24),
    registers=st.lists(st.integers(0, (1 << 64) - 1), min_size=8, max_size=8),
    line=st.booleans(),
    vectors=st.booleans(),
)
def test_no_guest_code_raises_or_hangs(
    code: list[int], registers: list[int], line: bool, vectors: bool
) -> None:
    guest = _fuzz_guest()
    guest.ram.zero(0, SIZE)
    if vectors:
        guest.vectors()
        guest.load(use_vectors(), code)
    else:
        guest.load(code)
    cpu = guest.cpu
    cpu.reset(BASE, 0)
    cpu.reply(registers)
    cpu.set_irq(line)
    stop: Exit
    for _ in range(12):
        # Kicked in its first slice by the clock that `_Ticker` is: a spin ends.
        _TICKER.left = 20
        stop = cpu.enter()
        if isinstance(stop, Mmio):
            cpu.complete_mmio(1)
        elif isinstance(stop, Fault):
            cpu.inject_abort()
        elif isinstance(stop, Timer):
            cpu.mask_timer()
        elif isinstance(stop, Failed | Kicked):
            break
    cpu.set_irq(False)
    cpu.state_key()
    cpu.save()


class _Turn:
    """Counts slices; kicks the CPU when too many have passed."""

    def __init__(self) -> None:
        self.left = 0
        self.guest: Guest | None = None

    def take(self, _place: object, _unwanted: object) -> bool:
        self.left -= 1
        if self.left < 0 and self.guest is not None:
            self.guest.cpu.kick()
        return True

    def give(self) -> None:
        pass

    def dismiss(self, _place: object) -> None:
        pass


_TICKER = _Turn()


def _fuzz_guest() -> Guest:
    if _TICKER.guest is None:
        _TICKER.guest = Guest()
        _TICKER.guest.cpu._turn = _TICKER  # type: ignore[attr-defined]
    return _TICKER.guest
