"""Small mistakes: a statement deleted, a comparison flipped, a `not` dropped, a truth value turned over."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from mistakes_places import FOR_SEARCHES, Place, is_note

__all__ = ["find_small"]

FLIPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


def find_small(tree: ast.Module, wanted: Sequence[str] | None) -> list[Place]:
    """Return the places of a file, in the functions `wanted` (None: in all)."""
    finder = _Finder(tree, wanted)
    finder.visit(tree)
    return finder.found


class _Finder(ast.NodeVisitor):
    def __init__(self, tree: ast.Module, wanted: Sequence[str] | None) -> None:
        self._tree = tree
        self._wanted = wanted
        self._inside: list[str] = []
        self.found: list[Place] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside.append(node.name)
        wanted = self._wanted is None or {self._inside[0], node.name} & set(self._wanted)
        if wanted and node.name not in FOR_SEARCHES:
            for statement in _statements(node):
                if _worth(statement):
                    self._add("delete", statement, partial(_delete, self._tree, statement))
            for inner in _expressions(node):
                if isinstance(inner, ast.Compare) and type(inner.ops[0]) in FLIPS:
                    self._add("flip", inner, partial(_flip, inner))
                elif isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
                    self._add("drop not", inner, partial(_drop_not, inner))
                elif isinstance(inner, ast.Constant) and isinstance(inner.value, bool):
                    self._add("turn over", inner, partial(_turn_over, inner))
        self._inside.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                self.visit_FunctionDef(statement)

    def _add(self, kind: str, node: ast.stmt | ast.expr, make: Callable[[], None]) -> None:
        self.found.append(Place(".".join(self._inside), kind, node.lineno, make))


def _statements(function: ast.FunctionDef) -> Iterator[ast.stmt]:
    """Return the statements of a function, not those of functions inside it."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef | ast.With):
            yield node
        if not isinstance(node, ast.FunctionDef):
            todo += [
                child
                for child in ast.iter_child_nodes(node)
                if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case)
            ]


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Return all that is inside a node but for what only searches look at."""
    for child in ast.iter_child_nodes(node):
        if not is_note(child):
            yield child
            yield from _expressions(child)


def _worth(statement: ast.stmt) -> bool:
    """Tell whether deleting it is a mistake of behaviour: no docstring, nothing for searches only."""
    if isinstance(statement, ast.Pass | ast.Assert | ast.Raise | ast.ImportFrom):
        return False
    if isinstance(statement, ast.AnnAssign) and statement.value is None:
        return False
    return not is_note(statement)


def _delete(tree: ast.Module, statement: ast.stmt) -> None:
    for parent in ast.walk(tree):
        for _, value in ast.iter_fields(parent):
            if isinstance(value, list) and statement in value:
                value[value.index(statement)] = ast.copy_location(ast.Pass(), statement)
                return
    raise AssertionError("no such statement")


def _flip(compare: ast.Compare) -> None:
    compare.ops[0] = FLIPS[type(compare.ops[0])]()


def _drop_not(node: ast.UnaryOp) -> None:
    node.operand = ast.UnaryOp(ast.Not(), node.operand)


def _turn_over(constant: ast.Constant) -> None:
    constant.value = not constant.value
