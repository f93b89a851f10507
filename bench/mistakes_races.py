"""Mistakes of concurrency, by kind: each turns correct code into a race, or into the loss of a wake-up.

- *wake before state*: a task is woken before what it is woken for; under a lock, before the lock is taken.
- *one woken*: a loop that wakes several tasks wakes the first of them.
- *no recheck*: a loop that waits for a condition looks at it once.
- *stale copy*: a value that is read first under a lock, or after a wait, is read before that.
- *check, then act*: the condition that begins a locked part is looked at before the lock is taken.
- *let go early*: the last statement of a locked part comes after it.
- *swapped*: two releases, closes or wakes come in the other order.
- *cleared late*: an event or a flag is cleared a statement later; under a lock, when that is let go.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from mistakes_places import Place, functions, statements

__all__ = ["KINDS", "find_races"]

_WAKES = {"set", "signal", "kick", "preempt", "inject", "wake", "notify"}
_CHANGES = {
    *("append", "appendleft", "add", "insert", "extend", "update", "set"),
    *("pop", "popleft", "remove", "discard"),
}
_RELEASES = {*_WAKES, "close", "release", "clear", "leave", "resume", "rest", "stop", "shutdown"}
_WAITS = {"wait", "select", "sleep_until", "join"}
_STALE = "_seen_before"

_Edit = Callable[[], None]


@dataclass(frozen=True)
class _Block:
    """A list of statements; `around` is the list that has the locked ``with`` whose body this is.

    `locked`: it is inside such a ``with``.
    """

    body: list[ast.stmt]
    locked: bool = False
    around: list[ast.stmt] | None = None
    lock: ast.With | None = None


_Kind = Callable[[_Block, int], "_Edit | None"]


def find_races(tree: ast.Module, wanted: Sequence[str] | None) -> list[Place]:
    """Return the places of a file, in the functions `wanted` (None: in all)."""
    found = []
    for name, function in functions(tree, wanted):
        if name.endswith("__init__"):
            continue  # nobody else has the object yet
        for block in _blocks(function):
            for index, statement in enumerate(block.body):
                for kind, look in KINDS.items():
                    edit = look(block, index)
                    if edit is not None:
                        found.append(Place(name, kind, statement.lineno, edit))
    return found


def _blocks(function: ast.FunctionDef) -> Iterator[_Block]:
    """Yield the lists of statements of a function, without those of functions inside it."""

    def inside(node: ast.AST, around: _Block | None) -> Iterator[_Block]:
        locked = around is not None and around.locked
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if not isinstance(body, list) or not body or not isinstance(body[0], ast.stmt):
                continue
            block = _Block(body, locked)
            if around is not None and isinstance(node, ast.With) and _is_locked(node):
                block = _Block(body, True, around.body, node)
            yield block
            for each in body:
                if not isinstance(each, ast.FunctionDef):
                    yield from inside(each, block)
        for each in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from inside(each, around)

    yield from inside(function, None)


# What a statement is.


def _called(statement: ast.stmt) -> tuple[str, int]:
    """Return the method that a statement calls and the number of its arguments; empty: it calls none."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        if isinstance(call.func, ast.Attribute):
            return call.func.attr, len(call.args)
    return "", 0


def _is_wake(statement: ast.stmt) -> bool:
    name, arguments = _called(statement)
    return name in _WAKES and not (name == "set" and arguments)  # `set(value)` is a cell's


def _is_change(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        flat = [
            each
            for target in targets
            for each in (target.elts if isinstance(target, ast.Tuple) else [target])
        ]
        return any(isinstance(each, ast.Attribute | ast.Subscript) for each in flat)
    if isinstance(statement, ast.Delete):
        return True
    return _called(statement)[0] in _CHANGES and not _is_wake(statement)


def _is_clearing(statement: ast.stmt) -> bool:
    if _called(statement) == ("clear", 0):
        return True
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Attribute)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value in (False, None)
    )


def _is_locked(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.With) and any(
        "lock" in ast.unparse(item.context_expr).lower() for item in statement.items
    )


def _waits(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.Call)
        and isinstance(each.func, ast.Attribute)
        and each.func.attr in _WAITS
        for each in ast.walk(node)
    )


def _ends(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Return | ast.Raise | ast.Continue | ast.Break)


# The kinds.


def _wake_before_state(place: _Block, index: int) -> _Edit | None:
    block = place.body
    if not _is_wake(block[index]):
        return None
    if place.locked:
        return _out_of_lock(place, index, after=False)
    before = _previous(block, index)
    if before is not None and (_is_change(block[before]) or _is_locked(block[before])):
        return partial(_move, block, index, before)
    return None


