"""`hfsched device console`: a process, with each of its three ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from driver import WITHIN, RemoteFrontEnd

IN, OUT = 0, 1
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return what starts the device, which listens at `front-end` when that returns."""
    with ExitStack() as stack:

        def started(*arguments: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "hfsched", "device", "console", *arguments]
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                [*command, "--socket", "front-end"],
                cwd=tmp_path,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                bufsize=0,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stderr is not None
            assert b"listening at" in process.stderr.readline()
            return process

        yield started


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Callable[[], RemoteFrontEnd]]:
    with ExitStack() as stack:

        def connected() -> RemoteFrontEnd:
            return stack.enter_context(RemoteFrontEnd(dial(tmp_path / "front-end"), 2))

        yield connected


def dial(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(WITHIN)
    made.connect(os.fspath(path))
    return made


def test_standard_input_and_output(start: Start, front: Callable[[], RemoteFrontEnd]) -> None:
    process = start("--once")
    assert process.stdin is not None
    assert process.stdout is not None
    guest = front()
    guest.request(b"login: ", index=OUT)
    assert process.stdout.read(7) == b"login: "
    process.stdin.write(b"root\n")
    assert guest.request(room=10, index=IN) == b"root\n"
    guest.close()
    assert process.wait(WITHIN) == 0


def test_a_socket_that_listens(
    start: Start, front: Callable[[], RemoteFrontEnd], tmp_path: Path
) -> None:
    process = start("--listen", "line")
    guest = front()
    guest.request(b"before", index=OUT)
    with dial(tmp_path / "line") as line:
        assert line.recv(6, socket.MSG_WAITALL) == b"before"
        guest.close()
        line.sendall(b"typed")  # the next front-end's guest gets it
        guest = front()
        assert guest.request(room=10, index=IN) == b"typed"
    process.terminate()
    assert process.wait(WITHIN) == 0
    assert not (tmp_path / "line").exists()


def test_a_socket_to_connect_to(
    start: Start, front: Callable[[], RemoteFrontEnd], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "terminal"))
        listener.listen()
        listener.settimeout(WITHIN)
        start("--connect", "terminal")
        with listener.accept()[0] as line:
            line.settimeout(WITHIN)
            guest = front()
            guest.request(b"hello", index=OUT)
            assert line.recv(5, socket.MSG_WAITALL) == b"hello"
            line.sendall(b"typed")
            assert guest.request(room=10, index=IN) == b"typed"
