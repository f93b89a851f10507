"""What EL1 sees: system calls, undefined instructions, aborts, trapped registers."""

from __future__ import annotations

import a64
import pytest
from a64 import mov, mrs, msr
from unicorn_guest import BASE, DATA, SIZE, VECTORS, Guest, args, use_vectors

from hfsched.vcpu.engine import Failed, Fault, Mmio, Permissions

SAME_EL = 0x200
FROM_EL0 = 0x400


def enter_el0(pstate: int = 0) -> list[int]:
    """ERET to the instruction after this, at EL0."""
    adr = 0x10000000 | 7 << 5 | 10  # adr x10, +28
    return [adr, msr(a64.ELR, 10), *mov(11, pstate)[:1], msr(a64.SPSR, 11), a64.ISB, a64.ERET, 0]


def test_svc_goes_to_the_vector_and_eret_comes_back() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), a64.svc(0x21), mov(0, 1), a64.hvc())
        offset, esr, _, elr, spsr = args(guest.cpu.enter())[:5]
        assert (offset, esr, elr) == (SAME_EL, 0x56000021, BASE + 5 * 4 + 4)
        assert spsr == 0x3C5
        assert args(guest.cpu.enter())[0] == 1


@pytest.mark.parametrize(
    ("word", "syndrome"),
    [
        (a64.UDF, 0x2000000),
        (a64.brk(0x99), 0xF2000099),
        (mrs(0, a64.sysreg(3, 0, 12, 12, 5)), 0x2000000),  # ICC_SRE_EL1
        (mrs(0, a64.sysreg(3, 0, 12, 12, 4)), 0x2000000),  # ICC_CTLR_EL1
        (mrs(0, a64.sysreg(2, 0, 0, 2, 2)), 0x2000000),  # MDSCR_EL1
        (msr(a64.sysreg(2, 0, 0, 0, 5), 0), 0x2000000),  # DBGBCR0_EL1
        (mrs(0, a64.sysreg(3, 3, 9, 12, 0)), 0x2000000),  # PMCR_EL0
        (mrs(0, a64.sysreg(3, 3, 14, 8, 0)), 0x2000000),  # PMEVCNTR0_EL0
        (mrs(0, a64.sysreg(3, 0, 10, 4, 3)), 0x2000000),  # LORC_EL1
        (mrs(0, a64.CNTP_CTL), 0x2000000),
        (mrs(0, a64.CNTPCT), 0x2000000),
        (mrs(0, a64.sysreg(3, 0, 1, 0, 1)), 0x2000000),  # ACTLR_EL1
        (msr(a64.sysreg(3, 0, 1, 0, 1), 0), 0x2000000),
        (msr(a64.sysreg(1, 0, 7, 6, 2), 0), 0x2000000),  # DC ISW
        (msr(a64.sysreg(1, 0, 7, 10, 2), 0), 0x2000000),  # DC CSW
        (msr(a64.sysreg(1, 0, 7, 14, 2), 0), 0x2000000),  # DC CISW
        (mrs(0, a64.sysreg(2, 1, 0, 0, 1)), 0x2000000),  # TRCTRACEID
        (mrs(0, a64.sysreg(3, 0, 5, 3, 0)), 0x2000000),  # ERRIDR_EL1
        (mrs(0, a64.sysreg(3, 0, 11, 0, 0)), 0x2000000),  # of the implementation
        (mrs(0, a64.sysreg(3, 0, 15, 1, 0)), 0x2000000),
    ],
)
def test_what_a_vm_may_not_do_is_an_exception_at_the_instruction(word: int, syndrome: int) -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), word, a64.hvc())
        offset, esr, _, elr, spsr = args(guest.cpu.enter())[:5]
        assert (offset, esr, elr, spsr) == (SAME_EL, syndrome, BASE + 5 * 4, 0x3C5)


@pytest.mark.parametrize("crm", [5, 6, 10, 11, 14])
def test_caches_by_address_are_the_guests(crm: int) -> None:
    """IC IVAU, and DC IVAC, CVAC, CVAU and CIVAC."""
    op1 = 0 if crm == 6 else 3
    with Guest() as guest:
        guest.start(mov(1, DATA), msr(a64.sysreg(1, op1, 7, crm, 1), 1), mov(0, 7), a64.hvc())
        assert args(guest.cpu.enter())[0] == 7


