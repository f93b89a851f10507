"""Directories of layers: whole or not there, and opened without trust."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hfsched.errors import SnapshotError
from hfsched.snapshot import directory
from hfsched.snapshot.chain import Chain
from hfsched.snapshot.compare import merge
from hfsched.snapshot.directory import make_layer, making_layer, open_chain, open_layers
from hfsched.snapshot.index import Parent
from hfsched.snapshot.layer import LayerWriter, Subject

from .layers import contents, page, read, save, subject, write

FULL = write(subject(40), {(0, number): page(number % 7) for number in range(40)})


@pytest.fixture(autouse=True)
def _no_descriptors_are_left(descriptors: Callable[[], int]) -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


def fill(path: Path, made: Subject | None = None, seed: int = 1) -> bytes:
    """Write a layer of 40 pages; return its hash."""
    made = made or subject(40)
    with make_layer(path) as files:
        writer = LayerWriter(str(path), files.pages_fd, files.index_fd, made)
        for number in range(40):
            writer.put(0, number, page(seed + 2 * number))
        return writer.finish({})


def refused(path: Path) -> str:
    with pytest.raises(SnapshotError) as found:
        open_chain(path).close()
    text = str(found.value)
    assert "\n" not in text
    return text


def test_made_whole(tmp_path: Path) -> None:
    os.umask(umask := os.umask(0o277))
    old = os.umask(0o277)
    try:
        fill(tmp_path / "a")
    finally:
        os.umask(old)
    assert umask == old
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert {each.name for each in (tmp_path / "a").iterdir()} == {"index", "pages"}


def test_one_that_exists_is_refused_also_when_it_comes_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("x")
    for path in [*tmp_path.iterdir()]:
        with pytest.raises(SnapshotError, match="there is one already"), make_layer(path):
            pytest.fail("it was made")
    late = tmp_path / "late"
    with pytest.raises(SnapshotError, match="late: there is one already"), make_layer(late):
        late.mkdir()  # rename(2) would replace it, since it is empty
    assert [*late.iterdir()] == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder", "late", "link"]


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), make_layer(tmp_path / "a"):
        raise ZeroDivisionError
    assert [*tmp_path.iterdir()] == []


def test_a_limit_of_file_sizes_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    chain = Chain([read(*write(subject(600), {(0, n): page(2 * n + 2) for n in range(600)}))])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(SnapshotError) as found:
            merge(chain, tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(found.value) == (
        f"{tmp_path}/a/pages: cannot be written: File too large (ulimit -f is 1024 KiB)"
    )
    assert [*tmp_path.iterdir()] == []
    chain.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted")
    try:
        chain = Chain([read(*write(subject(100), {(0, n): page(2 * n + 2) for n in range(100)}))])
        with pytest.raises(SnapshotError) as found:
            merge(chain, tmp_path / "a")
        assert str(found.value) == (
            f"{tmp_path}/a/pages: cannot be written: No space left on device"
        )
        assert [*tmp_path.iterdir()] == []
        chain.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


KILLED = """
import os, signal, sys
from hfsched.snapshot.directory import make_layer
with make_layer(sys.argv[1]) as made:
    os.write(made.pages_fd, b"x")
    print(flush=True)
    signal.pause()
