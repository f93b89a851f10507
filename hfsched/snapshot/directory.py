"""The client's side: makes and opens the directories of layers, the only module that opens a path.

A layer is written in a directory with a temporary name beside its own, and renamed when all of it is on
the disk.  A client that dies leaves such a directory; the next one that writes beside it removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from hfsched.errors import SnapshotError
from hfsched.limits import cause
from hfsched.snapshot.chain import Chain
from hfsched.snapshot.index import Parent
from hfsched.snapshot.layer import Layer, read_layer
from hfsched.text import printable

__all__ = [
    "CHAIN_MAX",
    "Made",
    "Making",
    "make_layer",
    "making_layer",
    "name_of",
    "open_chain",
    "open_layer",
    "open_layers",
]

CHAIN_MAX = 256  # layers
_UNFINISHED = ".hfsched-snapshot-"
_FRESH = 60  # seconds
_FILES = ("pages", "index")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SEARCH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_MAKE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOREPLACE = 1  # renameat2(2)


class Made(NamedTuple):
    """The descriptors of a layer's empty files."""

    pages_fd: int
    index_fd: int


def _place(path: str | Path) -> tuple[Path, str]:
    """Return the folder of a layer's directory, and its name there."""
    if not str(path):
        raise SnapshotError("'': an empty name: give the directory of a snapshot")
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link
    if not absolute.name:
        raise SnapshotError(f"{printable(str(path))}: not a directory for a snapshot")
    return absolute.parent, absolute.name


def name_of(path: str | Path) -> str:
    """Return the name of a layer's directory; raises SnapshotError for a path that has none."""
    return _place(path)[1]


@contextmanager
def _errors(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise SnapshotError(f"{printable(str(path))}: {_reason(exc)}") from exc
    except ValueError:  # a NUL
        raise SnapshotError(f"{printable(str(path))}: not a valid file name") from None


def _reason(exc: OSError) -> str:
    reasons = {
        errno.ELOOP: "a link: name the directory itself",
        errno.ENOENT: "no such directory",
        errno.ENOTDIR: "not a directory",
        errno.EACCES: "no permission",
        errno.EPERM: "no permission",
        errno.EEXIST: "there is one already: choose another name",
    }
    return reasons.get(exc.errno or 0, cause(exc))


def _open_folder(folder: Path, flags: int = _SEARCH) -> int:
    with _errors(folder):
        return os.open(folder, flags)


class Making:
    """A layer's directory that is being made: `files` are its empty files, which the caller has written.

    Made by `making_layer`.
    """

    def __init__(self, path: str | Path, beside: int, temporary: str) -> None:
        self.kept = False  # whatever comes
        self._path = path
        self._folder, self._name = _place(path)
        self._beside = beside
        self._temporary = temporary
        self._closing = ExitStack()
        self._made: int | None = None
        self.files = Made(-1, -1)

    def begin(self) -> None:
        """Make the files; raises SnapshotError."""
        with _errors(self._path):
            made = self._made = os.open(
                self._temporary, _FOLDER | os.O_NOFOLLOW, dir_fd=self._beside
            )
            self._closing.callback(os.close, made)
            os.fchmod(made, 0o700)  # whatever the umask
            fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)  # this client lives: see `_sweep`
            _sweep(self._beside, os.fstat(made).st_mtime)
            files = []
            for each in _FILES:
                files.append(os.open(each, _MAKE, 0o600, dir_fd=made))
                self._closing.callback(os.close, files[-1])
            self.files = Made(*files)

    def publish(self) -> None:
        """Have the files on the disk, and give the directory its name; raises SnapshotError."""
        assert self._made is not None
        for each, fd in zip(_FILES, self.files, strict=True):
            with _errors(f"{printable(str(self._path))}/{each}"):
                os.fsync(fd)
        with _errors(self._path):
            os.fsync(self._made)
            _rename(self._temporary, self._name, self._beside)
        with _errors(self._folder):
            os.fsync(self._beside)

    def end(self) -> None:
        """Remove what is there unless it is `kept`, and let go."""
        with self._closing:
            if self.kept:
                return
            _remove(self._temporary, self._beside)
            with suppress(OSError):  # it has its name, if that is not another one's
                there = os.lstat(self._name, dir_fd=self._beside)
                if self._made is not None and os.path.samestat(there, os.fstat(self._made)):
                    _remove(self._name, self._beside)


@contextmanager
def making_layer(path: str | Path) -> Iterator[Making]:
    """Make a layer's directory, mode 0700; raises SnapshotError.  At the end of the ``with`` it is removed unless it is `kept`.

    A directory that is there already is refused.
    """
    folder, name = _place(path)
    if name.startswith(_UNFINISHED):
        raise SnapshotError(
            f"{printable(str(path))}: names that begin with {_UNFINISHED} are of unfinished ones: choose another name"
        )
    with ExitStack() as undo:
        beside = _open_folder(folder, _FOLDER)
        undo.callback(os.close, beside)
        temporary = f"{_UNFINISHED}{os.getpid()}-{os.urandom(8).hex()}"
        making = Making(path, beside, temporary)
        undo.callback(making.end)
        with _errors(path):
            _refuse_existing(name, beside)
            os.mkdir(temporary, 0o700, dir_fd=beside)
        making.begin()
        yield making


@contextmanager
def make_layer(path: str | Path) -> Iterator[Made]:
    """Make a layer's directory, whole or not at all; raises SnapshotError.

    The caller of ``with`` has the two files written.  At its end they are on the disk, and the directory
    has its name; after an exception nothing is left.
    """
    with making_layer(path) as making:
        yield making.files
        making.publish()
        making.kept = True


