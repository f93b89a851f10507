"""Texts of a story's steps: operations, waiting tasks, and values of things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hfsched.explore.objects import XCell, XEnd, XEvent, XShared

if TYPE_CHECKING:
    from hfsched.explore.task import Task
    from hfsched.explore.thing import Thing

__all__ = ["changes", "operation_text", "plain_operation", "truncate", "value_text", "wait_text"]

VALUE_MAX = 40  # characters of a value


def operation_text(kind: str, thing: Thing | None) -> Callable[[], str] | None:
    """Return a function that describes an operation once it is done; None for a hidden operation."""
    if kind in _SILENT or kind.startswith("checkpoint "):
        return None
    name = "" if thing is None else thing.name
    if isinstance(thing, XCell):
        template = _CELLS.get(kind, f"{kind} {{}}: {{}}")
        return lambda: template.format(name, _short(thing.peek()))
    if isinstance(thing, XEvent):
        flag = thing.peek()
        if kind == "clear" and not flag:
            return None
        template = _EVENTS.get(kind, f"{kind} {{}}")
        return lambda: template.format(name, "set" if thing.peek() else "clear")
    if isinstance(thing, XEnd):
        return _channel(kind, thing)
    text = f"{kind} {name}".rstrip()
    return lambda: text


def _channel(kind: str, end: XEnd) -> Callable[[], str]:
    if kind == "recv":
        text = "reads the end of" if not end.inbox else f"receives {_short(end.inbox[0][0])} from"
        return lambda: f"{text} {end.name}"
    if kind == "send":
        count = len(end.inbox)

        def sent() -> str:
            if len(end.inbox) > count:
                return f"sends {_short(end.inbox[-1][0])} to {end.name}"
            return f"sends to {end.name}: closed"

        return sent
    return lambda: f"{kind} {end.name}"


# Operations that are hidden unless they change a watched value, or the task has slept in them.
_SILENT = frozenset({"lock", "start", "join", "now", "sleep", "wait", "select", "anything"})
_CELLS = {
    "get": "reads {}: {}",
    "put": "{} = {}",
    "exchange": "exchanges {}: now {}",
    "compare_and_set": "compares and sets {}: now {}",
}
_EVENTS = {"set": "sets {}", "clear": "clears {}", "is_set": "reads {}: {}"}


def plain_operation(task: Task) -> str:
    """Return the description of an operation, also of one that is usually hidden."""
    name = "" if task.thing is None else task.thing.name
    if task.kind == "lock":
        return f"takes {name}"
    return f"{task.kind} {name}".rstrip()


def wait_text(task: Task) -> str:
    """Return what a task that is not enabled waits for."""
    if task.kind == "lock":
        return "waits for " + ("a lock" if task.thing is None else task.thing.name)
    what = "" if task.thing is None else f", waiting for {task.thing.name}"
    until = "" if task.deadline is None else f" until {task.deadline} ns"
    if task.kind == "join":
        what = ", waiting for the end of another task"
    return f"sleeps{until}{what}"


def value_text(thing: Thing) -> str | None:
    """Return the displayed value of a thing, None if it has none."""
    if isinstance(thing, XCell | XShared):
        return _short(thing.peek())
    if isinstance(thing, XEvent):
        return "set" if thing.peek() else "clear"
    if isinstance(thing, XEnd):
        return f"{len(thing.inbox)} waiting" + (", closed" if thing.closed else "")
    return None


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return the values that have changed."""
    return "; ".join(
        f"{name}: {value}" for name, value in after.items() if before.get(name) != value
    )


def _short(value: object) -> str:
    return truncate(repr(value))


def truncate(text: str) -> str:
    """Return the text cut to `VALUE_MAX` characters."""
    return text if len(text) <= VALUE_MAX else text[: VALUE_MAX - 1] + "…"
