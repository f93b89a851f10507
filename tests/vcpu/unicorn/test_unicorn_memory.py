"""Memory: stage 1 on top of stage 2, stale code, tables out of reach, sharing."""

from __future__ import annotations

import struct

import a64
from a64 import mov, mrs, msr
from unicorn_guest import BASE, DATA, Guest, args, use_vectors

from hfsched.memory.ram import Ram
from hfsched.vcpu.engine import Fault, Mmio, Permissions

TABLE = BASE + 0x10_0000


def mmu_on() -> list[int]:
    """4 KiB granule, 39 bits, TTBR0 at `TABLE`, one kind of memory."""
    return [
        *mov(9, 0xFF),
        msr(a64.MAIR, 9),
        *mov(9, 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 4 << 32),
        msr(a64.TCR, 9),
        *mov(9, TABLE),
        msr(a64.TTBR0, 9),
        a64.ISB,
        *mov(9, 0xC5_0839),
        msr(a64.SCTLR, 9),
        a64.ISB,
    ]


def block(physical: int) -> int:
    """A 1 GiB block: normal memory, access flag, inner shareable, EL1 read and write."""
    return physical | 1 | 1 << 10 | 3 << 8


def test_stage_1_with_a_block_of_a_gib() -> None:
    with Guest() as guest:
        guest.vectors()
        # Entry 1 is the identity for RAM, entry 3 a second view of it.
        guest.ram.write(TABLE - BASE, struct.pack("<4Q", 0, block(BASE), 0, block(BASE)))
        guest.ram.write(DATA - BASE, struct.pack("<Q", 0x1234))
        guest.start(
            use_vectors(),
            mmu_on(),
            mov(1, DATA - BASE + 0xC000_0000),
            a64.ldr(0, 1),
            a64.hvc(),
            mov(1, 0x8000_0000),
            a64.ldr(0, 1),
        )
        assert args(guest.cpu.enter())[0] == 0x1234
        # A stage-1 fault is the guest's own business.
        offset, esr, far = args(guest.cpu.enter())[:3]
        assert (offset, esr >> 26, far) == (0x200, 0x25, 0x8000_0000)


def test_a_stage_2_fault_below_stage_1_reports_both_addresses() -> None:
    with Guest() as guest:
        guest.ram.write(TABLE - BASE, struct.pack("<4Q", 0, block(BASE), 0, block(0)))
        guest.start(mmu_on(), mov(1, 0xC900_0000), a64.ldr(0, 1, 8), a64.ldp(2, 3, 1), a64.hvc())
        assert guest.cpu.enter() == Mmio(0x900_0008, 8, write=False, value=0)
        guest.cpu.complete_mmio(5)
        assert guest.cpu.enter() == Fault(0x900_0000, 0xC900_0000, write=False, fetch=False)


def test_a_table_walk_that_leaves_the_vm_is_a_fault() -> None:
    with Guest() as guest:
        guest.ram.write(TABLE - BASE, struct.pack("<4Q", 0, block(BASE), 0, 0x7000_0003))
        guest.start(mmu_on(), mov(1, 0xC000_0000), a64.store(0, 1))
        assert guest.cpu.enter() == Fault(0x7000_0000, 0xC000_0000, write=False, fetch=False)


def test_a_new_translation_is_seen_after_tlbi() -> None:
    for tlbi in (a64.TLBI_ALL, a64.TLBI_ALL_IS):
        with Guest(vcpus=2) as guest:
            guest.ram.write(TABLE - BASE, struct.pack("<4Q", 0, block(BASE), 0, block(BASE)))
            guest.ram.write(DATA - BASE, struct.pack("<Q", 0x1234))
            guest.start(
                mmu_on(),
                mov(1, DATA - BASE + 0xC000_0000),
                a64.ldr(0, 1),
                a64.hvc(),
                mov(2, TABLE + 24),
                mov(3, 0),
                a64.store(3, 2),
                msr(tlbi, 31),
                a64.DSB,
                use_vectors(),
                a64.ldr(0, 1),
            )
            guest.vectors()
            assert args(guest.cpu.enter())[0] == 0x1234
            assert args(guest.cpu.enter())[0] == 0x200


def test_a_broadcast_tlbi_reaches_the_other_cpu() -> None:
    with Guest(vcpus=2) as guest:
        guest.vectors()
        guest.ram.write(TABLE - BASE, struct.pack("<4Q", 0, block(BASE), 0, block(BASE)))
        reader = BASE + 0x1000
        guest.load(
            use_vectors(),
            mmu_on(),
            mov(1, DATA - BASE + 0xC000_0000),
            "l:",
            a64.ldr(0, 1),
            a64.hvc(7),
            a64.b("l"),
            at=reader,
        )
        other = guest.space.vcpu(1)
        other.reset(reader, 0)
        args(other.enter())
        guest.start(
            mov(2, TABLE + 24),
            mov(3, 0),
            a64.store(3, 2),
            msr(a64.TLBI_ALL_IS, 31),
            a64.DSB,
            a64.hvc(),
        )
        args(guest.cpu.enter())
        assert args(other.enter())[0] == 0x200


def test_ic_ivau_makes_new_code_run_on_every_cpu() -> None:
    with Guest(vcpus=2) as guest:
        other = guest.space.vcpu(1)
        routine = BASE + 0x1000
        guest.load(mov(0, 1), a64.hvc(), a64.br(5), at=routine)
        other.reset(routine, 0)
        other.reply([0, 0, 0, 0, 0, routine])
        assert args(other.enter())[0] == 1
        new = mov(0, 2)[0]
        guest.start(
            mov(1, routine),
            mov(2, new),
            a64.store(2, 1, size=2),
            msr(a64.DC_CVAU, 1),
            msr(a64.IC_IVAU, 1),
            a64.DSB,
            a64.ISB,
            a64.hvc(),
        )
        args(guest.cpu.enter())
        other.reply([0, 0, 0, 0, 0, routine])
        assert args(other.enter())[0] == 2