def test_the_stack_pointer_is_banked() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.load(a64.mov_sp(5, 31), a64.hvc(0xEE), at=VECTORS)  # from EL1 with SP_EL0
        guest.load(a64.mov_sp(5, 31), a64.hvc(0xEE), at=VECTORS + FROM_EL0)
        spsel_0 = 0xD50040BF  # msr spsel, #0
        guest.start(
            use_vectors(),
            *(mov(1, 0x7000), a64.mov_sp(31, 1)),
            spsel_0,
            *(mov(1, 0x6000), a64.mov_sp(31, 1)),
            a64.svc(),
        )
        assert args(guest.cpu.enter())[5] == 0x7000
        guest.start(use_vectors(), mov(1, 0x5000), a64.mov_sp(31, 1), enter_el0(), a64.svc())
        assert args(guest.cpu.enter())[5] == 0x5000


def test_an_exception_from_el0_uses_its_own_vector() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), enter_el0(), a64.svc(7))
        offset, esr, _, elr, spsr = args(guest.cpu.enter())[:5]
        assert (offset, esr, elr, spsr) == (FROM_EL0, 0x56000007, BASE + 13 * 4, 0)


def test_hypercalls_belong_to_el1() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), enter_el0(), a64.hvc())
        assert args(guest.cpu.enter())[:2] == (FROM_EL0, 0x2000000)


@pytest.mark.parametrize("address", [0x1000, BASE - 1, BASE + SIZE, (1 << 43) + 8, (1 << 44) - 8])
def test_a_load_from_nowhere(address: int) -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), mov(1, address), a64.ldr(2, 1, size=0), a64.hvc())
        assert guest.cpu.enter() == Mmio(address, 1, write=False, value=0)
        guest.cpu.inject_abort()
        offset, esr, far, elr, spsr = args(guest.cpu.enter())[:5]
        assert (offset, far, elr, spsr) == (SAME_EL, address, BASE + 36, 0x3C5)
        # A translation fault of register 2 (SRT): of the ISS, bits 0 to 21 alone.
        assert esr & ~3 == 0x9600_0004 | 2 << 16


def test_a_device_read_extends_as_the_instruction_says() -> None:
    with Guest() as guest:
        loads = [
            a64.ldr(0, 9, 4, size=2),
            a64.ldrs(1, 9, 4, size=2),
            a64.ldrs(2, 9, 1, size=0, wide=False),
            a64.ldrs(3, 9, 2, size=1),
            a64.ldr(a64.XZR, 9, 8, size=3),
        ]
        guest.start(mov(9, 0x900_0000), loads, a64.hvc())
        seen = []
        for _ in loads:
            stop = guest.cpu.enter()
            assert isinstance(stop, Mmio)
            assert not stop.write
            seen.append((stop.address, stop.size))
            guest.cpu.complete_mmio(0xFFFF_FFFF_FFFF_8081)
        assert seen == [
            (0x9000004, 4),
            (0x9000004, 4),
            (0x9000001, 1),
            (0x9000002, 2),
            (0x9000008, 8),
        ]
        assert args(guest.cpu.enter())[:4] == (
            0xFFFF_8081,
            0xFFFF_FFFF_FFFF_8081,
            0xFFFF_FF81,
            0xFFFF_FFFF_FFFF_8081,
        )


def test_a_device_write_carries_its_bytes() -> None:
    with Guest() as guest:
        guest.start(
            mov(9, 0x900_0000),
            mov(1, 0x1234_5678_9ABC_DEF0),
            [a64.store(1, 9, size=i) for i in range(4)],
            a64.store(a64.XZR, 9),
            a64.hvc(),
        )
        values = []
        for _ in range(5):
            stop = guest.cpu.enter()
            assert isinstance(stop, Mmio)
            assert stop.write
            values.append((stop.size, stop.value))
            guest.cpu.complete_mmio(0)
        assert values == [
            (1, 0xF0),
            (2, 0xDEF0),
            (4, 0x9ABCDEF0),
            (8, 0x123456789ABCDEF0),
            (8, 0),
        ]
        args(guest.cpu.enter())


def test_an_undecoded_access_is_a_fault() -> None:
    with Guest() as guest:
        guest.start(mov(9, 0x900_0000), a64.ldp(1, 2, 9), a64.hvc())
        assert guest.cpu.enter() == Fault(0x900_0000, 0x900_0000, write=False, fetch=False)


