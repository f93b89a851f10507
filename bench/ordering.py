"""Concurrency mistakes by kind, made by patterns over a file's tree; `concurrency.py` runs them.

- ``wake first``: a wake-up comes before the statement that writes what it announces;
- ``no recheck``: a loop that waits tests its condition once;
- ``swapped``: two wake-ups or releases that follow each other, in the other order;
- ``early unlock``: the last statement under a lock comes after it;
- ``gap``: a lock is let go and taken again before the last statement under it;
- ``stale``: a test after a wait uses what held before the wait;
- ``one``: a loop that wakes or tells all stops after the first;
- ``late clear``: a flag is cleared after the statement that it has to precede.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["KINDS", "Mistake", "mistaken", "mistakes_of"]

_WAKES = ("set", "become_set", "signal", "finish", "wake", "notify", "kick", "nudge")
_RELEASES = (*_WAKES, "close", "resume", "end_send", "leave", "stop", "shutdown", "release", "cut")
_WAITS = ("wait", "select", "join", "wait_resumed", "wait_quiesced", "recv")
_HIDDEN = ("key", "state_key", "__init__")  # what only searches call, or nobody else can see
_UNLOCKED = (
    "wake first",
    "swapped",
    "late clear",
)  # the order of statements under a lock is not seen
_SEARCHES = ("retain_only", "checkpoint")

Block = list[ast.stmt]


@dataclass(frozen=True)
class Mistake:
    """One mistake: `key` names it whatever its number, which is among those of its file."""

    file: str
    line: int
    function: str
    kind: str
    text: str
    number: int

    @property
    def key(self) -> str:
        """Its name."""
        return f"{self.file} | {self.function} | {self.kind} | {self.text}"


@dataclass(frozen=True)
class _Place:
    function: str
    kind: str
    node: ast.stmt
    change: Callable[[], None]


def mistakes_of(file: str, source: str) -> list[Mistake]:
    """Return all mistakes of a file, in order."""
    lines = source.splitlines()
    seen: Counter[tuple[str, str, str]] = Counter()
    found = []
    for number, place in enumerate(_places(ast.parse(source))):
        text = lines[place.node.lineno - 1].strip()
        where = (place.function, place.kind, text)
        seen[where] += 1
        kind = place.kind if seen[where] == 1 else f"{place.kind} #{seen[where]}"
        found.append(Mistake(file, place.node.lineno, place.function, kind, text, number))
    return found


def mistaken(source: str, number: int) -> ast.Module:
    """Return a file's tree with its mistake `number` in it."""
    tree = ast.parse(source)
    _places(tree)[number].change()
    return ast.fix_missing_locations(tree)


def _places(tree: ast.Module) -> list[_Place]:
    return [
        _Place(name, kind, node, change)
        for name, function in _functions(tree, "")
        for block, locked in _blocks(function.body, locked=False)
        for kind, make in KINDS.items()
        if not (locked and kind in _UNLOCKED)
        for node, change in make(block)
    ]


