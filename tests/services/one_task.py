"""A runtime of one task: time stands still unless a test moves it, and a step can be put before a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hfsched.runtime.base import Runtime


class OneLock:
    """A lock; `before` is called once, when it is taken next, by who comes first instead."""

    def __init__(self) -> None:
        self.before: Callable[[], None] | None = None
        self.held = False

    def __enter__(self) -> None:
        before, self.before = self.before, None
        if before is not None:
            before()
        assert not self.held, "a lock taken twice"
        self.held = True

    def __exit__(self, *_error: object) -> None:
        self.held = False


class OneEvent:
    def __init__(self) -> None:
        self.flag = False

    def set(self) -> None:
        self.flag = True

    def clear(self) -> None:
        self.flag = False

    def is_set(self) -> bool:
        return self.flag

    def wait(self, _deadline: int | None = None) -> bool:
        return self.flag

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        raise AssertionError("nobody sleeps here")


class OneTask:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.time = 0
        self.locks: dict[str, OneLock] = {}

    def lock(self, name: str, **_options: Any) -> OneLock:
        return self.locks.setdefault(name, OneLock())

    def event(self, _name: str) -> OneEvent:
        return OneEvent()

    def now(self) -> int:
        return self.time

    def retain_only(self, *_live: object, level: int = 0) -> None:
        pass


def one_task() -> tuple[OneTask, Runtime]:
    """Return the same object twice, for a test and as what it is to the code under test."""
    made: Any = OneTask()
    return made, made