def test_a_load_that_straddles_the_end() -> None:
    with Guest() as guest:
        guest.vectors()
        end = BASE + SIZE
        guest.start(use_vectors(), mov(1, end - 4), a64.ldr(2, 1), a64.hvc())
        stop = guest.cpu.enter()
        assert isinstance(stop, Mmio | Fault)
        guest.cpu.inject_abort()
        _, esr, far, elr = args(guest.cpu.enter())[:4]
        assert (esr >> 26, elr) == (0x25, BASE + 36)
        assert end - 4 <= far <= end


def test_a_write_to_read_only_memory_faults_and_changes_nothing() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.space.protect(DATA, 0x1000, Permissions.READ)
        guest.ram.write(DATA - BASE, b"constant")
        guest.start(use_vectors(), mov(1, DATA), a64.ldr(2, 1), a64.store(1, 1), a64.hvc())
        assert guest.cpu.enter() == Fault(DATA, DATA, write=True, fetch=False)
        guest.cpu.inject_abort()
        _, esr, far, elr = args(guest.cpu.enter())[:4]
        assert (esr >> 26, far, elr) == (0x25, DATA, BASE + 40)
        assert 0b001100 <= esr & 0x3F <= 0b001111  # a permission fault
        assert esr >> 6 & 1
        assert guest.ram.read(DATA - BASE, 8) == b"constant"


def test_a_mended_fault_is_entered_again() -> None:
    with Guest() as guest:
        guest.space.protect(DATA, 0x1000, Permissions.READ)
        guest.start(mov(1, DATA), mov(0, 0x77), a64.store(0, 1), a64.hvc())
        assert isinstance(guest.cpu.enter(), Fault)
        guest.space.protect(DATA, 0x1000, Permissions.RW)
        args(guest.cpu.enter())
        assert guest.word(DATA) == 0x77


@pytest.mark.parametrize("target", [DATA, 0x5000, (1 << 43) + 0x1000])
def test_a_fetch_from_where_nothing_executes(target: int) -> None:
    with Guest() as guest:
        guest.vectors()
        guest.load(a64.hvc(), at=DATA)
        guest.space.protect(DATA, 0x20_0000, Permissions.RW)
        guest.start(use_vectors(), mov(1, target), a64.br(1))
        assert guest.cpu.enter() == Fault(target, target, write=False, fetch=True)
        guest.cpu.inject_abort()
        offset, esr, far, elr = args(guest.cpu.enter())[:4]
        assert (offset, esr >> 26, far, elr) == (SAME_EL, 0x21, target, target)


def test_a_decoded_write_keeps_bits_0_to_21_of_its_syndrome() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), mov(1, 0x1000), a64.store(5, 1, size=3), a64.hvc())
        assert isinstance(guest.cpu.enter(), Mmio)
        guest.cpu.inject_abort()
        esr = args(guest.cpu.enter())[1]
        assert esr & ~3 == 0x9600_0044 | 5 << 16 | 1 << 15  # SRT, SF, WnR; ISV and SAS are lost


def test_an_abort_with_the_stack_pointer_of_el0_goes_to_the_same_vector() -> None:
    """As Hafnium does; the CPU itself would take it 0x200 bytes below."""
    with Guest() as guest:
        guest.vectors()
        spsel_0 = 0xD50040BF  # msr spsel, #0
        guest.start(use_vectors(), spsel_0, mov(1, 0x1000), a64.ldr(2, 1), a64.hvc())
        assert isinstance(guest.cpu.enter(), Mmio)
        guest.cpu.inject_abort()
        offset, _, _, _, spsr = args(guest.cpu.enter())[:5]
        assert (offset, spsr) == (SAME_EL, 0x3C4)


def test_an_abort_in_el0_has_the_class_of_one_in_el1() -> None:
    """As Hafnium's have; the vector tells them apart."""
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), mov(1, 0x1000), enter_el0(), a64.ldr(2, 1))
        assert isinstance(guest.cpu.enter(), Mmio)
        guest.cpu.inject_abort()
        offset, esr, far = args(guest.cpu.enter())[:3]
        assert (offset, esr >> 26, far) == (FROM_EL0, 0x25, 0x1000)


