"""The conformance table: what a guest sees is the same on every engine, but for what is listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import behaviours as see
from talk import KVM_ARM64, KVM_X86, Target


@dataclass(frozen=True)
class Difference:
    """What some engines show instead, and why that is so.  `seen` None: anything."""

    targets: tuple[Target, ...]
    seen: str | None
    why: str


@dataclass(frozen=True)
class Row:
    """A behaviour: its name, how to see it, and what is expected."""

    name: str
    see: Callable[[Target], str]
    expected: str
    differences: tuple[Difference, ...] = ()

    def difference(self, target: Target) -> Difference | None:
        """Return what is expected of an engine instead; None: what is expected of all."""
        found = [difference for difference in self.differences if target in difference.targets]
        assert len(found) <= 1, self.name
        return found[0] if found else None

    def holds(self, target: Target, seen: str) -> bool:
        """Tell whether an engine shows what is expected of it."""
        difference = self.difference(target)
        expected = self.expected if difference is None else difference.seen
        return expected is None or expected == seen


_STRESSED = "sent 10 acked 10 received 10 bad 0"
_NO_END = (
    "The kernel delivers each fetch abort to the guest without an exit, so the engine cannot see that"
    " the guest takes aborts endlessly. Hafnium spins there, too."
)

ROWS = (
    Row(
        "boot: the log of `trusty` with 1 MiB",
        see.boot_line,
        "trusty: up, 1024 KiB, MMU on, port 0 smc, port 1 text",
    ),
    # Messages.
    Row("`echo`: a text", see.echo_text, "hello"),
    Row("`echo`: the longest message", see.echo_longest, "4080 bytes, the same"),
    Row("`echo`: 1000 messages", see.echo_many, "1000, in order"),
    Row("two messages to a guest that reads none", see.mailbox_of_one, "spinning, sent, busy"),
    Row("`relay`, `relay`, `echo`: there and back", see.relay_chain, "round"),
    Row("two `stress`: `go` in both at once", see.stress_pair, f"{_STRESSED}; {_STRESSED}"),
    Row("`stress`: `fill`, `check` of 1 MiB", see.stress_memory, "ok, ok"),
    Row(
        "`trusty`: version, echo, an unknown text",
        see.trusty_text,
        "hfsched trusty guest 1, a b, you said: nonsense",
    ),
    Row(
        "`trusty`: its counters",
        see.trusty_stats,
        "received 2 sent 1 busy 0 fast 0 std 0 text 2",
    ),
    Row("`trusty`: fast calls", see.trusty_fast, "3, 22, 104, -2, 0, -1"),
    Row("`trusty`: standard calls", see.trusty_standard, "-8, 0, -4, -1"),
    # Time.
    Row("timer: a sleep of 20 ms", see.trusty_sleep, "at least 20 ms"),
    Row("counter: its rate", see.clock_rate, "the host's"),
    Row(
        "counter: its frequency",
        see.clock_frequency,
        "62500000 Hz",
        (
            Difference((KVM_X86,), "1000000000 Hz", "The x86-64 ABI counts nanoseconds."),
            Difference(
                (KVM_ARM64,), None, "The host's own counter, in whose frequency it is read."
            ),
        ),
    ),
    Row("counter: 30 ms of a suspension", see.clock_stands, "did not advance"),
    # Two vCPUs.
    Row(
        "`smp`: the vCPUs take turns",
        see.smp_turns,
        "vcpu 0 of 2: a, vcpu 1 of 2: b, vcpu 0 of 2: c, vcpu 1 of 2: d",
    ),
    Row(
        "`smp`: off, affinity, on, affinity, off, on",
        see.smp_power,
        "vcpu 0: vcpu 1 off, vcpu 0: vcpu 0 on, vcpu 1 off, vcpu 0: vcpu 1 on, "
        "vcpu 1: vcpu 0 on, vcpu 1 on, vcpu 0: vcpu 1 off, vcpu 0: vcpu 1 on",
    ),
    # FF-A and PSCI.
    Row("FFA_VERSION: 1.0, 1.2, bit 31", see.ffa_version, "0x10000, 0x10000, -1"),
    Row(
        "FFA_FEATURES: the ids that it knows",
        see.ffa_features,
        "60 61 62 63 64 65 68 69 6a 6b 6c 6d 6e 6f 70 c4000066",
    ),
    Row("FFA_ID_GET by HVC, SMC", see.ffa_id, "SUCCESS 2, SUCCESS 2"),
    Row(
        "FFA_PARTITION_INFO_GET: id: vCPUs, properties",
        see.partition_info,
        "SUCCESS 3; vm 1: 8, 4, vm 2: 2, 4, vm 3: 2, 4",
    ),
    Row("PSCI_VERSION", see.psci_version, "0x10001"),
    Row(
        "PSCI_FEATURES: CPU_SUSPEND, CPU_ON, CPU_OFF, SYSTEM_OFF, unknown",
        see.psci_features,
        "2, 0, 0, -1, -1",
    ),
    Row(
        "AFFINITY_INFO: itself, the other, a third, level 1",
        see.psci_affinity,
        "0, 1, -2, -2",
    ),
    Row("SYSTEM_OFF, SYSTEM_RESET, MIGRATE, unknown", see.psci_unknown, "-1, -1, -1, -1"),
    Row(
        "ten unknown ids: x0, if x1 to x7 are kept",
        see.unknown_ids,
        "-1 -1 -1 -1 -1 -1 -1 -1 -1 -1",
    ),
    Row(
        "SMCCC_VERSION, by HVC, SMC",
        see.arm_calls,
        "-1, -1",
        (
            Difference(
                (KVM_ARM64,),
                "0x10001, 0x10001",
                "The kernel answers the Arm architecture's calls itself and does not filter them.",
            ),
        ),
    ),
    Row("the vendor hypervisor's UID, by HVC, SMC", see.vendor_uid, "-1, -1"),
    Row(
        "CPUID leaf 0x40000000",
        see.cpuid,
        "no such instruction",
        (
            Difference(
                (KVM_X86,), "no hypervisor's leaves", "CPUID is x86's; KVM's leaves are left out."
            ),
        ),
    ),
    # Interrupts.
    Row("interrupt in MSG_WAIT", see.interrupt_in_message_wait, "wake, taken 1"),
    Row(
        "interrupt in WFI, HLT",
        see.interrupt_in_wfi,
        "wake, taken, vcpu 0 of 2: c, vcpu 1 of 2: d",
    ),
    Row(
        "masked interrupt, twice; INTERRUPT_GET, twice",
        see.interrupt_masked,
        "wake, pending, 0x20, 0xffffffff",
    ),
    Row(
        "RUN when the guest executes WFI, HLT",
        see.run_reports_wfi,
        "WaitForInterrupt",
        (
            Difference(
                (KVM_ARM64,),
                "nothing",
                "WFI stays in the kernel, which wakes the vCPU when its line goes up: the vCPU's"
                " thread stays in RUN.",
            ),
        ),
    ),
    # What no guest should do.
    Row("`hostile`: `all`", see.hostile_all, "92 checks, 0 wrong"),
    Row(
        "`hostile`: 300 random calls, then `all`",
        see.hostile_random,
        "300 calls, 92 checks, 0 wrong",
    ),
    Row(
        "accesses outside of RAM",
        see.outside,
        "read: data at 0x20000000, write: data at 0x20000000, exec: fetch at 0x20000000",
    ),
    Row(
        "what their exceptions report",
        see.abort_report,
        "ESR 0x96010005; ESR 0x96010045; ESR 0x86000005",
        (
            Difference(
                (KVM_X86,),
                "#PF 0x0, marked; #PF 0x2, marked; #PF 0x10, marked",
                "A page fault, whose error code says read, write or fetch; bits 14 and 16 mark it"
                " as the hypervisor's.",
            ),
            Difference(
                (KVM_ARM64,),
                "ESR 0x96000010; ESR 0x96000050; ESR 0x86000010",
                "The kernel makes the abort, always an external one; FAR and WnR are right. Hafnium, and"
                " the emulator, give the guest bits 0 to 21 of what the CPU reported at stage 2.",
            ),
        ),
    ),
    Row("undefined instruction", see.undefined, "undefined"),
    Row(
        "`svc`",
        see.supervisor_call,
        "call",
        (
            Difference(
                (KVM_X86,), "division", "The guest divides by zero: INT n is not for every KVM."
            ),
        ),
    ),
    Row(
        "misaligned load with alignment checks on",
        see.misaligned,
        "data",
        (Difference((KVM_X86,), "none", "At privilege level 0 an x86 CPU checks no alignment."),),
    ),
    Row("PL011: `hi` by its register", see.pl011, "3 bytes written, logged: hi"),
    Row(
        "log: control characters, a line of 5000",
        see.log_noise,
        "logged: 28 lines, 5333 bytes, CRC 0xdf63eac6",
    ),
    Row(
        "a fault without usable vectors: `die`",
        see.die,
        "dying, unhandled data abort (read, translation fault, level 1) at X, pc X, instruction X; no vector at X",
        (
            Difference(
                (KVM_X86,),
                "dying, unhandled undefined instruction, rip X, instruction bytes X; no handler can be entered (a triple fault)",
                "An x86 CPU shuts down at a triple fault; the VM is ended likewise.",
            ),
            Difference((KVM_ARM64,), "dying, not ended", _NO_END),
        ),
    ),
    Row(
        "a message to a guest that died",
        see.abandoned,
        "refused",
        (Difference((KVM_ARM64,), "sent", "It is not ended (see above), its mailbox is empty."),),
    ),
    Row("an endless loop, masked", see.spin, "spinning, suspended, stopped"),
)
