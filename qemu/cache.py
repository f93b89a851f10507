"""What was built before: entries of a cache directory, each a directory of files.

An entry's name ends in the hash of what it was made from. It is made under another name and
renamed when whole, with a lock held, so that nobody ever uses a half-made one and two processes do
not make the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import MachineError

__all__ = ["Cache", "default_directory", "key_of"]


def default_directory() -> Path:
    """Return $HFSCHED_QEMU_CACHE, or hfsched/qemu where the user's caches are."""
    if own := os.environ.get("HFSCHED_QEMU_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says that a relative path is to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "hfsched" / "qemu"


def key_of(*parts: str | bytes) -> str:
    """Return a name for these contents: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:16]


class Cache:
    """A cache directory; `report` is told one line when something is made or waited for."""

    def __init__(
        self, directory: Path | None = None, report: Callable[[str], None] = lambda _line: None
    ) -> None:
        self.directory = directory or default_directory()
        self.report = report

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of that name, against other processes too."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.directory / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise MachineError(
                f"cannot use the cache {self.directory} ({error.strerror}); "
                "HFSCHED_QEMU_CACHE names another directory"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.report(f"waiting for another process that makes the {name} ...")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def entry(self, name: str, key: str, make: Callable[[Path], object], *, keep: int = 0) -> Path:
        """Return the entry, made now by `make` (which fills an empty directory) if need be.

        With `keep`, only so many entries of this name stay, those used last.
        """
        path = self.directory / f"{name}-{key}"
        if not path.is_dir():
            with self.lock(name):
                if not path.is_dir():
                    self._make(path, name, make)
                    if keep:
                        self._forget(name, keep)
        os.utime(path)
        return path

    def _make(self, path: Path, name: str, make: Callable[[Path], object]) -> None:
        for left in self.directory.glob(f".{name}-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        began = time.monotonic()
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.directory))
        try:
            make(aside)
            aside.rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self.report(f"made the {name} in {time.monotonic() - began:.1f} s")

    def _forget(self, name: str, keep: int) -> None:
        entries = sorted(self.directory.glob(f"{name}-*"), key=lambda path: -path.stat().st_mtime)
        for old in entries[keep:]:
            shutil.rmtree(old, ignore_errors=True)