def test_unmapped_memory_is_gone_though_it_was_cached() -> None:
    with Guest() as guest:
        guest.start(mov(1, DATA), "l:", a64.ldr(0, 1), a64.hvc(), a64.b("l"))
        args(guest.cpu.enter())
        guest.space.unmap(DATA, 0x1000)
        assert guest.cpu.enter() == Mmio(DATA, 8, write=False, value=0)


def test_a_guest_without_vectors_ends() -> None:
    with Guest() as guest:
        guest.start(mov(1, 0x1000), a64.ldr(2, 1))
        assert isinstance(guest.cpu.enter(), Mmio)
        guest.cpu.inject_abort()
        assert guest.cpu.enter() == Fault(0x200, 0x200, write=False, fetch=True)
        guest.cpu.inject_abort()
        stop = guest.cpu.enter()
        assert isinstance(stop, Failed)
        assert stop.reason == (
            f"unhandled data abort (read, translation fault, level 1) at 0x1000, pc {BASE + 4 * len(mov(1, 0x1000)):#x},"
            f" instruction {a64.ldr(2, 1):#010x}; no vector at 0x200"
        )
        assert guest.cpu.enter() == stop
        guest.start(a64.hvc())
        args(guest.cpu.enter())


@pytest.mark.parametrize(
    ("word", "what"),
    [
        (
            mrs(3, a64.CNTP_CTL),
            "undefined instruction, pc AT, instruction WORD (MRS X3, CNTP_CTL_EL0)",
        ),
        (0xD510_0240, "undefined instruction, pc AT, instruction WORD (MSR MDSCR_EL1, X0)"),
        (0xD508_7640, "undefined instruction, pc AT, instruction WORD (DC ISW, X0)"),
        (a64.UDF, "undefined instruction, pc AT, instruction WORD"),
        (a64.svc(5), "system call (SVC), pc AT, instruction WORD"),
        (a64.brk(1), "breakpoint instruction (BRK), pc AT, instruction WORD"),
        (a64.br(0), "instruction abort (translation fault, level 1) at 0x5000, pc 0x5000"),
        (
            a64.store(1, 0),
            "data abort (write, translation fault, level 1) at 0x5000, pc AT, instruction WORD",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else f"{each:08x}",
)
def test_the_first_exception_is_in_words_when_there_are_no_vectors(word: int, what: str) -> None:
    with Guest() as guest:
        guest.start(word, arg=0x5000)
        while not isinstance(stop := guest.cpu.enter(), Failed):
            assert isinstance(stop, Fault | Mmio)
            guest.cpu.inject_abort()
        what = what.replace("AT", f"{BASE:#x}").replace("WORD", f"{word:#010x}")
        assert stop.reason == f"unhandled {what}; no vector at 0x200"


def test_a_guest_whose_vector_is_no_instruction_ends() -> None:
    with Guest() as guest:
        guest.start(mov(9, DATA), msr(a64.VBAR, 9), a64.svc())
        assert isinstance(guest.cpu.enter(), Failed)


def test_the_identification_registers_hide_what_is_trapped() -> None:
    with Guest() as guest:
        guest.start(
            mrs(0, a64.sysreg(3, 0, 0, 7, 1)),  # ID_AA64MMFR1: LORegions
            mrs(1, a64.sysreg(3, 0, 0, 5, 0)),  # ID_AA64DFR0: PMU
            mrs(2, a64.sysreg(3, 0, 0, 4, 0)),  # ID_AA64PFR0: SVE
            mrs(3, a64.sysreg(3, 0, 0, 0, 0)),  # MIDR
            mrs(4, a64.MPIDR),
            a64.hvc(),
        )
        mmfr1, dfr0, pfr0, midr, mpidr = args(guest.cpu.enter())[:5]
        assert mmfr1 >> 16 & 15 == 0
        assert mmfr1
        assert dfr0 >> 8 & 15 == 0
        assert pfr0 >> 32 & 15 == 0
        assert pfr0 & 0xFF == 0x22
        assert midr
        assert mpidr == 0


@pytest.mark.parametrize("word", [0x0E482CA7, 0x2ED83EF9, 0x4E796B48, 0x4EDF1D7A])
def test_half_precision_words_that_would_abort_the_emulator_are_undefined(word: int) -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), word)
        offset, esr, _, elr = args(guest.cpu.enter())[:4]
        assert (offset, esr, elr) == (SAME_EL, 0x2000000, BASE + 20)
