"""Hooks for variables: of closures, by a function that has the cell, and of modules, by name."""

from __future__ import annotations

import sys
from typing import Any

from hfsched.explore.watch.current import active
from hfsched.explore.watch.history import Site

__all__ = [
    "cell_assigned",
    "cell_read",
    "cell_written",
    "class_read",
    "global_assigned",
    "global_read",
    "global_written",
]


def cell_read(variable: Any, site: Site) -> None:
    """Report that a variable of a closure is read, just before it is."""
    watcher = active(site)
    if watcher is not None:
        watcher.item(variable.__closure__[0], _name(variable), write=False)


def cell_written(variable: Any, site: Site) -> None:
    """Report that a variable of a closure is written."""
    watcher = active(site)
    if watcher is not None:
        watcher.item(variable.__closure__[0], _name(variable), write=True)


def cell_assigned(variable: Any, value: Any, site: Site) -> Any:
    """Report that a variable of a closure is written; return the value."""
    cell_written(variable, site)
    return value


def _name(variable: Any) -> str:
    name: str = variable.__code__.co_freevars[0]
    return name


def global_read(name: str, site: Site) -> None:
    """Report that a variable of the module is read, if it is one."""
    watcher = active(site)
    if watcher is not None:
        frame = sys._getframe(1)
        variables = frame.f_globals
        if name in variables or name not in frame.f_builtins:
            watcher.item(variables, name, write=False)


def class_read(name: str, site: Site) -> None:
    """Report that a variable of the module is read by a class's body, unless the class has it."""
    watcher = active(site)
    if watcher is not None:
        frame = sys._getframe(1)
        variables = frame.f_globals
        if name not in frame.f_locals and (name in variables or name not in frame.f_builtins):
            watcher.item(variables, name, write=False)


def global_written(name: str, site: Site) -> None:
    """Report that a variable of the module is written."""
    watcher = active(site)
    if watcher is not None:
        watcher.item(sys._getframe(1).f_globals, name, write=True)


def global_assigned(name: str, value: Any, site: Site) -> Any:
    """Report that a variable of the module is written; return the value."""
    watcher = active(site)
    if watcher is not None:
        watcher.item(sys._getframe(1).f_globals, name, write=True)
    return value