"""


def test_a_client_that_dies_leaves_nothing_that_looks_like_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "old")
    killed = [sys.executable, "-c", KILLED, str(tmp_path / "new")]
    with subprocess.Popen(killed, stdout=subprocess.PIPE) as client, ExitStack() as undo:
        assert client.stdout is not None
        undo.callback(client.kill)
        client.stdout.readline()
        (left,) = (each for each in tmp_path.iterdir() if each.name != "old")
        assert refused(left) == f"{left}: not finished: its writer has died, or still writes"
        monkeypatch.setattr(directory, "_FRESH", -1)
        fill(tmp_path / "meanwhile")
        assert left.exists(), "its client lives"
    assert not (tmp_path / "new").exists()
    fill(tmp_path / "next")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["meanwhile", "next", "old"]
    open_chain(tmp_path / "old").close()


def test_a_directory_that_vanishes_while_it_is_written(tmp_path: Path) -> None:
    def vanish() -> None:
        (made,) = tmp_path.iterdir()
        for each in made.iterdir():
            each.unlink()
        made.rmdir()

    with pytest.raises(SnapshotError, match=r"a: no such directory$"), make_layer(tmp_path / "a"):
        vanish()
    assert [*tmp_path.iterdir()] == []


def test_a_directory_that_vanishes_is_read_to_its_end(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    chain = open_chain(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    assert contents(chain)[0, 3] == page(7)
    chain.close()
    assert refused(tmp_path / "a") == f"{tmp_path}/a: no such directory"
    assert refused(tmp_path / "b" / "a") == f"{tmp_path}/b: no such directory"


def test_a_chain_by_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fill(tmp_path / "a")
    second = fill(tmp_path / "b", subject(40, parent=Parent("a", first)), seed=101)
    fill(tmp_path / "c", subject(40, parent=Parent("b", second)), seed=201)
    tmp_path = tmp_path.rename(tmp_path.parent / "elsewhere")
    monkeypatch.chdir(tmp_path / "c")
    for path in (tmp_path / "c", Path("../c"), Path()):
        chain = open_chain(path)
        assert len(chain.layers) == 3
        assert contents(chain)[0, 0] == page(201)
        chain.close()
    (tmp_path / "a").rename(tmp_path / "x")
    assert refused(tmp_path / "c") == (
        f"{tmp_path}/b: a hole in the chain: its parent {tmp_path}/a is missing"
    )
    layers, problem = open_layers(tmp_path / "c")
    assert [layer.name for layer in layers] == [f"{tmp_path}/c", f"{tmp_path}/b"]
    assert problem is not None
    for layer in layers:
        layer.close()
    other = fill(tmp_path / "a", subject(40, created=9))
    assert refused(tmp_path / "c") == (
        f"{tmp_path}/b: a foreign parent: {tmp_path}/a has hash {other.hex()[:16]},"
        f" not {first.hex()[:16]}"
    )


def test_a_chain_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "CHAIN_MAX", 2)
    found = fill(tmp_path / "0")
    for at in (1, 2):
        found = fill(tmp_path / f"{at}", subject(40, parent=Parent(f"{at - 1}", found)))
    open_chain(tmp_path / "1").close()
    assert refused(tmp_path / "2") == f"{tmp_path}/2: a chain of more than 2 layers"


def test_links_are_not_followed(tmp_path: Path) -> None:
    real = save(tmp_path / "real", FULL)
    (tmp_path / "link").symlink_to(real)
    assert refused(tmp_path / "link") == f"{tmp_path}/link: a link: name the directory itself"
    (real / "pages").rename(tmp_path / "pages")
    (real / "pages").symlink_to(tmp_path / "pages")
    assert refused(real) == f"{real}/pages: a link"


def test_what_is_no_snapshot(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    assert refused(tmp_path / "empty").endswith("empty: not a snapshot: it has no file 'index'")
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == f"{tmp_path}/file: not a directory"
    assert refused(Path("/")) == "/: not a directory for a snapshot"
    assert refused(tmp_path / "a\0b").endswith("not a valid file name")
    fifo = save(tmp_path / "fifo", FULL)
    (fifo / "pages").unlink()
    os.mkfifo(fifo / "pages", 0o600)
    assert refused(fifo) == f"{fifo}/pages: not a regular file"


def test_what_others_can_write_is_refused(tmp_path: Path) -> None:
    made = save(tmp_path / "a", FULL)
    for path in (made, made / "index", made / "pages"):
        mode = path.stat().st_mode & 0o777
        path.chmod(mode | 0o020)
        assert refused(made) == (
            f"{path}: others can write it (mode {mode | 0o020:04o}): chmod go-w"
        )
        path.chmod(mode | 0o055)
        open_chain(made).close()
        path.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_another_user_is_refused(tmp_path: Path) -> None:
    made = save(tmp_path / "a", FULL)
    for path in (made, made / "index", made / "pages"):
        os.chown(path, 12345, -1)
        assert refused(made) == f"{path}: belongs to user 12345, not to 0"
        os.chown(path, 0, -1)


NOBODY = """
import os, sys
from hfsched.errors import SnapshotError
from hfsched.snapshot.directory import make_layer, open_chain
if os.geteuid() == 0:
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
for what in (lambda: open_chain(sys.argv[1]), lambda: make_layer(sys.argv[2]).__enter__()):
    try:
        what()
    except SnapshotError as error:
        print(error)
"""


def test_no_permission() -> None:
    with TemporaryDirectory() as folder:  # pytest's own are closed to other users
        here = Path(folder)
        made = save(here / "a", FULL)
        made.chmod(0)
        here.chmod(0o555)
        code = NOBODY if os.geteuid() == 0 else NOBODY.replace("geteuid() == 0", "geteuid() < 0")
        done = subprocess.run(
            [sys.executable, "-c", code, made, here / "b"],
            capture_output=True,
            text=True,
            check=False,
        )
        made.chmod(0o700)
        here.chmod(0o700)
        assert done.stdout.splitlines() == [
            f"{here}/a: no permission",
            f"{here}/b: no permission",
        ], done.stderr


def test_a_name_of_what_is_unfinished_is_refused(tmp_path: Path) -> None:
    """It could not be opened, and the next who writes there would remove it."""
    path = tmp_path / ".hfsched-snapshot-night"
    with (
        pytest.raises(SnapshotError, match="are of unfinished ones: choose another"),
        make_layer(path),
    ):
        pass
    assert [*tmp_path.iterdir()] == []


def test_whatever_comes_before_it_is_kept_leaves_nothing(tmp_path: Path) -> None:
    with making_layer(tmp_path / "a") as making:
        making.publish()
        assert (tmp_path / "a" / "index").exists()
    assert [*tmp_path.iterdir()] == []


def test_what_has_taken_the_name_meanwhile_is_left(tmp_path: Path) -> None:
    with making_layer(tmp_path / "a") as making:
        making.publish()
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "a").mkdir()
    assert {each.name for each in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.parametrize("kind", [stat.S_ISREG, stat.S_ISDIR])
def test_an_error_of_fsync_is_one_line_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[int], bool]
) -> None:
    def fsync(fd: int) -> None:
        if kind(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SnapshotError, match=r"/a(/pages)?: Input/output error$"):
        fill(tmp_path / "a")
    assert [*tmp_path.iterdir()] == []
