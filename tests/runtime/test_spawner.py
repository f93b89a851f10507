"""The spawner: its children are this process's, whoever is killed, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched.runtime.base import ChannelClosedError, SpawnerLostError
from hfsched.runtime.threads import ThreadRuntime, spawning
from hfsched.runtime.threads.spawner import decode_job

from . import children
from .offspring import (
    another_than,
    answered,
    descriptors,
    ended,
    offspring,
    spawner_of,
    started,
    stop,
)
from .times import later

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Process

KILLS = 25


def test_a_child_is_a_fork_and_this_process_is_its_parent(spawning_rt: ThreadRuntime) -> None:
    mine, theirs = spawning_rt.channel("c")
    process = spawning_rt.process("a name that is long", children.about, [theirs])
    got = mine.recv(later(spawning_rt))
    assert got is not None
    said = dict(line.split("=") for line in got[0].decode().splitlines())
    pid = process.pid
    assert said == {
        "pid": str(pid),
        "parent": str(os.getpid()),
        "session": str(pid),
        "group": str(pid),
        "signal": "9",
        "threads": "1",
        "tid": str(pid),
        "comm": "a name that is ",
        "descriptors": "5",  # the standard streams, the channel, and the folder that it looks at
        "imported": "True",
    }
    assert process.join(later(spawning_rt))
    assert process.exit_status == 0
    assert process.pid is None
    mine.close()


def test_many_at_once(spawning_rt: ThreadRuntime) -> None:
    results: list[tuple[Process, End]] = []

    def start() -> None:
        results.extend(started(spawning_rt) for _ in range(5))

    tasks = [spawning_rt.spawn(f"starter.{i}", start) for i in range(8)]
    assert all(task.join(later(spawning_rt)) for task in tasks)
    assert len({process.pid for process, _ in results}) == 40
    for process, end in results:
        assert answered(spawning_rt, end)
        stop(spawning_rt, process, end)


def test_a_spawner_that_dies_is_replaced_and_its_children_live_on(
    spawning_rt: ThreadRuntime,
) -> None:
    first = started(spawning_rt)
    pid = spawner_of(spawning_rt)
    os.kill(pid, signal.SIGKILL)
    another_than(spawning_rt, pid)
    second = started(spawning_rt)
    for process, end in (first, second):
        assert answered(spawning_rt, end)
        stop(spawning_rt, process, end)
    assert not spawning_rt.spawner_lost.is_set()


def test_a_spawner_may_be_killed_at_any_moment(spawning_rt: ThreadRuntime) -> None:
    """Requests come all the while; between a fork and its answer, too."""
    over, good, choose = threading.Event(), [0], random.Random(1)

    def kill() -> None:
        pid = 0
        for _ in range(KILLS):
            pid = another_than(spawning_rt, pid)
            wanted = good[0] + choose.randrange(4)
            while good[0] < wanted:
                spawning_rt.checkpoint("until it has been of use")
            for _ in range(choose.randrange(200)):
                spawning_rt.checkpoint("a little later")
            os.kill(pid, signal.SIGKILL)
        over.set()

    killer = spawning_rt.spawn("killer", kill)
    while not over.is_set():
        with suppress(OSError):  # three spawners in a row
            process, end = started(spawning_rt)
            assert answered(spawning_rt, end)
            stop(spawning_rt, process, end)
            good[0] += 1
    assert killer.join(later(spawning_rt))
    process, end = started(spawning_rt)
    stop(spawning_rt, process, end)


def test_what_an_interpreter_says_that_runs_no_spawner_is_the_reason_and_not_printed(
    rt: ThreadRuntime, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spawning, "_PROGRAM", "hfsched.nobody")
    with pytest.raises(OSError, match=r"3 spawners have died: .*No module named hfsched\.nobody$"):
        started(rt)
    assert capfd.readouterr().err == ""
    monkeypatch.undo()
    process, end = started(rt)
    stop(rt, process, end)


@pytest.mark.parametrize("answer", [b"", b"with"])
def test_a_child_of_a_spawner_that_died_before_its_answer_is_reaped(
    spawning_rt: ThreadRuntime, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """Main closes its socket for it, or the child is stopped and does not see that."""
    forked = threading.Event()
    fork = spawning._SpawnerProcess.fork
    child_pids: list[int] = []

    def lose(process: spawning._SpawnerProcess, gate: object, wait: object) -> tuple[int, int]:
        pid, pidfd = fork(process, gate, wait)  # type: ignore[arg-type]
        if forked.is_set():
            return pid, pidfd
        forked.set()
        child_pids.append(pid)
        if answer:
            os.kill(pid, signal.SIGSTOP)
        os.close(pidfd)
        raise spawning._DeadError

    monkeypatch.setattr(spawning._SpawnerProcess, "fork", lose)
    process, end = started(spawning_rt)
    assert answered(spawning_rt, end)
    assert child_pids[0] not in offspring()
    stop(spawning_rt, process, end)


def test_without_a_right_to_exec_a_dead_spawner_is_a_loss(spawning_rt: ThreadRuntime) -> None:
    process, end = started(spawning_rt)
    spawning_rt.forbid_exec()
    other = started(spawning_rt)  # the spawner needs no exec
    assert not spawning_rt.spawner_lost.is_set()
    os.kill(spawner_of(spawning_rt), signal.SIGKILL)
    assert spawning_rt.select([spawning_rt.spawner_lost], later(spawning_rt))
    mine, theirs = spawning_rt.channel("c")
    text = "^the process that starts others has ended, and this one may not start another$"
    for _ in range(2):
        with pytest.raises(SpawnerLostError, match=text):
            spawning_rt.process("child", children.echo, [theirs])
    theirs.send(b"is open still")
    mine.close()
    theirs.close()
    for each in ((process, end), other):
        assert answered(spawning_rt, each[1])
        stop(spawning_rt, *each)


def test_where_none_was_started_in_time_there_is_none(rt: ThreadRuntime) -> None:
    rt.forbid_exec()
    assert rt.spawner_lost.is_set()
    mine, theirs = rt.channel("c")
    with pytest.raises(SpawnerLostError):
        rt.process("child", children.echo, [theirs])
    mine.close()
    theirs.close()
    rt.close()


# Main dies.


@contextmanager
def doomed(word: str) -> Iterator[tuple[ThreadRuntime, Process, list[int]]]:
    """Run another main; yield it, and pidfds of its child and its spawner."""
    runtime = ThreadRuntime()
    end, theirs = runtime.channel("main")
    process = runtime.process("main", children.doomed, [theirs])
    end.send(word.encode())
    got = end.recv(later(runtime))
    assert got is not None
    pidfds = [os.pidfd_open(int(pid)) for pid in got[0].split()]
    yield runtime, process, pidfds
    for pidfd in pidfds:
        os.close(pidfd)
    end.close()
    runtime.close()


@pytest.mark.parametrize("word", ["running", "stopped", "dead"])
def test_all_end_when_main_is_killed(word: str) -> None:
    """Stopped ones too, also if the spawner is dead already."""
    with doomed(word) as (runtime, process, pidfds):
        process.kill()
        assert process.join(later(runtime))
        assert all(map(ended, pidfds))


def test_all_end_with_the_runtime() -> None:
    before = offspring()
    runtime = ThreadRuntime()
    process, end = started(runtime)
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    runtime.close()
    with pytest.raises(ChannelClosedError):
        end.recv(later(runtime))
    assert process.join(later(runtime))
    assert process.exit_status == -signal.SIGKILL
    assert offspring() == before
    with pytest.raises(OSError, match="the runtime is closed"):
        started(runtime)
    end.close()


@pytest.mark.parametrize("close", [True, False])
def test_a_process_without_a_name_is_reaped(close: bool) -> None:
    """Its handle is dropped before its end, or after."""
    before = descriptors(), offspring()
    runtime = ThreadRuntime()
    process, end = started(runtime)
    pid = process.pid
    assert pid is not None
    del process
    if not close:
        end.close()
        pidfd = os.pidfd_open(pid)
        assert ended(pidfd)
        os.close(pidfd)
        stop(runtime, *started(runtime))  # looks after the others
        while pid in offspring():
            runtime.checkpoint("until it is reaped")
    runtime.close()
    end.close()
    assert (descriptors(), offspring()) == before


def test_a_process_keeps_what_it_needs_of_its_runtime() -> None:
    runtime = ThreadRuntime()
    process, end = started(runtime)
    del runtime
    gc.collect()
    other = ThreadRuntime()
    assert answered(other, end)
    stop(other, process, end)


# Descriptors.


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Let this process have no descriptor whose number is not below `count`."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def no_gaps() -> Iterator[int]:
    """Use each number below that of the last descriptor; yield the first that is free."""
    last = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    with ExitStack() as fillers:
        while (free := os.dup(0)) <= last:
            fillers.callback(os.close, free)
        os.close(free)
        yield free


def test_descriptors_may_be_short_at_any_step(spawning_rt: ThreadRuntime) -> None:
    """A start fails with an error that says so, or succeeds; nothing is lost."""
    stop(spawning_rt, *started(spawning_rt))
    mine, theirs = spawning_rt.channel("c")
    refused = []
    for more in range(8):
        before = descriptors()
        with no_gaps() as free, at_most(free + more):
            try:
                process = spawning_rt.process("echo", children.echo, [theirs])
            except OSError as exc:
                refused.append(exc.strerror)
            else:
                break
        assert descriptors() == before
    assert refused == ["Too many open files"] * 3
    assert answered(spawning_rt, mine)
    stop(spawning_rt, process, mine)


def test_a_spawner_without_a_descriptor_says_so(spawning_rt: ThreadRuntime) -> None:
    stop(spawning_rt, *started(spawning_rt))
    pid = spawner_of(spawning_rt)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
    mine, theirs = spawning_rt.channel("c")
    with pytest.raises(OSError, match="Too many open files"):
        spawning_rt.process("echo", children.echo, [theirs])
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    process = spawning_rt.process("echo", children.echo, [theirs])
    assert answered(spawning_rt, mine)
    stop(spawning_rt, process, mine)
    assert spawner_of(spawning_rt) == pid


# What goes wrong in a child.


def test_modules_that_cannot_be_imported_are_the_childs_affair(
    rt: ThreadRuntime, capfd: pytest.CaptureFixture[str]
) -> None:
    rt.start_spawner(["no.such.module"])
    stop(rt, *started(rt))

    def local(*_: object) -> None:
        """Cannot be imported."""

    mine, theirs = rt.channel("c")
    process = rt.process("local", local, [theirs])
    assert process.join(later(rt))
    assert process.exit_status == 1
    assert "AttributeError" in capfd.readouterr().err
    mine.close()
    rt.close()


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b'["a", "b:c"]',
        b'["a", "b:c", 0]',
        b'["a", "b:c", 0, 1]',
        b'["a", "bc", 0, false]',
        b'["a", "b:c", true, false]',
        b'["a", "b:c", 33, false]',
        b'["a", "b:c", -1, false]',
        b'["a\\u0000", "b:c", 0, false]',
        b'["a", "b:c;d", 0, false]',
        b'"' + b"x" * 5000 + b'"',
        b"\xff",
    ],
)
def test_what_a_job_cannot_be(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"invalid job|Expecting value|decode"):
        decode_job(data)


def test_a_job() -> None:
    assert decode_job(b'["monitor", "a.b:c.d", 2, false]') == ("monitor", "a.b:c.d", 2, False)


def test_a_child_does_not_hold_what_this_process_has_open(rt: ThreadRuntime) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    process, end = started(rt)
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    stop(rt, process, end)
    rt.close()


ENDS = """
from hfsched.runtime.threads import ThreadRuntime
from runtime import children
runtime = ThreadRuntime()
runtime.start_spawner([children.__name__])
mine, theirs = runtime.channel("child")
process = runtime.process("child", children.{main}, [theirs])
process.join()
mine.close()
runtime.close()
print(process.exit_status)
"""


@pytest.mark.parametrize(
    ("main", "why"),
    [
        ("without_memory", "not enough memory"),
        ("faulty", r"internal error: ValueError: broken\nin two"),
    ],
)
def test_a_child_says_on_one_line_what_ends_it(main: str, why: str) -> None:
    tests = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", ENDS.format(main=main)],
        env={"PYTHONPATH": f"{tests}:{tests.parent}", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "1\n"
    assert ran.stderr == f"hfsched: a process of this run ends: {why}\n"
