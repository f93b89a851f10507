"""The gate of a machine whose memory changes: who was kept out comes in before it closes again."""

from __future__ import annotations

import threading
import time

from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.kvm.gate import Gate


class Clock(ThreadRuntime):
    """Threads, and a time that passes when told."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0
        self.sleeps: list[int] = []

    def now(self) -> int:
        return self.time

    def sleep_until(self, deadline: int) -> None:
        self.sleeps.append(deadline)
        self.time = deadline


def test_an_open_gate_keeps_no_thread() -> None:
    gate = Gate(Clock(), "vm")
    gate.wait()
    with gate.closed():
        pass
    gate.wait()
    gate.close()


def test_without_waiting_threads_it_closes_at_once() -> None:
    runtime = Clock()
    gate = Gate(runtime, "vm")
    for _ in range(3):
        with gate.closed():
            runtime.time += 1000
    assert runtime.sleeps == []
    gate.close()


def test_it_closes_again_when_all_are_through_and_had_as_long_as_they_were_kept() -> None:
    runtime = Clock()
    gate = Gate(runtime, "vm")
    through: list[int] = []

    def cpu() -> None:
        gate.wait()
        through.append(runtime.time)

    threads = [threading.Thread(target=cpu) for _ in range(3)]
    with gate.closed():
        for thread in threads:
            thread.start()
        while gate.waiting < len(threads):
            time.sleep(0.001)
        runtime.time = 700
    with gate.closed():
        assert gate.waiting == 0
        assert runtime.sleeps == [1400]
    for thread in threads:
        thread.join()
    assert set(through) <= {700, 1400}
    with gate.closed():  # no thread was kept out the last time
        assert runtime.sleeps == [1400]
    gate.close()
