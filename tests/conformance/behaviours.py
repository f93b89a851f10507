"""What guests, and the host, see: each function drives one machine and returns it as a short text.

Nothing here knows what is expected; `rows.py` does.
"""

from __future__ import annotations

import re
import struct
import zlib

from talk import KVM_ARM64, Talk, Target

from hfsched.abi.ffa import CONVENTION_64, FfaError, FfaId, HfId, PsciId
from hfsched.scheduler.outbox import Sent

OUTSIDE = 0x2000_0000  # where no VM has memory
KVM_UID = 0x8600_FF01  # who the vendor's hypervisor is: KVM answers, unless it is kept from it
SMCCC_VERSION = 0x8000_0000
VIRTUAL_TIMER = 3
SMP_WAKE = 32  # the interrupt id that smp uses


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _said(words: tuple[int, ...]) -> str:
    """Return the result of a hypercall in a word or two."""
    if words[0] == FfaId.ERROR:
        return FfaError(_signed(words[2])).name
    if words[0] == FfaId.SUCCESS:
        return f"SUCCESS {words[2]}"
    value = _signed(words[0])
    return str(value) if value < 10 else f"{value:#x}"


# Messages.


def boot_line(target: Target) -> str:
    with Talk(target, "trusty") as talk:
        return talk.line()


def echo_text(target: Target) -> str:
    with Talk(target, "echo") as talk:
        return talk.ask("hello")


def echo_longest(target: Target) -> str:
    message = bytes(range(255)) * 16
    with Talk(target, "echo") as talk:
        talk.send(message)
        return f"{len(message)} bytes, {'the same' if talk.receive() == message else 'others'}"


def echo_many(target: Target) -> str:
    count = 1000
    with Talk(target, "echo") as talk:
        talk.end()

        def send() -> None:
            for number in range(count):
                talk.send(struct.pack("<I", number))

        sender = talk.runtime.spawn("host", send)
        got = [struct.unpack("<I", talk.receive())[0] for _ in range(count)]
        assert sender.join(talk.deadline())
        return f"{count}, {'in order' if got == [*range(count)] else 'not in order'}"


