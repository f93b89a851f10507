"""The MMIO bus: which device answers which access, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hv_bench import BASE, PAGES, Bench

from hfsched.errors import ConfigError
from hfsched.hypervisor.pl011 import PL011_BASE, PL011_SIZE
from hfsched.hypervisor.vm import Vcpu
from hfsched.memory.ram import PAGE_SIZE
from hfsched.vcpu.script import Load, Store

WINDOW = 0x0A00_0000


@dataclass
class Register:
    """A device that notes its accesses and reads as `value`."""

    name: str = "register"
    value: int = 0x1_2345_6789_ABCD_EF01
    seen: list[tuple[object, ...]] = field(default_factory=list)

    def read(self, vcpu: Vcpu, offset: int, size: int) -> int:
        self.seen.append(("read", vcpu.index, offset, size))
        return self.value

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int) -> None:
        self.seen.append(("write", vcpu.index, offset, size, value))


def test_a_device_gets_the_accesses_to_its_window() -> None:
    vm = Bench().vm(vcpus=2)
    device = Register()
    vm.record.mmio.claim(device, WINDOW, PAGE_SIZE)
    vm.run(Store(WINDOW + 8, 0x1_22, 1), Load(WINDOW + PAGE_SIZE - 4, 4))
    vm.run(Load(WINDOW), vcpu=1)
    assert device.seen == [
        ("write", 0, 8, 1, 0x22),
        ("read", 0, PAGE_SIZE - 4, 4),
        ("read", 1, 0, 8),
    ]
    assert vm.seen[0][-2:] == [(), (0xABCD_EF01,)], "what is read is cut to the access's size"
    assert vm.last(vcpu=1) == (0x2345_6789_ABCD_EF01,)


def test_two_devices_side_by_side_and_the_pl011_beside_them() -> None:
    bench = Bench()
    vm = bench.vm()
    one, two = Register("one", 1), Register("two", 2)
    vm.record.mmio.claim(two, WINDOW + PAGE_SIZE, 2 * PAGE_SIZE)
    vm.record.mmio.claim(one, WINDOW, PAGE_SIZE)
    assert [str(window) for window in vm.record.mmio.windows] == [
        "PL011 [0x9000000, 0x9001000)",
        "one [0xa000000, 0xa001000)",
        "two [0xa001000, 0xa003000)",
    ]
    vm.run(Load(WINDOW + 0xFF8), Load(WINDOW + 0x1000), Load(WINDOW + 0x2FF8))
    assert vm.seen[0][-3:] == [(1,), (2,), (2,)]
    vm.run(Store(PL011_BASE, ord("x"), 1), Store(PL011_BASE, 10, 1))
    assert bench.lines == [("vm2", b"x")]


def test_an_access_outside_or_only_partly_inside_is_an_abort() -> None:
    vm = Bench().vm()
    device = Register()
    vm.record.mmio.claim(device, WINDOW, PAGE_SIZE)
    for address in (WINDOW - 4, WINDOW + PAGE_SIZE - 4, WINDOW + PAGE_SIZE):
        vm.run(Load(address))
        assert vm.abort() == address
    assert device.seen == []


def test_each_vm_has_a_bus_of_its_own() -> None:
    bench = Bench()
    one, two = bench.vm(), bench.vm()
    device = Register(value=5)
    one.record.mmio.claim(device, WINDOW, PAGE_SIZE)
    one.run(Load(WINDOW))
    two.run(Load(WINDOW))
    assert one.last() == (5,)
    assert two.abort() == WINDOW


@pytest.mark.parametrize(
    ("base", "size"),
    [(PL011_BASE, PL011_SIZE), (PL011_BASE - 4096, 2 * 4096), (0, 1 << 28)],
)
def test_an_overlap_with_another_device_names_both(base: int, size: int) -> None:
    vm = Bench().vm()
    with pytest.raises(ConfigError) as caught:
        vm.record.mmio.claim(Register(), base, size)
    assert str(caught.value) == (
        f"vm vm2: register [{base:#x}, {base + size:#x}) overlaps PL011 [0x9000000, 0x9001000)"
    )
    assert len(vm.record.mmio.windows) == 1


@pytest.mark.parametrize("base", [BASE - 4096, BASE + (PAGES - 1) * PAGE_SIZE])
def test_an_overlap_with_memory_names_both(base: int) -> None:
    vm = Bench().vm()
    with pytest.raises(ConfigError) as caught:
        vm.record.mmio.claim(Register(), base, 2 * PAGE_SIZE)
    assert str(caught.value) == (
        f"vm vm2: memory [{BASE:#x}, {BASE + PAGES * PAGE_SIZE:#x}) overlaps"
        f" register [{base:#x}, {base + 2 * PAGE_SIZE:#x})"
    )
    vm.record.mmio.claim(Register(), BASE - PAGE_SIZE, PAGE_SIZE)


@pytest.mark.parametrize(
    ("base", "size"), [(WINDOW + 1, 4096), (WINDOW, 4095), (WINDOW, 0), (-4096, 4096)]
)
def test_windows_are_whole_pages(base: int, size: int) -> None:
    vm = Bench().vm()
    with pytest.raises(ConfigError, match=r"register .* not whole pages of 4096 bytes"):
        vm.record.mmio.claim(Register(), base, size)
