"""Machines for the tests here: each engine's, what one looks like, and threads of a test."""

from __future__ import annotations

import re
import struct
import threading
import zlib
from collections.abc import Callable

import pytest
from progress import QUIET
from standins import SCRIPT
from talk import KVM_ARM64, KVM_X86, TARGETS, Talk, Target

__all__ = ["KVM", "Threads", "counter", "every_engine", "picture", "slept", "talk"]

KVM = (KVM_ARM64, KVM_X86)
_ARM64_REGISTER = struct.Struct("<Q16s")
_ARM64_TIMERS = 0x6030_0000_0013_0000 | 14 << 7  # system registers with CRn = 14
_ARM64_CRN = 0xFFFF_FFFF_FFFF_0000 | 15 << 7

every_engine = pytest.mark.parametrize(
    "target", [SCRIPT, *TARGETS], ids=lambda target: str(target).replace(" ", "-")
)


def talk(target: Target, *guests: str, vcpus: int = 1, fdt: str | None = None) -> Talk:
    """Return a machine of guests, or skip the test with the reason."""
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")
    return Talk(target, *guests, vcpus=vcpus, fdt=fdt)


def picture(host: Talk) -> list[object]:
    """Return what must not change: each VM's RUNs, memory, mailbox, vCPUs and registers."""
    out: list[object] = []
    for index, driven in enumerate(host.machine.driver.vms):
        vm = host.vm(index)
        memory = zlib.crc32(vm.memory.regions[0].ram.read(0, vm.memory.regions[0].ram.size))
        runs = [
            {result.__name__: count for result, count in counters.runs.items()}
            for counters in driven.counters
        ]
        mailbox = (vm.mailbox.state, vm.mailbox.message, *vm.mailbox.waiters)
        states = [each.state for each in vm.vcpus]
        registers = [_registers(host.target, each.cpu) for each in vm.vcpus]
        out.append((vm.name, runs, vm.entries, memory, mailbox, states, registers))
    return out


def _registers(target: Target, cpu: object) -> object:
    """Return a CPU's registers, those of its clock left out."""
    if target == KVM_X86:
        saved = cpu.save()  # type: ignore[attr-defined]
        return saved[16:]  # after the magic number and the time until the timer fires
    if target == KVM_ARM64:
        saved = cpu.save()  # type: ignore[attr-defined]
        (count,) = struct.unpack_from("<Q", saved, 8)
        pairs = _ARM64_REGISTER.iter_unpack(saved[16 : 16 + count * _ARM64_REGISTER.size])
        return [pair for pair in pairs if pair[0] & _ARM64_CRN != _ARM64_TIMERS]
    return cpu.state_key()  # type: ignore[attr-defined]


def counter(host: Talk, vm: int = 0) -> int:
    """Return the counter of a `trusty` in ns."""
    found = re.fullmatch(r"counter (\d+) frequency (\d+)", host.ask("time", vm))
    assert found is not None
    return int(found[1]) * 1_000_000_000 // int(found[2])


def slept(answer: bytes) -> int:
    """Return how many ms a `trusty` says it slept."""
    found = re.fullmatch(rb"slept (\d+) ms", answer)
    assert found is not None, answer
    return int(found[1])


class Threads:
    """Threads of a test; what one of them raises, `join` raises."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as exc:  # noqa: BLE001 - raised again by join
                self._errors.append(exc)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(QUIET)
            assert self._errors or not thread.is_alive(), "a thread of the test does not end"
        for error in self._errors:
            raise error