def mailbox_of_one(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        said = [talk.ask("spin")]
        # What it sent has left: it reads nothing from now.
        said += [talk.end().send(b"", talk.deadline()).value]
        said += [talk.end().try_send(b"").value]
        return ", ".join(said)


def relay_chain(target: Target) -> str:
    with Talk(target, "relay", "relay", "echo") as talk:
        return talk.ask("round")


def stress_pair(target: Target) -> str:
    with Talk(target, "stress", "stress") as talk:
        for _ in range(2):
            talk.line()
        for vm in range(2):
            talk.send(b"go 7 10", vm)
        for vm in range(2):
            while talk.receive(vm) == b"no peers":  # the other was slower than 200 ms
                talk.send(b"go 7 10", vm)
        return "; ".join(talk.ask("status", vm) for vm in range(2))


def stress_memory(target: Target) -> str:
    with Talk(target, "stress", memory=1 << 20) as talk:
        said = [talk.ask("fill 5"), talk.ask("check 5")]
        assert int(said[0].split()[1]) > 150, "pages of 256"
        return ", ".join(text.split()[0] for text in said)


# Trusty.


def trusty_text(target: Target) -> str:
    with Talk(target, "trusty") as talk:
        return ", ".join(talk.ask(text) for text in ("version", "echo a b", "nonsense"))


def trusty_stats(target: Target) -> str:
    with Talk(target, "trusty") as talk:
        talk.ask("version")
        return talk.ask("stats").partition(" interrupts")[0]


def trusty_sleep(target: Target) -> str:
    with Talk(target, "trusty") as talk:
        slept = re.fullmatch(r"slept (\d+) ms", talk.ask("sleep 20"))
        return "at least 20 ms" if slept is not None and int(slept[1]) >= 20 else f"{slept}"


def _time(talk: Talk) -> tuple[int, int]:
    words = talk.ask("time").split()
    return int(words[1]), int(words[3])


def clock_frequency(target: Target) -> str:
    with Talk(target, "trusty") as talk:
        return f"{_time(talk)[1]} Hz"


def clock_rate(target: Target) -> str:
    with Talk(target, "trusty") as talk:
        now = talk.runtime.now
        outer = now()
        start, frequency = _time(talk)
        inner = now()
        talk.ask("sleep 30")
        inner = now() - inner
        end, _ = _time(talk)
        outer = now() - outer
        passed = (end - start) * 1_000_000_000 // frequency
        return (
            "the host's" if inner * 0.99 <= passed <= outer * 1.01 else f"{inner} {passed} {outer}"
        )


def clock_stands(target: Target) -> str:
    with Talk(target, "trusty") as talk:
        now = talk.runtime.now
        outer = now()
        start, frequency = _time(talk)
        with talk.machine.suspension.held("test", talk.deadline()):
            held = now()
            while now() < held + 30_000_000:
                pass
            held = now() - held
        end, _ = _time(talk)
        outer = now() - outer
        passed = (end - start) * 1_000_000_000 // frequency
        return "did not advance" if passed <= (outer - held) * 1.01 else f"{held} {passed} {outer}"


def _smc(talk: Talk, *words: int) -> str:
    talk.send(struct.pack("<5Q", 77, *words, *(0,) * (4 - len(words))), port=0)
    number, result, *rest = struct.unpack("<5Q", talk.receive(port=0))
    assert (number, rest) == (77, [0, 0, 0])
    return str(_signed(result))


def trusty_fast(target: Target) -> str:
    version, text = 0xBC00_000B, 0xBC00_000A
    with Talk(target, "trusty") as talk:
        calls = (version, 5), (text, 0xFFFF_FFFF), (text, 0), (text, 99), (0xBC00_0007,), (1 << 31,)
        return ", ".join(_smc(talk, *call) for call in calls)


def trusty_standard(target: Target) -> str:
    with Talk(target, "trusty") as talk:
        return ", ".join(_smc(talk, call) for call in (0x3C00_0003, 0x3C00_0001, 0x3C00_0000, 5))


# Two vCPUs.


def smp_turns(target: Target) -> str:
    with Talk(target, "smp", vcpus=2) as talk:
        return ", ".join(talk.ask(text) for text in "abcd")


def smp_power(target: Target) -> str:
    with Talk(target, "smp", vcpus=2) as talk:
        texts = ("off", "affinity", "on", "affinity", "off", "on")
        return ", ".join(talk.ask(text).replace(" of 2", "") for text in texts)


# What no guest should do.


def hostile_all(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        said = talk.ask("all")
        return "; ".join([said, *talk.lines()[1:]])


def hostile_random(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        return ", ".join(talk.ask(text) for text in ("random 1 300", "all"))


def _kind(fault: dict[str, int] | None) -> str:
    """Return the kind of an exception, as far as the architectures have it alike."""
    if fault is None:
        return "none"
    if "esr" in fault:
        code = fault["esr"] >> 26
        return {0x00: "undefined", 0x15: "call", 0x21: "fetch", 0x25: "data"}.get(
            code, f"{code:#x}"
        )
    vector, error = fault["syndrome"] >> 32, fault["syndrome"] & 0xFFFF_FFFF
    if vector == 14 and error & (1 << 14 | 1 << 16):
        return "fetch" if error & 1 << 4 else "data"
    return {0: "division", 6: "undefined"}.get(vector, f"{vector}, {error:#x}")


def outside(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        said = []
        for access in ("read", "write", "exec"):
            fault = talk.fault(f"{access} {OUTSIDE:#x}")
            address = -1 if fault is None else fault.get("far", fault.get("cr2", -1))
            said.append(f"{access}: {_kind(fault)} at {address:#x}")
        return ", ".join(said)


def abort_report(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        said = []
        for access in ("read", "write", "exec"):
            fault = talk.fault(f"{access} {OUTSIDE:#x}")
            assert fault is not None
            if "esr" in fault:
                said.append(f"ESR {fault['esr']:#x}")
            else:
                error = fault["syndrome"] & 0xFFFF_FFFF
                marked = ", marked" if error & (1 << 14 | 1 << 16) else ""
                said.append(f"#PF {error & 0x3FFF:#x}{marked}")
        return "; ".join(said)


def undefined(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        return _kind(talk.fault("undef"))


def supervisor_call(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        return _kind(talk.fault("svc"))


def misaligned(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        return _kind(talk.fault("align"))


def pl011(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        talk.line()
        said = talk.ask("pl011 hi")
        return f"{said}, logged: {talk.line()}"


def log_noise(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        talk.line()
        said = talk.ask("log")
        lines = talk.lines()
        text = "\n".join(lines).encode("latin-1")
        return f"{said}: {len(lines)} lines, {len(text)} bytes, CRC {zlib.crc32(text):#x}"


def _death(target: Target) -> float:
    """How long to wait for a VM's end, in s: where none comes, the guest burns a processor."""
    return 1.5 if target == KVM_ARM64 else 10


def die(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        said = talk.ask("die")
        reason = talk.abort(_death(target))
        if reason is None:
            return f"{said}, not ended"
        return f"{said}, {re.sub('0x[0-9a-f]+|(?<=bytes )[0-9a-f ]+', 'X', reason)}"


def spin(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        said = [talk.ask("spin")]
        said.append(
            "suspended" if talk.machine.driver.suspend(talk.deadline()) else "not suspended"
        )
        talk.machine.driver.resume()
        said.append("stopped" if talk.machine.stop() == [] else "not stopped")
        return ", ".join(said)


# Hypercalls.


def unknown_ids(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        calls = [
            ("hvc", 0xFF7F),
            ("hvc", 0xBF00_FF01),
            ("smc", 0xBF00_FF01),
            ("smc", HfId.INTERRUPT_GET),
        ]
        calls += [
            ("hvc", 0x8400_0FFF),
            ("smc", 0xC400_0FFF),
            ("hvc", 0x8600_0000),
            ("hvc", KVM_UID),
        ]
        calls += [("hvc", 0), ("smc", 0xFFFF_FFFF)]
        rest = (1, 2, 3, 4, 5, 6, 7)
        return " ".join(
            "-1" if words == ((1 << 64) - 1, *rest) else f"{number:#x}: {words}"
            for conduit, number in calls
            for words in [talk.call(conduit, number, *rest)]
        )


def arm_calls(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        return ", ".join(_said(talk.call(conduit, SMCCC_VERSION)) for conduit in ("hvc", "smc"))


def vendor_uid(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        return ", ".join(_said(talk.call(conduit, KVM_UID)) for conduit in ("hvc", "smc"))


def cpuid(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        leaf = 0x4000_0000
        answer = talk.ask(f"cpuid {leaf:#x}")
        if not answer.startswith("0x"):
            return answer
        # A hypervisor's first leaf names its last one.
        return answer if int(answer.split()[0], 16) >= leaf else "no hypervisor's leaves"


def ffa_version(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        return ", ".join(
            _said(talk.call(conduit, FfaId.VERSION, wanted))
            for conduit, wanted in (("hvc", 0x1_0000), ("smc", 0x1_0002), ("hvc", 1 << 31))
        )


def ffa_features(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        known = [
            f"{number:x}"
            for wide in (0, CONVENTION_64)
            for number in (function.value | wide for function in FfaId)
            if _said(talk.call("hvc", FfaId.FEATURES, number)).startswith("SUCCESS")
        ]
        return " ".join(number.removeprefix("840000") for number in known)


def ffa_id(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        return ", ".join(_said(talk.call(conduit, FfaId.ID_GET)) for conduit in ("hvc", "smc"))


def partition_info(target: Target) -> str:
    with Talk(target, "hostile", "echo", vcpus=2) as talk:
        said = _said(talk.call("hvc", FfaId.PARTITION_INFO_GET))
        vm = talk.vm()
        assert vm.mailbox.rx is not None
        found = struct.iter_unpack("<HHI", vm.memory.read(vm.mailbox.rx, 24))
        each = ", ".join(f"vm {number}: {vcpus}, {bits}" for number, vcpus, bits in found)
        return f"{said}; {each}"


def _psci(target: Target, *calls: tuple[int, ...]) -> str:
    with Talk(target, "hostile", vcpus=2) as talk:
        return ", ".join(_said(talk.call("smc", *call)) for call in calls)


def psci_version(target: Target) -> str:
    return _psci(target, (PsciId.VERSION,))


def psci_features(target: Target) -> str:
    known = PsciId.CPU_SUSPEND, PsciId.CPU_ON, PsciId.CPU_OFF, PsciId.SYSTEM_OFF, 0x8400_001F
    return _psci(target, *((PsciId.FEATURES, number) for number in known))


def psci_affinity(target: Target) -> str:
    number = PsciId.AFFINITY_INFO | CONVENTION_64
    return _psci(target, *((number, *of) for of in ((0,), (1,), (2,), (0, 1))))


def psci_unknown(target: Target) -> str:
    calls = PsciId.SYSTEM_OFF, PsciId.SYSTEM_RESET, PsciId.MIGRATE, 0x8400_001F
    return _psci(target, *((number,) for number in calls))


# Interrupts.


def interrupt_in_message_wait(target: Target) -> str:
    with Talk(target, "trusty") as talk:

        def taken() -> int:
            talk.until_quiet()
            said = re.search(r"interrupts (\d+)", talk.ask("stats"))
            assert said is not None
            return int(said[1])

        before = taken()
        talk.until_quiet()
        said = talk.inject(VIRTUAL_TIMER)
        return f"{said}, taken {taken() - before}"


def _idle(talk: Talk, vcpu: int) -> bool:
    """Wait until a vCPU has no interrupt left to take."""
    return talk.until(lambda: not talk.vcpu(vcpu).interrupts.up)


def interrupt_in_wfi(target: Target) -> str:
    with Talk(target, "smp", vcpus=2) as talk:
        said = [talk.ask("a"), talk.ask("b")]  # vCPU 1 has been up, and waits for its turn again
        _idle(talk, 1)
        said = [talk.inject(SMP_WAKE, 1), "taken" if _idle(talk, 1) else "not taken"]
        return ", ".join([*said, talk.ask("c"), talk.ask("d")])


def interrupt_masked(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        talk.call("hvc", HfId.INTERRUPT_ENABLE, 32, 1)
        talk.until_quiet()
        said = [talk.inject(32), talk.inject(32)]
        said += [_said(talk.call("hvc", HfId.INTERRUPT_GET)) for _ in range(2)]
        return ", ".join(said)


def run_reports_wfi(target: Target) -> str:
    with Talk(target, "smp", vcpus=2) as talk:
        for text in "abcdefgh":
            talk.ask(text)

        def reported() -> bool:
            return talk.machine.summary()[0].runs.get("WaitForInterrupt", 0) > 0

        return "WaitForInterrupt" if talk.until(reported, within=3) else "nothing"


def abandoned(target: Target) -> str:
    with Talk(target, "hostile") as talk:
        talk.ask("die")
        if talk.abort(_death(target)) is None:
            return "sent"
        sent = talk.end().try_send(b"anybody?")
        return "refused" if sent is Sent.DEAD else sent.value