def test_a_host_write_before_the_first_entry_is_seen() -> None:
    with Guest() as guest:
        for value in (1, 2):
            guest.start(mov(0, value), a64.hvc())
            assert args(guest.cpu.enter())[0] == value


def test_no_address_reaches_the_stage_2_tables() -> None:
    """Physical places of the machine, as a guest would try them: with and without stage 1."""
    with Guest() as guest:
        guest.vectors()
        places = [0, 0x20_0000, 1 << 43, (1 << 43) + 0x1000, (1 << 44) - 4096]
        for place in places:
            guest.start(use_vectors(), mov(1, place), a64.ldr(0, 1), a64.hvc())
            stop = guest.cpu.enter()
            assert isinstance(stop, Mmio | Fault)
            assert stop.address == place
        # Beyond the IPA space: with the MMU off, an address size fault at EL1.
        guest.start(use_vectors(), mov(1, 1 << 45), a64.ldr(0, 1), a64.hvc())
        stop = guest.cpu.enter()
        if isinstance(stop, Mmio | Fault):
            guest.cpu.inject_abort()
            stop = guest.cpu.enter()
        assert args(stop)[0] == 0x200
        entries = [0, block(BASE), 0, block(1 << 43)]
        guest.ram.write(TABLE - BASE, struct.pack("<4Q", *entries))
        guest.start(mmu_on(), mov(1, 0xC000_0000), a64.ldr(0, 1), a64.hvc())
        assert guest.cpu.enter() == Mmio(1 << 43, 8, write=False, value=0)


def test_two_spaces_share_a_page() -> None:
    with Guest() as owner:
        borrower = owner.engine.space("borrower", 1)
        image = Ram("borrower", 0x1000)
        borrower.map(0x8000, image, 0, 0x1000, Permissions.RX)
        borrower.map(0x7000_0000, owner.ram, DATA - BASE, 0x1000, Permissions.RW)
        image.write(
            0, a64.program(0x8000, mov(1, 0x7000_0000), a64.ldr(0, 1), a64.store(1, 1), a64.hvc())
        )
        owner.start(mov(1, DATA), mov(0, 0x55), a64.store(0, 1), a64.hvc())
        args(owner.cpu.enter())
        cpu = borrower.vcpu(0)
        cpu.reset(0x8000, 0)
        assert args(cpu.enter())[0] == 0x55
        assert owner.word(DATA) == 0x7000_0000
        borrower.close()
        image.close()


def test_pages_where_blocks_do_not_fit() -> None:
    """Unaligned against the RAM: every page in its place."""
    with Guest() as guest:
        ram = Ram("odd", 0x60_0000)
        for page in range(0, ram.size, 0x1000):
            ram.write(page, struct.pack("<Q", page))
        guest.space.map(0x8000_3000, ram, 0x1000, ram.size - 0x1000, Permissions.READ)
        guest.space.map(0x9000_0000, ram, 0x5000, 0x40_0000, Permissions.READ)
        guest.start("l:", a64.ldr(0, 0), a64.hvc(), a64.b("l"))
        for ipa, offset in (
            (0x8000_3000, 0x1000),
            (0x8020_0000, 0x1F_E000),
            (0x805F_F000, 0x5F_D000),
            (0x9000_0000, 0x5000),
            (0x901F_F000, 0x20_4000),
        ):
            guest.cpu.reply([ipa])
            assert args(guest.cpu.enter())[0] == offset
        guest.space.close()
        ram.close()


def test_pointer_authentication_signs_and_verifies() -> None:
    with Guest() as guest:
        guest.start(
            mov(1, 0xC5_0838 | 1 << 31),  # SCTLR_EL1.EnIA
            msr(a64.SCTLR, 1),
            mov(1, 0x1234_5678),
            msr(a64.APIAKEYLO, 1),
            a64.ISB,
            mov(2, 0x4000_1000),
            mov(3, 42),
            a64.movr(0, 2),
            0xDAC10060,  # pacia x0, x3
            a64.movr(1, 0),
            0xDAC11061,  # autia x1, x3
            a64.hvc(),
        )
        signed, verified = args(guest.cpu.enter())[:2]
        assert signed != 0x4000_1000
        assert verified == 0x4000_1000


def test_floating_point_and_its_control_register_belong_to_a_cpu() -> None:
    with Guest(vcpus=2) as guest:
        program = [
            0x9E620000 | 0 << 5 | 0,  # scvtf d0, x0
            0x9E620000 | 1 << 5 | 1,  # scvtf d1, x1
            0x1E611800,  # fdiv d0, d0, d1
            msr(a64.FPCR, 2),
            a64.hvc(),
            mrs(2, a64.FPCR),
            0x9E660003,  # fmov x3, d0
            a64.hvc(),
        ]
        guest.load(*program)
        cpus = [guest.space.vcpu(i) for i in range(2)]
        for i, cpu in enumerate(cpus):
            cpu.reset(BASE, 0)
            cpu.reply([1 + i, 4, i << 22])
            args(cpu.enter())
        for i, cpu in enumerate(cpus):
            call = args(cpu.enter())
            assert call[2] == i << 22
            assert call[3] == struct.unpack("<Q", struct.pack("<d", (1 + i) / 4))[0]