def _out_of_lock(place: _Block, index: int, *, after: bool) -> _Edit | None:
    """Move a statement of a locked part before it, or after it, unless it needs what is found there."""
    around, lock, body = place.around, place.lock, place.body
    if around is None or lock is None or len(statements(body)) < 2:
        return None
    made = {
        each.id
        for statement in body[:index]
        for each in ast.walk(statement)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }
    if not after and any(
        isinstance(each, ast.Name) and each.id in made for each in ast.walk(body[index])
    ):
        return None
    if after and _ends(body[-1]):
        return None
    return lambda: around.insert(around.index(lock) + after, body.pop(index))


def _one_woken(place: _Block, index: int) -> _Edit | None:
    block = place.body
    loop = block[index]
    if not isinstance(loop, ast.For) or not any(
        isinstance(each, ast.stmt) and _is_wake(each) for each in ast.walk(loop)
    ):
        return None

    def edit() -> None:
        whole = ast.Call(ast.Name("list", ast.Load()), [loop.iter], [])
        loop.iter = ast.Subscript(whole, ast.Slice(None, ast.Constant(1)), ast.Load())

    return edit


def _no_recheck(place: _Block, index: int) -> _Edit | None:
    block = place.body
    loop = block[index]
    if not isinstance(loop, ast.While) or not _waits(loop):
        return None
    if isinstance(loop.test, ast.Constant) or _ends(loop.body[-1]):
        return None
    return lambda: loop.body.append(ast.Break())


def _stale_copy(place: _Block, index: int) -> _Edit | None:
    block = place.body
    statement = block[index]
    if isinstance(statement, ast.With) and _is_locked(statement):
        copies = statements(statement.body)[:1]
        if copies and _is_copy(copies[0]) and len(statement.body) > 1:

            def out() -> None:
                statement.body.remove(copies[0])
                block.insert(index, copies[0])

            return out
        return None
    before = _previous(block, index)
    if before is None or not _is_copy(statement):
        return None
    waited = isinstance(block[before], ast.Expr) and _waits(block[before])
    return partial(_move, block, index, before) if waited else None


def _is_copy(statement: ast.stmt) -> bool:
    """Return whether it puts what an attribute or an item has into local names, and changes nothing."""
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and any(
            isinstance(each, ast.Attribute | ast.Subscript) for each in ast.walk(statement.value)
        )
    )


def _check_then_act(place: _Block, index: int) -> _Edit | None:
    block = place.body
    statement = block[index]
    if not isinstance(statement, ast.With) or not _is_locked(statement):
        return None
    first = next(iter(statements(statement.body)), None)
    if (
        not isinstance(first, ast.If)
        or not _reads_state(first.test)
        or any(isinstance(each, ast.NamedExpr) for each in ast.walk(first.test))
    ):
        return None

    def edit() -> None:
        seen = ast.Call(
            ast.Name("bool", ast.Load()), [first.test], []
        )  # not a container that may change
        early = ast.Assign([ast.Name(_STALE, ast.Store())], seen, lineno=statement.lineno)
        first.test = ast.Name(_STALE, ast.Load())
        block.insert(index, early)

    return edit


def _let_go_early(place: _Block, index: int) -> _Edit | None:
    block = place.body
    statement = block[index]
    if not isinstance(statement, ast.With) or not _is_locked(statement):
        return None
    if len(statements(statement.body)) < 2 or isinstance(
        statement.body[-1], ast.Raise | ast.Continue | ast.Break
    ):
        return None
    last = statement.body[-1]
    if isinstance(last, ast.Return) and not _reads_state(last):
        return None
    return lambda: block.insert(index + 1, statement.body.pop())


def _reads_state(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Attribute | ast.Subscript) for each in ast.walk(node))


def _swapped(place: _Block, index: int) -> _Edit | None:
    block, before = place.body, _previous(place.body, index)
    if place.locked or before is None or ast.dump(block[before]) == ast.dump(block[index]):
        return None
    names = {_called(block[before])[0], _called(block[index])[0]}
    return partial(_move, block, index, before) if names <= _RELEASES else None


def _cleared_late(place: _Block, index: int) -> _Edit | None:
    block = place.body
    if not _is_clearing(block[index]):
        return None
    if place.locked:
        return _out_of_lock(place, index, after=True) if index + 1 < len(block) else None
    if index + 1 >= len(block) or _ends(block[index + 1]) or _is_clearing(block[index + 1]):
        return None
    swapped = _swapped(place, index + 1) is not None  # it is a place of that kind
    return None if swapped else partial(_move, block, index, index + 1)


def _previous(block: list[ast.stmt], index: int) -> int | None:
    """Return the position of the statement before, None if there is none."""
    places = [at for at in range(index) if block[at] in statements(block)]
    return places[-1] if places else None


def _move(block: list[ast.stmt], source: int, target: int) -> None:
    block.insert(target, block.pop(source))


KINDS: dict[str, _Kind] = {
    "wake before state": _wake_before_state,
    "one woken": _one_woken,
    "no recheck": _no_recheck,
    "stale copy": _stale_copy,
    "check, then act": _check_then_act,
    "let go early": _let_go_early,
    "swapped": _swapped,
    "cleared late": _cleared_late,
}
