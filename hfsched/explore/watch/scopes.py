"""Where a name lives: which names of a function are variables of a closure or of the module.

`symtable` has the compiler's own answer.  Its tables have a name and a line, and there may be several of both:
two lambdas of one line.  So this module walks the tree in the order in which the compiler makes the tables,
which is not the order of evaluation, and gives each node its table before anything is rewritten.
"""

from __future__ import annotations

import ast
import symtable
import sys
from collections.abc import Iterable, Iterator
from typing import Literal

__all__ = ["Comprehension", "Function", "Kind", "Scope", "Tables"]

Kind = Literal["local", "cell", "global", "class"]
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
ScopeNode = Function | Comprehension | ast.ClassDef
_NAMES: dict[type[ast.AST], tuple[str, ...]] = {
    ast.Lambda: ("lambda", "<lambda>"),
    ast.ListComp: ("listcomp", "<listcomp>"),
    ast.SetComp: ("setcomp", "<setcomp>"),
    ast.DictComp: ("dictcomp", "<dictcomp>"),
    ast.GeneratorExp: ("genexpr", "<genexpr>"),
}
_INLINED = ast.ListComp | ast.SetComp | ast.DictComp  # without a table of their own since 3.12
_PARAMETERS_FIRST = sys.version_info >= (3, 12)


class Scope:
    """A function's or class's scope; `private` is the class whose ``__names`` are mangled."""

    def __init__(
        self, table: symtable.SymbolTable | None, *, function: bool, private: str = ""
    ) -> None:
        self._table = table
        self.function = function
        self.private = private
        self._inner = set() if table is None else _free_below(table)

    @property
    def in_class(self) -> bool:
        """Whether this is a class's scope."""
        return self._table is not None and not self.function

    def kind(self, name: str) -> Kind:
        """Return where a name of this scope lives; "local" too for what need not be watched.

        "class": where it lives is known when it is read: in the class, else in the module.
        """
        if self._table is None or name == "__class__":
            return "local"
        try:
            symbol = self._table.lookup(self.mangled(name))
        except KeyError:
            return "local"
        if self.function:
            if symbol.is_global():
                return "global"
            if symbol.is_free() or (symbol.is_local() and symbol.get_name() in self._inner):
                return "cell"
            return "local"
        if symbol.is_free():
            return "cell"
        return "global" if symbol.is_declared_global() else "class"

    def mangled(self, name: str) -> str:
        """Return an attribute's or variable's name as the compiler writes it."""
        stripped = self.private.lstrip("_")
        if not stripped or not name.startswith("__") or name.endswith("__") or "." in name:
            return name
        return f"_{stripped}{name}"


def _free_below(table: symtable.SymbolTable) -> set[str]:
    """Return the names that the scopes inside a scope have from outside themselves.

    A class passes on what its methods take from around it, also if it has the name itself.
    """
    found: set[str] = set()
    for child in table.get_children():
        found |= {symbol.get_name() for symbol in child.get_symbols() if symbol.is_free()}
        if not isinstance(child, symtable.Function):
            found |= _free_below(child)
    return found


