"""`hfsched device`: what is refused, and with which status."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched.vhost.protocol.messages import encode_header
from hfsched.vhost.protocol.numbers import HeaderFlag, RequestId

if TYPE_CHECKING:
    from conftest import Start


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vsock --cid 3", "vsock needs --uds"),
        ("vsock --uds uds", "vsock needs --cid"),
        ("vsock --cid 3 --uds uds --connect other", "--connect: vsock has no use for it"),
        ("vsock --cid 3 --uds uds disk", "'disk': vsock has no use for it"),
        ("console --cid 3", "--cid: console has no use for it"),
        ("console --read-only", "--read-only: console has no use for it"),
        ("rng --queues 1", "--queues: rng has no use for it"),
        ("block", "block needs one FILE, got 0"),
    ],
)
def test_misuse(hfsched: Start, tmp_path: Path, line: str, said: str) -> None:
    refused = hfsched("device", *line.split(), "--socket", "front-end", cwd=tmp_path)
    assert refused.wait() == 2, refused.out
    assert said in refused.err
    assert {path.name for path in tmp_path.iterdir()} == {"guests.py"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vsock --cid 2 --uds uds", "CID 2: 3 to 4294967294"),
        ("vsock --cid 3 --uds missing/uds", "missing/uds: no directory missing"),
        ("vsock --cid 3 --uds taken", "taken: another program listens there"),
        ("console --connect missing", "missing: No such file or directory"),
        ("console --listen taken", "taken: another program listens there"),
    ],
)
def test_what_cannot_be_opened(hfsched: Start, tmp_path: Path, line: str, said: str) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "taken"))
        taken.listen()
        refused = hfsched("device", *line.split(), "--socket", "front-end", cwd=tmp_path)
        assert refused.wait() == 1, refused.out
        assert said in refused.err
    assert {path.name for path in tmp_path.iterdir()} == {"guests.py", "taken"}


@pytest.mark.parametrize(
    ("number", "said"),
    [("1", "a standard descriptor"), ("999", "Bad file descriptor"), ("-1", "descriptor")],
)
def test_descriptors_that_are_no_socket(hfsched: Start, number: str, said: str) -> None:
    refused = hfsched("device", "rng", "--fd", number)
    assert refused.wait() == 1, refused.out
    assert f"--fd {number}: " in refused.err
    assert said in refused.err


def test_a_connection_is_served_until_it_ends() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "hfsched", "device", "rng", "--fd", str(theirs.fileno())]
        served = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        ours.sendall(encode_header(RequestId.GET_FEATURES, 0, HeaderFlag(0)))
        assert len(ours.recv(20, socket.MSG_WAITALL)) == 20
        ours.close()
        assert served.wait(60) == 0
