"""What a long bench has found so far, kept in a file, so that it goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock

__all__ = ["Journal"]

TOP = Path(__file__).resolve().parent.parent


class Journal:
    """Results by name, in a file of lines ``[name, result]`` under a digest of all that they depend on.

    `globs` are the files that they depend on, as patterns in the repository; if one of these has changed,
    what the file knows is dropped.  Without a path nothing is kept.  Used by several threads.
    """

    def __init__(self, path: Path | None, globs: Iterable[str]) -> None:
        self._path = path
        self._lock = Lock()
        self._known: dict[str, str] = {}
        if path is None:
            return
        digest = _digest(globs)
        lines = path.read_text().splitlines() if path.exists() else []
        if lines[:1] == [digest]:
            for line in lines[1:]:
                name, result = json.loads(line)
                self._known[name] = result
        else:
            path.write_text(f"{digest}\n")

    def get(self, name: str, find: Callable[[], str]) -> str:
        """Return the result of this name, as known, or from `find`."""
        if name not in self._known:
            result = find()
            with self._lock:
                self._known[name] = result
                if self._path is not None:
                    with self._path.open("a") as out:
                        out.write(json.dumps([name, result]) + "\n")
        return self._known[name]


def _digest(globs: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted({path for pattern in globs for path in TOP.glob(pattern)}):
        digest.update(f"{path.relative_to(TOP)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