def _refuse_existing(name: str, beside: int) -> None:
    with suppress(FileNotFoundError):
        os.lstat(name, dir_fd=beside)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _rename(source: str, target: str, folder: int) -> None:
    """Rename within a folder; unlike rename(2), refuse an empty directory that has come meanwhile."""
    call = ctypes.CDLL(None, use_errno=True).renameat2
    names = os.fsencode(source), os.fsencode(target)
    if call(folder, names[0], folder, names[1], ctypes.c_uint(_NOREPLACE)):
        error = ctypes.get_errno()
        if error not in (errno.EINVAL, errno.ENOSYS):  # the file system knows no such flag
            raise OSError(error, os.strerror(error))
        _refuse_existing(target, folder)
        os.rename(source, target, src_dir_fd=folder, dst_dir_fd=folder)


def _sweep(folder: int, now: float) -> None:
    """Remove what clients that died have left: a live one holds a lock on its directory.

    `now` is by the file system's clock: a client that has just made its directory has no lock yet.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            if not name.startswith(_UNFINISHED):
                continue
            with suppress(OSError):
                found = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                try:
                    status = os.fstat(found)
                    if status.st_uid == os.geteuid() and status.st_mtime < now - _FRESH:
                        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        _remove(name, folder)
                finally:
                    os.close(found)


def _remove(name: str, folder: int) -> None:
    """Remove a layer's directory as far as it can be."""
    with suppress(OSError):
        found = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        try:
            # The index first: without it nothing looks like a layer.
            for each in reversed(_FILES):
                with suppress(FileNotFoundError):
                    os.unlink(each, dir_fd=found)
        finally:
            os.close(found)
        os.rmdir(name, dir_fd=folder)


def _check_owned(shown: str, fd: int, kind: str) -> None:
    """Raise SnapshotError for a file of another user, or one that others can write."""
    status = os.fstat(fd)
    if kind == "file" and not stat.S_ISREG(status.st_mode):
        raise SnapshotError(f"{shown}: not a regular file")
    if status.st_uid not in (os.geteuid(), 0):
        raise SnapshotError(f"{shown}: belongs to user {status.st_uid}, not to {os.geteuid()}")
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise SnapshotError(f"{shown}: others can write it (mode {mode:04o}): chmod go-w")


def _open_file(shown: str, name: str, folder: int) -> int:
    file = f"{shown}/{name}"
    try:
        fd = os.open(name, _OPEN, dir_fd=folder)
    except FileNotFoundError:
        raise SnapshotError(f"{shown}: not a snapshot: it has no file '{name}'") from None
    except OSError as exc:
        why = "a link" if exc.errno == errno.ELOOP else _reason(exc)
        raise SnapshotError(f"{file}: {why}") from exc
    try:
        _check_owned(file, fd, "file")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_in(shown: str, name: str, beside: int) -> Layer:
    """Open the layer of that name in a folder."""
    if name.startswith(_UNFINISHED):
        raise SnapshotError(f"{shown}: not finished: its writer has died, or still writes")
    with ExitStack() as opened:
        with _errors(shown):
            try:
                found = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=beside)
            except NotADirectoryError:
                link = stat.S_ISLNK(os.lstat(name, dir_fd=beside).st_mode)
                error = errno.ELOOP if link else errno.ENOTDIR
                raise OSError(error, os.strerror(error)) from None
            opened.callback(os.close, found)
            _check_owned(shown, found, "directory")
            index = _open_file(shown, "index", found)
            opened.callback(os.close, index)
            pages = _open_file(shown, "pages", found)
        return read_layer(shown, index, pages)


def open_layer(path: str | Path) -> Layer:
    """Open one layer; raises SnapshotError."""
    folder, name = _place(path)
    beside = _open_folder(folder)
    try:
        return _open_in(printable(str(path)), name, beside)
    finally:
        os.close(beside)


def open_chain(path: str | Path) -> Chain:
    """Open a layer and all below it, which lie beside it; raises SnapshotError."""
    layers, problem = open_layers(path)
    if problem is not None:
        for layer in layers:
            layer.close()
        raise problem
    return Chain([*reversed(layers)])


def open_layers(path: str | Path) -> tuple[list[Layer], SnapshotError | None]:
    """Open a layer and those below it as far as possible, the newest first; and why not all."""
    layers: list[Layer] = []
    try:
        folder, name = _place(path)
        beside = _open_folder(folder)
    except SnapshotError as exc:
        return layers, exc
    shown = printable(str(path))
    try:
        layers.append(_open_in(shown, name, beside))
        while (parent := layers[-1].index.parent) is not None:
            if len(layers) == CHAIN_MAX:
                return layers, SnapshotError(f"{shown}: a chain of more than {CHAIN_MAX} layers")
            layers.append(_open_parent(shown, layers[-1], parent, beside))
    except SnapshotError as exc:
        return layers, exc
    finally:
        os.close(beside)
    return layers, None


def _open_parent(path: str, layer: Layer, parent: Parent, beside: int) -> Layer:
    shown = os.path.join(os.path.dirname(path), printable(parent.name))  # noqa: PTH118, PTH120
    try:
        os.lstat(parent.name, dir_fd=beside)
    except OSError:
        raise SnapshotError(
            f"{layer.name}: a hole in the chain: its parent {shown} is missing"
        ) from None
    made = _open_in(shown, parent.name, beside)
    if made.hash != parent.hash:
        made.close()
        raise SnapshotError(
            f"{layer.name}: a foreign parent: {shown} has hash {made.hash.hex()[:16]},"
            f" not {parent.hash.hex()[:16]}"
        )
    return made
