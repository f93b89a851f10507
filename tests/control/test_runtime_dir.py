"""The directories of sockets: one for each machine, owned by the user, removed at the end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched.control import runtime_dir, user_dir
from hfsched.errors import UserError

from .harness import WITHIN, runtime_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

FALLBACK = user_dir._FALLBACK


@pytest.fixture(autouse=True)
def xdg() -> Iterator[Path]:
    with runtime_directory() as path:
        yield path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_directories_are_0700_and_the_socket_is_0600_for_any_umask(xdg: Path) -> None:
    before = os.umask(0)
    try:
        with runtime_dir.claim("demo") as directory, directory.listen("ports"):
            assert directory.path == xdg / "hfsched" / "demo"
            assert mode(xdg / "hfsched") == 0o700
            assert mode(directory.path) == 0o700
            assert mode(directory.path / "ports") == 0o600
    finally:
        os.umask(before)


def test_nothing_is_left_at_the_end(xdg: Path) -> None:
    with runtime_dir.claim("demo") as directory, directory.listen("ports"):
        assert runtime_dir.port_sockets()["demo"] == directory.path / "ports"
    assert list((xdg / "hfsched").iterdir()) == []


def test_a_machine_that_was_killed_is_not_among_those_that_run(xdg: Path) -> None:
    directory = runtime_dir.claim("demo")
    directory.listen("ports").close()  # as the kernel does
    assert (xdg / "hfsched" / "demo" / "ports").exists()
    assert "demo" not in runtime_dir.port_sockets()
    directory.close()


def test_a_machine_without_a_name_is_called_after_its_process() -> None:
    with runtime_dir.claim() as directory:
        assert directory.name == f"m{os.getpid()}"


def test_a_running_machine_keeps_its_name() -> None:
    with runtime_dir.claim("demo") as first, first.listen("ports"):
        with pytest.raises(UserError, match="'demo' is running"):
            runtime_dir.claim("demo")
        assert (first.path / "ports").exists()


def test_copies_have_the_first_numbers_that_are_free() -> None:
    with (
        runtime_dir.claim("demo"),
        runtime_dir.claim_numbered("demo") as second,
        runtime_dir.claim("demo-3"),
        runtime_dir.claim_numbered("demo") as fourth,
    ):
        assert (second.name, fourth.name) == ("demo-2", "demo-4")
        second.close()
        with runtime_dir.claim_numbered("demo") as again:
            assert again.name == "demo-2"
    with runtime_dir.claim_numbered("x" * 63) as long:
        assert long.name == "x" * 61 + "-2"


def test_no_number_is_free(monkeypatch: pytest.MonkeyPatch, xdg: Path) -> None:
    monkeypatch.setattr(runtime_dir, "_NUMBERS", range(2, 4))
    with (
        runtime_dir.claim_numbered("demo"),
        runtime_dir.claim_numbered("demo"),
        pytest.raises(UserError, match="demo-2 to demo-3 are running: give a --name"),
    ):
        runtime_dir.claim_numbered("demo")
    (xdg / "hfsched").chmod(0o777)
    with pytest.raises(UserError, match="hfsched"):
        runtime_dir.claim_numbered("demo")


def test_a_dead_machines_leftovers_are_replaced(xdg: Path) -> None:
    left = xdg / "hfsched" / "demo"
    left.mkdir(0o700, parents=True)
    (left / "lock").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(left / "ports"))
    (left / "other").touch()
    with runtime_dir.claim("demo") as directory:
        assert not (left / "ports").exists()
        assert not (left / "other").exists()
        with directory.listen("ports") as listener, socket.socket(*FAMILY) as client:
            client.connect(str(left / "ports"))
            listener.accept()[0].close()


FAMILY = (socket.AF_UNIX, socket.SOCK_SEQPACKET)


def test_a_lock_that_was_removed_meanwhile_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, xdg: Path
) -> None:
    """Its last holder removes the file just after we opened it: the lock that we get protects nothing."""
    calls: list[int] = []
    flock = fcntl.flock

    def late(lock: int, how: int) -> None:
        if not stat.S_ISDIR(os.fstat(lock).st_mode):
            if not calls:
                (xdg / "hfsched" / "demo" / "lock").unlink()
            calls.append(lock)
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with runtime_dir.claim("demo"), pytest.raises(UserError, match="is running"):
        runtime_dir.claim("demo")
    assert len(calls) == 4  # the second claim has also asked whether the machine is dead


def test_of_many_that_want_one_name_one_has_it_at_a_time() -> None:
    holders, most, refused, taken = 0, 0, 0, 0
    guard = threading.Lock()
    start = threading.Barrier(4)

    def worker() -> None:
        nonlocal holders, most, refused, taken
        start.wait(WITHIN)
        for _ in range(60):
            try:
                directory = runtime_dir.claim("demo")
            except UserError:
                with guard:
                    refused += 1
                continue
            with guard:
                holders += 1
                taken += 1
                most = max(most, holders)
            os.sched_yield()
            with guard:
                holders -= 1
            directory.close()

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN)
    assert most == 1
    assert taken + refused == 240


@pytest.mark.parametrize("name", ["../demo", "a/b", ".hidden", "a b", "x" * 64, "\u00e4"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="machine name"):
        runtime_dir.claim(name)


def test_a_path_too_long_for_a_socket_is_refused_with_the_limit(xdg: Path) -> None:
    long = xdg / ("d" * 60)
    long.mkdir(0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(long)
    with runtime_dir.claim("n" * 40) as directory, pytest.raises(UserError, match="at most 106"):
        directory.listen("ports")
    assert list((long / "hfsched").iterdir()) == []


def test_a_directory_that_others_can_write_is_refused(xdg: Path) -> None:
    (xdg / "hfsched").mkdir()
    (xdg / "hfsched").chmod(0o770)
    with pytest.raises(UserError, match="can be written by others"):
        runtime_dir.claim("demo")
    assert "demo" not in runtime_dir.port_sockets()


def test_a_symbolic_link_is_refused(xdg: Path) -> None:
    (xdg / "elsewhere").mkdir(0o700)
    (xdg / "hfsched").symlink_to("elsewhere")
    with pytest.raises(UserError, match="is not a directory"):
        runtime_dir.claim("demo")


def test_a_symbolic_link_as_the_machines_directory_is_refused(xdg: Path) -> None:
    (xdg / "elsewhere").mkdir(0o700)
    (xdg / "hfsched").mkdir(0o700)
    (xdg / "hfsched" / "demo").symlink_to("../elsewhere")
    with pytest.raises(UserError, match="is not a directory"):
        runtime_dir.claim("demo")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_refused(xdg: Path) -> None:
    (xdg / "hfsched").mkdir(0o700)
    os.chown(xdg / "hfsched", 65534, 65534)
    with pytest.raises(UserError, match="belongs to user 65534: remove it, or set XDG_RUNTIME"):
        runtime_dir.claim("demo")


@pytest.mark.parametrize("what", ["directory", "link", "file"])
@pytest.mark.parametrize("value", [None, "relative"])
def test_what_another_user_put_there_is_not_to_be_removed_by_us(
    xdg: Path, monkeypatch: pytest.MonkeyPatch, what: str, value: str | None
) -> None:
    """In a sticky /tmp we cannot; the remedy is tried too."""
    root = xdg / "hfsched-7"
    if what == "directory":
        root.mkdir(0o700)
    elif what == "link":
        root.symlink_to(xdg)
    else:
        root.touch()
    monkeypatch.setattr(os, "geteuid", lambda: 7)  # and what is there is not that user's
    monkeypatch.setattr(user_dir, "_FALLBACK", xdg)
    if value is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    with pytest.raises(UserError) as refused:
        runtime_dir.claim("demo")
    why = "belongs to user 0" if what == "directory" else "is not a directory"
    also = "" if value is None else "; now it is relative, which is not an absolute path"
    assert str(refused.value).replace(f"user {os.getuid()}", "user 0") == (
        f"{root} {why}: set XDG_RUNTIME_DIR to a directory of your own, such as one made by"
        f" `mkdir -m 700 ~/.hfsched`{also}"
    )
    monkeypatch.setattr(os, "geteuid", os.getuid)
    own = xdg / ".hfsched"
    own.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
    with runtime_dir.claim("demo") as directory:
        assert directory.path == own / "hfsched" / "demo"


# What crashed machines have left.


def crashed(root: Path, name: str) -> Path:
    """Have a machine die that had two sockets; return its directory."""
    child = os.fork()
    if child == 0:
        directory = runtime_dir.claim(name)
        for what in ("ports", "control"):
            directory.listen(what)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    return root / name


def test_the_directories_of_crashed_machines_are_removed_by_the_next_run(
    xdg: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = xdg / "hfsched"
    monkeypatch.setattr(user_dir, "_FALLBACK", tmp_path)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    elsewhere = crashed(tmp_path / f"hfsched-{os.geteuid()}", "without-xdg")
    assert {each.name for each in elsewhere.iterdir()} == {"lock", "ports", "control"}
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(xdg))
    with runtime_dir.claim("lives") as lives, lives.listen("ports"):
        dead = [crashed(root, "a"), crashed(root, "b")]
        (root / "before-its-lock").mkdir(0o700)
        assert dead[1].exists()
        with runtime_dir.claim("next"):
            assert {each.name for each in root.iterdir()} == {"lives", "next"}
            assert {each.name for each in lives.path.iterdir()} == {"lock", "ports"}
            assert not elsewhere.exists()


def test_a_crashed_machines_pid_may_be_in_use_by_now(xdg: Path) -> None:
    """Its lock decides."""
    left = xdg / "hfsched" / f"m{os.getppid()}"
    left.mkdir(0o700, parents=True)
    (left / "lock").touch()
    with runtime_dir.claim("demo"):
        assert not left.exists()


def test_what_is_no_machines_directory_is_kept(xdg: Path) -> None:
    root = xdg / "hfsched"
    root.mkdir(0o700)
    (xdg / "other").mkdir()
    (xdg / "other" / "lock").touch()
    (root / "link").symlink_to("../other")
    (root / ".hidden").mkdir()
    (root / "file").touch()
    (root / "notes").mkdir(0o700)
    for name in ("lock", "note"):
        (root / "notes" / name).touch()
    (root / "trap").mkdir(0o700)
    os.mkfifo(root / "trap" / "lock")
    with runtime_dir.claim("demo"):
        assert {each.name for each in root.iterdir()} >= {"link", ".hidden", "file", "notes"}
        assert (xdg / "other" / "lock").exists()
        assert (root / "notes" / "note").exists()


def test_looking_for_leftovers_refuses_no_other_machine_its_name(
    xdg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is looked at just then has no lock of another's to fear."""
    left = xdg / "hfsched" / "demo"
    left.mkdir(0o700, parents=True)
    (left / "lock").touch()
    claimed: list[str] = []

    def claim() -> None:
        with runtime_dir.claim("demo") as directory:
            claimed.append(directory.name)

    other = threading.Thread(target=claim)
    flock = fcntl.flock

    def slow(lock: int, how: int) -> None:
        flock(lock, how)
        is_dead_one = Path(f"/proc/self/fd/{lock}").readlink() == left / "lock"
        if is_dead_one and threading.current_thread() is not other:
            other.start()
            other.join(0.1)  # it waits for us

    monkeypatch.setattr(fcntl, "flock", slow)
    with runtime_dir.claim("next"):
        other.join(WITHIN)
    assert claimed == ["demo"]