class Tables:
    """The symbol tables of a module's source, by node.  Raises ValueError if one does not fit."""

    def __init__(self, source: str, filename: str, tree: ast.Module) -> None:
        self.of: dict[ast.AST, symtable.SymbolTable] = {}
        self._late_annotations = sys.version_info >= (3, 14) or any(
            isinstance(each, ast.ImportFrom)
            and each.module == "__future__"
            and any(alias.name == "annotations" for alias in each.names)
            for each in tree.body
        )
        self._pair(tree.body, symtable.symtable(source, filename, "exec"))

    @property
    def late_annotations(self) -> bool:
        """Whether annotations are not evaluated where they stand."""
        return self._late_annotations

    def function(self, node: Function | Comprehension, private: str) -> Scope:
        """Return the scope of a function or comprehension."""
        return Scope(self.of.get(node), function=True, private=private)

    def of_class(self, node: ast.ClassDef) -> Scope:
        """Return the scope of a class."""
        return Scope(self.of.get(node), function=False, private=node.name)

    # The order of the compiler.

    def _pair(self, nodes: Iterable[ast.AST], table: symtable.SymbolTable) -> None:
        waiting = list(_children(table))
        self._give(nodes, table, waiting)
        if waiting:
            raise ValueError(f"no node has the symbol table {waiting[0]}")

    def _give(
        self,
        nodes: Iterable[ast.AST],
        table: symtable.SymbolTable,
        waiting: list[symtable.SymbolTable],
    ) -> None:
        for node in nodes:
            if not isinstance(node, ScopeNode):
                self._give(self._ordered(node), table, waiting)
                continue
            self._give(self._outside(node), table, waiting)
            if waiting and _fits(node, waiting[0]):
                found = waiting.pop(0)
                self.of[node] = found
                self._pair(_inside(node), found)
            elif _PARAMETERS_FIRST and isinstance(node, _INLINED):
                self.of[node] = table
                self._give(_inside(node), table, waiting)
            else:
                raise ValueError(f"line {node.lineno}: {type(node).__name__} has no symbol table")

    def _outside(self, node: ScopeNode) -> Iterator[ast.AST]:
        """Return what belongs to the scope around a function, class or comprehension."""
        if isinstance(node, Comprehension):
            yield node.generators[0].iter
        elif isinstance(node, ast.ClassDef):
            bases = [*node.bases, *node.keywords]
            if _PARAMETERS_FIRST:
                yield from (*node.decorator_list, *getattr(node, "type_params", ()), *bases)
            else:
                yield from (*bases, *node.decorator_list)
        else:
            yield from node.args.defaults
            yield from (each for each in node.args.kw_defaults if each is not None)
            if isinstance(node, ast.Lambda):
                return
            hints = () if self._late_annotations else annotations_of(node)
            if _PARAMETERS_FIRST:
                yield from (*node.decorator_list, *getattr(node, "type_params", ()), *hints)
            else:
                yield from (*hints, *node.decorator_list)

    def _ordered(self, node: ast.AST) -> Iterator[ast.AST]:
        """Return the nodes in a node that is no scope."""
        if isinstance(node, ast.Assign):
            yield from (*node.targets, node.value)
        elif isinstance(node, ast.AnnAssign):
            yield node.target
            if not self._late_annotations:
                yield node.annotation
            if node.value is not None:
                yield node.value
        elif isinstance(node, ast.Try | ast.TryStar):
            yield from (*node.body, *node.orelse, *node.handlers, *node.finalbody)
        else:
            yield from ast.iter_child_nodes(node)


def annotations_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    """Return the annotations of a function."""
    args = node.args
    named = [*args.posonlyargs, *args.args, args.vararg, args.kwarg, *args.kwonlyargs]
    found = [None if each is None else each.annotation for each in named]
    return [each for each in (*found, node.returns) if each is not None]


def _inside(node: ScopeNode) -> Iterator[ast.AST]:
    """Return what belongs to the scope of a function, class or comprehension itself."""
    if isinstance(node, ast.Lambda):
        yield node.body
    elif not isinstance(node, Comprehension):
        yield from node.body
    else:
        first, *others = node.generators
        yield from (first.target, *first.ifs, *others)
        if isinstance(node, ast.DictComp):
            yield from (node.value, node.key)
        else:
            yield node.elt


def _children(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    """Return the functions and classes in a table; type parameters have tables around theirs."""
    for each in table.get_children():
        if isinstance(each, symtable.Function | symtable.Class):
            yield each
        else:
            yield from _children(each)


def _fits(node: ScopeNode, table: symtable.SymbolTable) -> bool:
    names = _NAMES.get(type(node)) or (node.name,)  # type: ignore[union-attr]
    if table.get_name() not in names or table.get_lineno() != node.lineno:
        return False
    if not isinstance(table, symtable.Function):
        return isinstance(node, ast.ClassDef)
    if isinstance(node, Function):
        args = node.args
        stars = (args.vararg is not None) + (args.kwarg is not None)
        number = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs) + stars
        return len(table.get_parameters()) == number
    return isinstance(node, Comprehension)
