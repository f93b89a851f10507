"""The watcher of the running execution, to which the hooks report."""

from __future__ import annotations

from hfsched.explore.watch.history import Site
from hfsched.explore.watch.watcher import Watcher

__all__ = ["active", "install", "installed"]

_watcher: Watcher | None = None


def install(watcher: Watcher | None) -> None:
    """Report to this watcher; None: to none."""
    global _watcher  # noqa: PLW0603 - watched code is the process's
    _watcher = watcher


def installed() -> Watcher | None:
    """Return the watcher, also where accesses do not count."""
    return _watcher


def active(site: Site) -> Watcher | None:
    """Return the watcher if an access at this site counts."""
    watcher = _watcher
    return watcher if watcher is not None and watcher.begin(site) else None