def _functions(node: ast.AST, inside: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            name = f"{inside}{child.name}"
            if child.name not in _HIDDEN:
                yield name, child
            yield from _functions(child, f"{name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, inside)
        else:
            yield from _functions(child, inside)


def _blocks(block: Block, *, locked: bool) -> Iterator[tuple[Block, bool]]:
    """Yield a block of statements and those inside it, and whether a lock is held there."""
    yield block, locked
    for statement in block:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            continue
        inside = locked or _locks(statement)
        for _, value in ast.iter_fields(statement):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield from _blocks(value, locked=inside)
            elif isinstance(value, list):
                for each in value:
                    if isinstance(each, ast.ExceptHandler | ast.match_case):
                        yield from _blocks(each.body, locked=inside)


# What a statement is.


def _call(statement: ast.stmt) -> str:
    """Return the name of the method that a statement calls, and nothing else; else empty."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        return function.attr if isinstance(function, ast.Attribute) else ""
    return ""


def _writes(statement: ast.stmt) -> bool:
    """Tell whether a statement writes an attribute or an item."""
    if isinstance(statement, ast.Delete):
        return True
    if not isinstance(statement, ast.Assign | ast.AugAssign):
        return _call(statement) in ("append", "pop", "popleft", "add", "discard", "remove", "clear")
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return any(
        isinstance(each, ast.Attribute | ast.Subscript)
        for target in targets
        for each in (target.elts if isinstance(target, ast.Tuple) else [target])
    )


def _shared(statement: ast.stmt) -> bool:
    """Tell whether a statement reads or writes more than local variables."""
    return any(isinstance(node, ast.Attribute | ast.Subscript) for node in ast.walk(statement))


def _waits(statement: ast.stmt) -> bool:
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _WAITS
        for node in ast.walk(statement)
    )


def _locks(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.With) and any(
        "lock" in ast.unparse(item.context_expr).lower() for item in statement.items
    )


def _clears(statement: ast.stmt) -> bool:
    """Tell whether a statement clears an event or a flag."""
    if _call(statement) == "clear":
        return True
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Attribute)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value in (False, None)
    )


def _plain(statement: ast.stmt) -> bool:
    """Tell whether a statement can change places: no branch, no exit, nothing for searches only."""
    simple = isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign | ast.Delete | ast.For)
    return simple and not (isinstance(statement, ast.Expr) and _call(statement) in _SEARCHES)


# The kinds: each yields (statement, change) for a block.

Found = Iterator[tuple[ast.stmt, Callable[[], None]]]


def _swap(block: Block, at: int) -> Callable[[], None]:
    def change() -> None:
        block[at], block[at + 1] = block[at + 1], block[at]

    return change


def _wake_first(block: Block) -> Found:
    for at in range(len(block) - 1):
        if _writes(block[at]) and _call(block[at + 1]) in _WAKES and _call(block[at]) != "clear":
            yield block[at + 1], _swap(block, at)


def _no_recheck(block: Block) -> Found:
    for at, node in enumerate(block):
        if isinstance(node, ast.While) and _waits(node) and not isinstance(node.test, ast.Constant):

            def change(at: int = at, node: ast.While = node) -> None:
                body = [*node.body, ast.copy_location(ast.Break(), node)]
                block[at] = ast.copy_location(ast.While(node.test, body, node.orelse), node)

            yield node, change


def _swapped(block: Block) -> Found:
    for at in range(len(block) - 1):
        if _call(block[at]) in _RELEASES and _call(block[at + 1]) in _RELEASES:
            yield block[at], _swap(block, at)


def _early_unlock(block: Block) -> Found:
    for at, node in enumerate(block):
        if isinstance(node, ast.With) and _locks(node) and len(node.body) > 1:
            last = node.body[-1]
            if (_plain(last) or isinstance(last, ast.Return)) and _shared(last):

                def change(at: int = at, node: ast.With = node) -> None:
                    block.insert(at + 1, node.body.pop())

                yield last, change


def _gap(block: Block) -> Found:
    for at, node in enumerate(block):
        several = isinstance(node, ast.With) and len(node.body) > 1
        if isinstance(node, ast.With) and several and _locks(node) and _shared(node.body[-1]):

            def change(at: int = at, node: ast.With = node) -> None:
                again = ast.With(items=node.items, body=[node.body.pop()])
                block.insert(at + 1, ast.copy_location(again, node))

            yield node.body[-1], change


def _stale(block: Block) -> Found:
    for at in range(len(block) - 1):
        after = block[at + 1]
        tests = after.body if _locks(after) and isinstance(after, ast.With) else [after]
        first = tests[0]
        if not _waits(block[at]) or isinstance(block[at], ast.While | ast.With | ast.For):
            continue
        bound = {node.id for node in ast.walk(block[at]) if isinstance(node, ast.Name)}
        if isinstance(first, ast.If) and any(
            isinstance(node, ast.Attribute | ast.Call) for node in ast.walk(first.test)
        ):
            used = {node.id for node in ast.walk(first.test) if isinstance(node, ast.Name)}
            targets = {
                node.id
                for node in ast.walk(block[at])
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            if used & targets or not used <= bound | used:
                continue

            def change(at: int = at, first: ast.If = first) -> None:
                name = ast.Name("_stale", ast.Store())
                copy = ast.copy_location(ast.Assign([name], first.test), first)
                first.test = ast.copy_location(ast.Name("_stale", ast.Load()), first)
                block.insert(at, copy)

            yield first, change


def _one(block: Block) -> Found:
    for node in block:
        if isinstance(node, ast.For) and any(
            isinstance(inner, ast.Call)
            and isinstance(inner.func, ast.Attribute)
            and inner.func.attr.lstrip("_") in _RELEASES
            for inner in ast.walk(ast.Module(node.body, []))
        ):

            def change(node: ast.For = node) -> None:
                node.body.append(ast.copy_location(ast.Break(), node))

            yield node, change


def _late_clear(block: Block) -> Found:
    for at in range(len(block) - 1):
        if _clears(block[at]) and _plain(block[at + 1]) and not _clears(block[at + 1]):
            yield block[at], _swap(block, at)


KINDS: dict[str, Callable[[Block], Found]] = {
    "wake first": _wake_first,
    "no recheck": _no_recheck,
    "swapped": _swapped,
    "early unlock": _early_unlock,
    "gap": _gap,
    "stale": _stale,
    "one": _one,
    "late clear": _late_clear,
}
