"""Runs inside the machine: messages through a chain and to two vCPUs that take turns, all at once.

Prints one JSON object: what was sent and answered, what the machine counted, when each answer came.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from msgspec.structs import asdict

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conformance"))

from talk import KVM_ARM64, Talk

COUNT = 60
CHAIN, TURNS = 0, 3  # the VMs that the host talks to


def main() -> None:
    answers: dict[int, list[str]] = {CHAIN: [], TURNS: []}
    times: dict[int, list[int]] = {CHAIN: [], TURNS: []}
    texts = [f"message {number}" for number in range(COUNT)]
    with Talk(KVM_ARM64, "relay", "relay", "echo", "smp", vcpus=2) as talk:
        for vm in answers:
            talk.end(vm)

        def send(vm: int) -> None:
            for text in texts:
                talk.send(text.encode(), vm)

        def receive(vm: int) -> None:
            for _ in texts:
                answers[vm].append(talk.receive(vm).decode())
                print(vm, end=" ", file=sys.stderr)  # it goes on
                times[vm].append(talk.runtime.now())

        tasks = [
            talk.runtime.spawn(f"{job.__name__}.{vm}", lambda job=job, vm=vm: job(vm))  # type: ignore[misc]
            for vm in answers
            for job in (send, receive)
        ]
        ended = [task.join(talk.deadline()) for task in tasks]
        stuck = talk.machine.stop()
        summary = [asdict(vm) for vm in talk.machine.summary()]
    said = {
        "sent": texts,
        "chain": answers[CHAIN],
        "turns": answers[TURNS],
        "ended": ended,
        "stuck": stuck,
        "vms": summary,
        "times": list(times.values()),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
