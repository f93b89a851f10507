"""What a run says at its end: its summary, and what was not delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hfsched.text import count

if TYPE_CHECKING:
    from hfsched.vmm.machine import VmSummary

__all__ = ["left_behind", "summary_lines"]

_RX = {
    "not mapped": "has not mapped RX (FFA_RXTX_MAP)",
    "received": "has not read the message before",
    "read": "has not released RX (FFA_RX_RELEASE)",
}


def summary_lines(seconds: float, summary: Sequence[VmSummary]) -> list[str]:
    """Return the figures of a run in words."""
    lines = [f"summary after {seconds:.2f} s"]
    for vm in summary:
        runs = ", ".join(f"{number} {name}" for name, number in vm.runs.items())
        kinds = f" ({runs})" if runs else ""
        lines.append(
            f"  {vm.name}: messages {vm.from_host} from the host, {vm.to_host} to it,"
            f" {vm.to_guests} to guests; {count(sum(vm.runs.values()), 'RUN')}{kinds};"
            f" {count(vm.wake_ups, 'wake-up')}, {count(vm.spurious, 'spurious RUN')}"
        )
    return lines


def left_behind(
    summary: Sequence[VmSummary],
    *,
    lines: Mapping[str, int],
    unsent: Mapping[str, int],
    ended: str | None,
    hibernated: bool = False,
) -> list[str]:
    """Return a line for each kind of message that did not arrive.

    `lines` of standard input and `unsent` messages of host programs were not delivered, by VM.
    `ended` is why the run ended where that is why they were not; None: the VMs did not take them.
    What a machine has that has `hibernated` is in its snapshot.
    """
    left = []
    for vm in [] if hibernated else summary:
        if vm.unread:
            doing = "; ".join(f"vCPU {i}: {state}" for i, state in enumerate(vm.vcpus))
            left.append(f"vm {vm.name}: unread message in its mailbox ({doing})")
        if vm.unmapped:
            messages = count(vm.unmapped, "message")
            left.append(
                f"vm {vm.name}: {messages} to it dropped: RX was unmapped (FFA_RXTX_UNMAP) before it was read"
            )
        if vm.unclaimed:
            messages = count(vm.unclaimed, "message")
            left.append(f"vm {vm.name}: {messages} for host ports that no program opened")
        if vm.malformed:
            messages = count(vm.malformed, "message")
            left.append(
                f"vm {vm.name}: {messages} to the host dropped: shorter than the 16-byte port"
                ' header (framing = "raw" in a manifest: messages have none)'
            )
        if vm.discarded:
            messages = count(vm.discarded, "message")
            left.append(f"vm {vm.name}: {messages} to host programs dropped: they had disconnected")
        if vm.lost:
            messages = count(vm.lost, "message")
            left.append(f"vm {vm.name}: {messages} to the host undelivered: the machine stopped")
    for vm in summary:
        why = f" to vm {vm.name}: {ended}" if ended is not None else f": {_why_not_taken(vm)}"
        if unsent.get(vm.name):
            messages = count(unsent[vm.name], "message")
            left.append(f"host programs: {messages} undelivered{why}")
        if lines.get(vm.name):
            left.append(f"standard input: {count(lines[vm.name], 'line')} undelivered{why}")
    return left


def _why_not_taken(vm: VmSummary) -> str:
    if vm.abort is not None:
        return f"vm {vm.name} has aborted"
    return f"vm {vm.name} {_RX.get(vm.rx, 'took no more before the run ended')}"
