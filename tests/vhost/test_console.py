"""The console: what goes in and out, with and without somebody at its other end."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from driver import WITHIN, FrontEnd, RefusedByDeviceError

from hfsched.control.named_socket import NamedSocket
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vhost.devices.console import KEPT, Console

IN, OUT = 0, 1


@contextmanager
def console() -> Iterator[tuple[Console, socket.socket]]:
    """Yield a console, and the socket at its other end."""
    runtime = ThreadRuntime()
    ours, theirs = socket.socketpair()
    ours.settimeout(WITHIN)
    device = Console(runtime.adopt_connection("line", theirs.detach()))
    with ours:
        yield device, ours
    device.close()
    runtime.close()


@contextmanager
def listening(path: Path) -> Iterator[Console]:
    """Yield a console that is connected to at a path."""
    runtime = ThreadRuntime()
    made = NamedSocket(path, stream=True)
    device = Console(listener=runtime.adopt_listener("listener", made.socket.detach()))
    yield device
    made.remove()
    device.close()
    runtime.close()


def dial(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(WITHIN)
    made.connect(os.fspath(path))
    return made


def exactly(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        data = line.recv(size - len(found))
        assert data, found
        found += data
    return found


def test_input_and_output() -> None:
    with console() as (device, line), FrontEnd(device) as front:
        assert front.request(b"hello", index=OUT) == b""
        assert exactly(line, 5) == b"hello"
        line.sendall(b"ls\n")
        assert front.request(room=64, index=IN) == b"ls\n"
        # The guest's buffer waits for the line, and the line for the guest's buffer.
        front.queues[IN].add(room=2)
        front.queues[IN].kick()
        line.sendall(b"abc")
        assert [data for _, data in front.wait(IN)] == [b"ab"]
        assert front.request(room=64, index=IN) == b"c"


def test_output_waits_for_a_line_that_has_no_room_and_none_is_lost() -> None:
    with console() as (device, line), FrontEnd(device) as front:
        sent = b"".join(os.urandom(1 << 14) for _ in range(64))
        found = b""
        queue = front.queues[OUT]
        for at in range(0, len(sent), 1 << 14):
            if queue.free < 4:  # the line is full: as much as it has room for has left the guest
                assert len(found) < at
                found += exactly(line, 1 << 14)
                queue.kick(always=True)
                while queue.free < 4:
                    front.wait(OUT)
            queue.add(sent[at : at + (1 << 14)])
            queue.kick()
        found += exactly(line, len(sent) - len(found))
        assert found == sent


def test_a_request_that_is_larger_than_what_is_moved_at_once() -> None:
    data = os.urandom(60 * 4096)
    with console() as (device, line), FrontEnd(device) as front:
        front.queues[OUT].add(data)
        front.queues[OUT].kick()
        assert exactly(line, len(data)) == data
        front.wait(OUT)


def test_output_that_was_not_sent_when_the_queue_stops_is_sent_later_or_by_another() -> None:
    data = os.urandom(60 * 4096)
    with console() as (device, line), FrontEnd(device, size=128) as front:
        for _ in range(2):
            front.queues[OUT].add(data)
        front.queues[OUT].kick()
        first = exactly(line, 4096)  # the line is full meanwhile, the rest under way
        front.suspend()
        state = front.save()
        before = len(front.queues[OUT].take())
        assert before < 2
        with console() as (other, other_line), FrontEnd(other, size=128, start=False) as back:
            back.negotiate()
            back.restore(state)
            back.set_memory()
            back.start(OUT)
            moved = exactly(other_line, 4096)
        front.resume()
        front.queues[OUT].kick(always=True)
        assert first + exactly(line, 2 * len(data) - 4096) == data + data
        assert moved in data + data
        assert len(front.wait(OUT, 2 - before)) == 2 - before


def test_a_state_that_is_none() -> None:
    with console() as (device, _line), FrontEnd(device, start=False) as front:
        front.negotiate()
        state = front.save()
        assert b"output" in state
        with pytest.raises(RefusedByDeviceError):
            front.restore(state.replace(b"output", b"outpuT"))


def test_the_last_output_is_kept_while_nobody_listens(tmp_path: Path) -> None:
    with listening(tmp_path / "line") as device, FrontEnd(device) as front:
        lines = [b"%07d\n" % number for number in range(2 * KEPT // 8)]
        text = b"".join(lines)
        for at in range(0, len(text), 4096):
            front.request(text[at : at + 4096], index=OUT)
        with dial(tmp_path / "line") as line:
            assert exactly(line, KEPT) == text[-KEPT:]
            front.request(b"more", index=OUT)
            assert exactly(line, 4) == b"more"
            line.sendall(b"typed")
            assert front.request(room=10, index=IN) == b"typed"
            with dial(tmp_path / "line") as next_one:
                for _ in range(2):  # it is left waiting
                    front.on_device(lambda: None)
                line.close()
                front.request(b"again", index=OUT)
                assert exactly(next_one, 5)[-5:] == b"again"


def test_who_only_says_something_is_answered(tmp_path: Path) -> None:
    """As `echo ls | nc -U line` does it: its own direction ends first."""
    with listening(tmp_path / "line") as device, FrontEnd(device) as front:
        with dial(tmp_path / "line") as line:
            line.sendall(b"ls")
            line.shutdown(socket.SHUT_WR)
            assert front.request(room=10, index=IN) == b"ls"
            front.request(b"file", index=OUT)
            assert exactly(line, 4) == b"file"
        with dial(tmp_path / "line") as line:
            line.sendall(b"next")
            assert front.request(room=10, index=IN) == b"next"


def test_the_device_sleeps_when_nothing_can_go_on() -> None:
    """A line with input, and no room in the guest, is not looked at over and over."""
    with console() as (device, line), FrontEnd(device) as front:
        line.sendall(b"input")
        front.request(b"x", index=OUT)
        before = front.task.processor_time()
        assert before is not None
        front.task.join(time.monotonic_ns() + 200_000_000)
        after = front.task.processor_time()
        assert after is not None
        assert after - before < 50_000_000
        assert front.request(room=10, index=IN) == b"input"
