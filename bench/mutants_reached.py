"""Which blocks of the mutated files a scenario or a test comes to: what never comes to a mistake cannot find it.

A block is a list of statements in a function.  `instrumented` puts a mark at the beginning of each
block; `block_of` returns the smallest block in which a mistake changes something.  Before that block is
entered, code with the mistake does what it does without.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import hfsched.explore

__all__ = ["Finder", "block_of", "instrumented", "mark", "reached"]

_TOP = Path(__file__).resolve().parent.parent
_FIELDS = ("body", "orelse", "finalbody", "handlers", "cases")
_reached: set[tuple[str, int]] = set()


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from a copy, and tells it that it is where it belongs, for the files beside it."""

    def __init__(self, name: str, copy: Path, path: Path) -> None:
        super().__init__(name, str(copy))
        self._belongs = path

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self._belongs)
        super().exec_module(module)


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules in copies, `{file: copy}`: a race pass reads the source, too."""

    def __init__(self, copies: Mapping[Path, Path]) -> None:
        self._copies = {
            str(file).removesuffix(".py").replace("/", "."): (file, copy)
            for file, copy in copies.items()
        }

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002
        if fullname not in self._copies:
            return None
        file, copy = self._copies[fullname]
        loader = _Loader(fullname, copy, _TOP / file)
        return importlib.util.spec_from_file_location(fullname, copy, loader=loader)


def mark(file: str, line: int) -> None:
    """Note that the block of a file that begins at this line is entered."""
    _reached.add((file, line))


# A race pass takes it for the explorer's own, which it does not look at.
mark.__code__ = mark.__code__.replace(
    co_filename=str(Path(hfsched.explore.__file__).with_name("mark.py"))
)


def reached() -> dict[str, list[int]]:
    """Return {file: the lines at which blocks begin} of what was entered since the last call."""
    lines: dict[str, list[int]] = {}
    for file, line in sorted(_reached):
        lines.setdefault(file, []).append(line)
    _reached.clear()
    return lines


def instrumented(file: str, source: str) -> str:
    """Return a file's source with a mark in each block of its functions."""
    tree = ast.parse(source)
    for function in list(_functions(tree)):
        for block in list(_blocks(function)):
            call = ast.parse(f"_mark({file!r}, {block[0].lineno})").body
            documented = block is function.body and ast.get_docstring(function) is not None
            block[documented:documented] = call
    after = sum(1 for each in tree.body[:2] if _comes_first(each))
    tree.body[after:after] = ast.parse("from mutants_reached import mark as _mark").body
    return ast.unparse(ast.fix_missing_locations(tree))


def block_of(source: str, tree: ast.Module) -> int:
    """Return where the smallest block begins that has all in which `tree` differs from `source`.

    0 when that is not in one function.
    """
    return _narrowest(ast.parse(source).body, tree.body, inside=False)


def _narrowest(block: list[ast.stmt], other: list[ast.stmt], *, inside: bool) -> int:
    """Return the first line of the block, or of one inside it that has all that differs."""
    if len(block) == len(other):
        differing = [
            (mine, theirs)
            for mine, theirs in zip(block, other, strict=True)
            if ast.dump(mine) != ast.dump(theirs)
        ]
        if len(differing) == 1 and (inner := _only_inner(*differing[0])) is not None:
            node = differing[0][0]
            in_function = isinstance(node, ast.FunctionDef) or (
                inside and not isinstance(node, ast.ClassDef)
            )
            return _narrowest(*inner, inside=in_function)
    return block[0].lineno if inside else 0


def _only_inner(mine: ast.AST, theirs: ast.AST) -> tuple[list[Any], list[Any]] | None:
    """Return the two lists of statements of a node that differ, when nothing else in it does."""
    if type(mine) is not type(theirs):
        return None
    differing = [
        (getattr(mine, name), getattr(theirs, name), name)
        for name in mine._fields
        if _dump(getattr(mine, name)) != _dump(getattr(theirs, name))
    ]
    if len(differing) != 1 or differing[0][2] not in _FIELDS:
        return None
    ours, others, name = differing[0]
    if not ours or not others or not isinstance(ours, list):
        return None
    if name not in ("handlers", "cases"):
        return ours, others
    if len(ours) != len(others):
        return None
    parts = [pair for pair in zip(ours, others, strict=True) if _dump(pair[0]) != _dump(pair[1])]
    return _only_inner(*parts[0]) if len(parts) == 1 else None


def _dump(value: Any) -> Any:
    if isinstance(value, list):
        return [_dump(each) for each in value]
    return ast.dump(value) if isinstance(value, ast.AST) else value


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def _blocks(function: ast.FunctionDef) -> Iterable[list[ast.stmt]]:
    """Yield the blocks of a function, without those of functions and classes in it."""

    def inside(node: ast.AST) -> Iterator[list[ast.stmt]]:
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                yield block
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda):
                yield from inside(child)

    return inside(function)


def _comes_first(node: ast.stmt) -> bool:
    """Return whether a statement is a docstring or an import from `__future__`."""
    return (isinstance(node, ast.ImportFrom) and node.module == "__future__") or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )
