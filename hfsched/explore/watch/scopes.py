"""Where a name lives: which names of a function are variables of a closure or of the module.

`symtable` has the compiler's own answer; this module finds the table of an AST node and asks it.
"""

from __future__ import annotations

import ast
import symtable
from collections import defaultdict, deque
from typing import Literal

__all__ = ["Kind", "Scope", "Tables"]

Kind = Literal["local", "cell", "global"]
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_NAMES = {
    ast.Lambda: ("lambda", "<lambda>"),
    ast.ListComp: ("listcomp", "<listcomp>"),
    ast.SetComp: ("setcomp", "<setcomp>"),
    ast.DictComp: ("dictcomp", "<dictcomp>"),
    ast.GeneratorExp: ("genexpr", "<genexpr>"),
}


class Scope:
    """A function's or class's scope; `private` is the class whose ``__names`` are mangled."""

    def __init__(
        self, table: symtable.SymbolTable | None, *, function: bool, private: str = ""
    ) -> None:
        self._table = table
        self.function = function
        self.private = private
        self._inner = (
            set()
            if table is None
            else {
                symbol.get_name()
                for child in table.get_children()
                for symbol in child.get_symbols()
                if symbol.is_free()
            }
        )

    def kind(self, name: str) -> Kind:
        """Return where a name of this scope lives; "local" too for what need not be watched."""
        if not self.function or self._table is None or name == "__class__":
            return "local"
        try:
            symbol = self._table.lookup(self.mangled(name))
        except KeyError:
            return "local"
        if symbol.is_global():
            return "global"
        if symbol.is_free() or (symbol.is_local() and symbol.get_name() in self._inner):
            return "cell"
        return "local"

    def mangled(self, name: str) -> str:
        """Return an attribute's or variable's name as the compiler writes it."""
        stripped = self.private.lstrip("_")
        if not stripped or not name.startswith("__") or name.endswith("__") or "." in name:
            return name
        return f"_{stripped}{name}"


class Tables:
    """The symbol tables of a module's source, to be taken in the order of its nodes."""

    def __init__(self, source: str, filename: str) -> None:
        self._tables: dict[tuple[str, int, bool], deque[symtable.SymbolTable]] = defaultdict(deque)
        self._add(symtable.symtable(source, filename, "exec"))

    def _add(self, table: symtable.SymbolTable) -> None:
        for child in table.get_children():
            key = (child.get_name(), child.get_lineno(), isinstance(child, symtable.Function))
            self._tables[key].append(child)
            self._add(child)

    def function(self, node: Function | Comprehension, private: str) -> Scope:
        """Return the scope of a function or comprehension."""
        names = _NAMES.get(type(node)) or (node.name,)  # type: ignore[union-attr]
        return Scope(self._take(names, node.lineno, function=True), function=True, private=private)

    def of_class(self, node: ast.ClassDef) -> Scope:
        """Return the scope of a class."""
        table = self._take((node.name,), node.lineno, function=False)
        return Scope(table, function=False, private=node.name)

    def _take(
        self, names: tuple[str, ...], line: int, *, function: bool
    ) -> symtable.SymbolTable | None:
        for name in names:
            waiting = self._tables.get((name, line, function))
            if waiting:
                return waiting.popleft()
        return None