@pytest.mark.parametrize("value", ["", "relative", "/nowhere/at/all"])
def test_without_a_usable_xdg_runtime_dir_there_is_tmp(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    os.environ["XDG_RUNTIME_DIR"] = value
    monkeypatch.setattr(user_dir, "_FALLBACK", FALLBACK)
    assert user_dir.roots() == [Path(f"/tmp/hfsched-{os.geteuid()}")]


def test_a_client_also_looks_where_a_machine_without_xdg_lies(xdg: Path) -> None:
    assert user_dir.roots() == [xdg / "hfsched", xdg / f"hfsched-{os.geteuid()}"]


# A socket at a path of the user's choice.


def test_a_link_as_a_sockets_path_is_refused_by_its_target(xdg: Path) -> None:
    (xdg / "link").symlink_to("elsewhere")
    with (
        runtime_dir.claim("demo") as directory,
        pytest.raises(UserError, match="link: a link to elsewhere: name the socket itself"),
    ):
        directory.listen_at(xdg / "link")
    assert (xdg / "link").is_symlink()
    assert not (xdg / "elsewhere").exists()


def test_a_file_as_a_sockets_path_is_refused_and_kept(xdg: Path) -> None:
    (xdg / "file").write_text("precious")
    with (
        runtime_dir.claim("demo") as directory,
        pytest.raises(UserError, match="file: not a socket: choose another path"),
    ):
        directory.listen_at(xdg / "file")
    assert (xdg / "file").read_text() == "precious"


def test_what_replaced_a_socket_meanwhile_is_not_removed(xdg: Path) -> None:
    with runtime_dir.claim("demo") as directory, directory.listen_at(xdg / "s"):
        (xdg / "s").unlink()
        (xdg / "s").write_text("another's")
    assert (xdg / "s").read_text() == "another's"


@pytest.mark.parametrize("own", [True, False])
def test_a_socket_has_its_path_only_once_somebody_listens(
    xdg: Path, monkeypatch: pytest.MonkeyPatch, *, own: bool
) -> None:
    given: list[Path] = []
    real_bind = socket.socket.bind

    class Watched(socket.socket):
        def bind(self, address: str) -> None:  # type: ignore[override]
            real_bind(self, address)
            assert not path.exists()

        def listen(self, backlog: int = 0) -> None:
            assert not path.exists()
            super().listen(backlog)
            given.append(path)

    monkeypatch.setattr("hfsched.control.named_socket.socket.socket", Watched)
    with runtime_dir.claim("demo") as directory:
        path = directory.path / "ports" if own else xdg / "s"
        (directory.listen("ports") if own else directory.listen_at(path)).close()
        assert given == [path]
        assert sorted(each.name for each in path.parent.iterdir() if each.is_socket()) == [
            path.name
        ]


def test_a_socket_of_another_that_came_meanwhile_is_not_replaced(
    xdg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rival(socket.socket):
        def listen(self, backlog: int = 0) -> None:
            super().listen(backlog)
            (xdg / "s").touch()

    monkeypatch.setattr("hfsched.control.named_socket.socket.socket", Rival)
    with (
        runtime_dir.claim("demo") as directory,
        pytest.raises(UserError, match=r"s: the socket cannot be created: File exists"),
    ):
        directory.listen_at(xdg / "s")
    assert (xdg / "s").is_file()
    assert not (xdg / ".s").exists()
