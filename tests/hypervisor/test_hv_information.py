"""Information: VERSION, FEATURES, ID_GET, PARTITION_INFO_GET."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hv_bench import MINUS_1, WAYS, Bench, Machine, Way, error, ids, ok

from hfsched.abi.ffa import FfaError, FfaId
from hfsched.abi.ffa_1_0 import FFA_1_0
from hfsched.hypervisor.interface import SendResult
from hfsched.mailbox.mailbox import RxState

INFO = FfaId.PARTITION_INFO_GET
UUID_A = UUID("b4b5671e-4a90-4fe1-b81f-fb13dae1dacb")  # words 0x1e67b5b4 0xe14f904a ...
WORDS_A = struct.unpack("<4I", UUID_A.bytes)
INDIRECT = 4


def partitions(vm: Machine, count: int) -> list[tuple[int, int, int]]:
    return list(struct.iter_unpack("<HHI", vm.get(8 * count)))


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("asked", [0, 0x1_0000, 0x1_0001, 0x7FFF_FFFF, 1 << 32, 0xABCD << 32])
def test_the_version_is_1_0_whatever_is_asked_for(asked: int, way: Way) -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(FfaId.VERSION | way[1], asked, by=way[0]) == (0x1_0000, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("asked", [0x8000_0000, 0xFFFF_FFFF, 1 << 32 | 0x8001_0000])
def test_a_version_with_bit_31_is_refused(asked: int, way: Way) -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(FfaId.VERSION | way[1], asked, by=way[0]) == (MINUS_1, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_id_get_counts_from_2(way: Way) -> None:
    bench = Bench()
    for expected in (2, 3, 4):
        vm = bench.vm(mapped=False)
        assert vm.call(FfaId.ID_GET | way[1], by=way[0]) == ok(expected)


THERE = [*range(0x60, 0x66), *range(0x68, 0x71), 1 << 30 | 0x66]


@pytest.mark.parametrize("number", THERE)
@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_features_knows_what_is_there(number: int, way: Way) -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(FfaId.FEATURES | way[1], 0x8400_0000 | number, by=way[0]) == ok()


@pytest.mark.parametrize(
    "function",
    [
        0,
        0x8400_0000,
        0x8400_0066,  # RXTX_MAP has a 64-bit id alone
        0x8400_0067,  # RXTX_UNMAP
        0xC400_0067,
        0xC400_0061,
        0xC400_006F,
        0x8400_005F,
        0x8400_007A,
        0x8400_007F,
        0x8400_0080,
        0xFF01,
        0xBD00_0000,
        0xFFFF_FFFF,
    ],
)
@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_features_does_not_know_the_rest(function: int, way: Way) -> None:
    vm = Bench().vm(mapped=False)
    answer = vm.call(FfaId.FEATURES | way[1], function, by=way[0])
    assert answer == error(FfaError.NOT_SUPPORTED)


def test_features_looks_at_32_bits() -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(FfaId.FEATURES, 0x5_8400_0069) == ok()


@pytest.mark.parametrize("number", [0x71, 0x72, 0x73, 0x74, 0x76, 0x77, 0x7A, 0x7B])
@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_a_known_call_that_is_not_there_is_not_supported(number: int, way: Way) -> None:
    vm = Bench().vm(mapped=False)
    if FFA_1_0.calls[0x8400_0000 | number].op.name != "NOT_SUPPORTED":
        pytest.skip("memory sharing is there: it has tests of its own")
    answer = vm.call(0x8400_0000 | number | way[1], by=way[0])
    assert answer == error(FfaError.NOT_SUPPORTED)


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_the_null_uuid_names_every_vm_and_the_primary(way: Way) -> None:
    bench = Bench()
    vm = bench.vm(vcpus=3)
    bench.vm(vcpus=2, uuid=UUID_A)
    assert vm.call(INFO | way[1], 0, 0, 0, 0, by=way[0]) == ok(3)
    assert partitions(vm, 3) == [(1, 8, INDIRECT), (2, 3, INDIRECT), (3, 2, INDIRECT)]
    assert vm.get(32)[24:] == b"\0" * 8


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_a_uuid_names_the_vms_that_have_it(way: Way) -> None:
    bench = Bench()
    vm = bench.vm()
    bench.vm(uuid=UUID_A)
    bench.vm(uuid=UUID(int=UUID_A.int ^ 1))
    bench.vm(uuid=UUID_A, vcpus=2)
    assert vm.call(INFO | way[1], *WORDS_A, by=way[0]) == ok(2)
    assert partitions(vm, 2) == [(3, 1, INDIRECT), (5, 2, INDIRECT)]


def test_the_words_of_a_uuid_are_32_bits_wide() -> None:
    bench = Bench()
    vm = bench.vm(uuid=UUID_A)
    assert vm.call(INFO, *(word | 0xF << 32 for word in WORDS_A)) == ok(1)


@pytest.mark.parametrize("changed", range(4))
def test_an_unknown_uuid_is_invalid_even_while_rx_is_full_or_absent(changed: int) -> None:
    bench = Bench()
    vm = bench.vm(uuid=UUID_A, mapped=False)
    words = [word ^ (i == changed) for i, word in enumerate(WORDS_A)]
    assert vm.call(INFO, *words) == error(FfaError.INVALID_PARAMETERS)
    vm.map()
    assert vm.call(INFO, *words) == error(FfaError.INVALID_PARAMETERS)
    bench.hv.send(vm.id, b"x", notify=False)
    assert vm.call(INFO, *words) == error(FfaError.INVALID_PARAMETERS)


def test_afterwards_rx_is_read_until_it_is_released() -> None:
    bench = Bench()
    vm = bench.vm()
    assert vm.call(INFO, 0, 0, 0, 0) == ok(2)
    assert vm.record.mailbox.state is RxState.READ
    assert vm.call(FfaId.MSG_POLL) == error(FfaError.RETRY)
    assert bench.hv.send(vm.id, b"x", notify=False) is SendResult.BUSY
    assert vm.call(INFO, 0, 0, 0, 0) == error(FfaError.BUSY)
    assert vm.call(FfaId.RX_RELEASE) == ok()
    assert vm.call(INFO, 0, 0, 0, 0) == ok(2)


def test_without_rx_it_is_busy() -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(INFO, 0, 0, 0, 0) == error(FfaError.BUSY)


@pytest.mark.parametrize("read", [False, True])
def test_with_a_message_in_rx_it_is_busy_and_the_message_stays(*, read: bool) -> None:
    bench = Bench()
    vm = bench.vm()
    bench.hv.send(vm.id, b"precious", notify=True)
    if read:
        vm.call(FfaId.MSG_POLL)
    assert vm.call(INFO, 0, 0, 0, 0) == error(FfaError.BUSY)
    assert vm.get(8) == b"precious"
    assert not vm.record.mailbox.waiters


def test_more_partitions_than_rx_holds_are_no_memory() -> None:
    bench = Bench()
    vm = bench.vm()
    registry = bench.registry

    def fill(until: int) -> None:
        while len(registry.vms) < until:
            registry.add(len(registry.vms) + 2, "more", FFA_1_0, vm.space, vm.record.memory, 1)

    fill(511)  # and the primary: 512 descriptors, 4096 bytes
    assert vm.call(INFO, 0, 0, 0, 0) == ok(512)
    assert vm.call(FfaId.RX_RELEASE) == ok()
    fill(512)
    assert vm.call(INFO, 0, 0, 0, 0) == error(FfaError.NO_MEMORY)
