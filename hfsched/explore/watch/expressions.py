"""The watched form of expressions; see `hfsched.explore.watch.rewrite`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.scopes import Scope, Tables
from hfsched.explore.watch.targets import shape_of

if TYPE_CHECKING:
    from hfsched.explore.watch.scopes import Comprehension

__all__ = ["MARK", "VARIABLE", "Expressions", "constant"]

MARK = "\0hfsched.watch:"
VARIABLE = "hfsched_variable"  # the parameter of a lambda that only names a variable
# These look at the frame of their caller.
_OF_CALLER = frozenset(
    ("super", "locals", "globals", "vars", "dir", "eval", "exec", "__import__", "breakpoint")
)
_RUN_TEXT = ("eval", "exec")

_ATTRIBUTE = {
    ast.Load: "attribute",
    ast.Store: "attribute_written",
    ast.Del: "attribute_deleted",
}
_SETTERS = frozenset(("setattr", "delattr", "__setattr__", "__delattr__"))


class Expressions(ast.NodeTransformer):
    """Rewrites expressions in the functions of a module, and knows the scope that they are in."""

    def __init__(self, source: str, filename: str, tree: ast.Module) -> None:
        self._filename = filename
        self._tables = Tables(source, filename, tree)
        self._scopes: list[Scope] = [Scope(None, function=False)]
        self.assigned: set[str] = set()  # attributes, by name
        self.deciding: dict[str, int] = {}  # attributes that are in a test, each with a line

    @property
    def _scope(self) -> Scope:
        return self._scopes[-1]

    @property
    def _watching(self) -> bool:
        """Whether the code at hand belongs to a function, or to a class inside one."""
        return any(scope.function for scope in self._scopes)

    @contextmanager
    def _inside(self, scope: Scope) -> Iterator[None]:
        self._scopes.append(scope)
        try:
            yield
        finally:
            self._scopes.pop()

    # Making nodes.

    def _hook(self, name: str, at: ast.AST, *args: ast.expr) -> ast.Call:
        """Return the call of a hook; its last argument is the line."""
        site = constant((self._filename, getattr(at, "lineno", 0)))
        made = ast.Call(ast.Constant(MARK + name), [*args, site], [])
        for node in (made, made.func, site):
            ast.copy_location(node, at)
        return made

    def _text(self, text: str) -> ast.expr:
        return ast.Constant(text)

    def _variable(self, name: str, at: ast.AST) -> ast.expr:
        """Return what identifies a variable of a closure: a function that has its cell."""
        parameter = ast.arg(VARIABLE)
        arguments = ast.arguments([], [parameter], None, [], [], None, [ast.Constant(None)])
        made = ast.Lambda(arguments, ast.Name(name, ast.Load()))
        for node in ast.walk(made):
            ast.copy_location(node, at)
        return made

    def _which(self, name: str, at: ast.AST) -> tuple[str, ast.expr] | None:
        """Return the prefix of the hooks for a name and what identifies it; None: it is local."""
        kind = self._scope.kind(name)
        if kind == "local":
            return None
        if kind == "cell":
            return "cell", self._variable(name, at)
        return kind, self._text(self._scope.mangled(name))

    def _written(self, names: Sequence[str], at: ast.AST) -> list[ast.stmt]:
        """Return statements that report that these names have been bound."""
        made: list[ast.stmt] = []
        for name in names:
            which = self._which(name, at)
            if which is not None and which[0] != "class":
                hook = self._hook(f"{which[0]}_written", at, which[1])
                made.append(ast.copy_location(ast.Expr(hook), at))
        return made

    def _value(self, hook: str, node: ast.expr) -> ast.expr:
        """Return an expression, visited, whose value a hook is given, which returns it."""
        if hook == "truth":
            self._decides(node)
        made: ast.expr = self.visit(node)
        if not self._watching or isinstance(node, ast.Constant):
            return made
        return self._hook(hook, node, made)

    def _decides(self, node: ast.AST) -> None:
        """Note the attributes of a test."""
        for each in ast.walk(node):
            if isinstance(each, ast.Attribute):
                self.deciding.setdefault(each.attr, each.lineno)

    def _shaped(self, hook: str, node: ast.expr, target: ast.expr) -> ast.expr:
        """Return an expression, visited, whose value a hook is given that knows its target."""
        made: ast.expr = self.visit(node)
        shape = shape_of(target)
        if not self._watching or shape is None:
            return made
        return self._hook(hook, node, made, constant(shape))

    def _iterated(self, node: ast.expr, target: ast.expr, *, waits: bool = False) -> ast.expr:
        """Return what a loop over `node` runs over, visited; `waits`: an ``async for``."""
        if waits:
            return self._shaped("async_unpacked", node, target)
        if shape_of(target) is not None:
            return self._shaped("unpacked", node, target)
        return self._value("iterated", node)

    # Scopes.

    def _defaults(self, args: ast.arguments) -> None:
        args.defaults = [self.visit(each) for each in args.defaults]
        args.kw_defaults = [None if each is None else self.visit(each) for each in args.kw_defaults]

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        self._defaults(node.args)
        with self._inside(self._tables.function(node, self._scope.private)):
            node.body = self.visit(node.body)
        return node

    def _comprehension(self, node: Comprehension) -> ast.expr:
        first = node.generators[0]
        first.iter = self._iterated(first.iter, first.target, waits=bool(first.is_async))
        with self._inside(self._tables.function(node, self._scope.private)):
            for each in node.generators:
                if each is not first:
                    each.iter = self._iterated(each.iter, each.target, waits=bool(each.is_async))
                each.target = self.visit(each.target)
                each.ifs = [self._value("truth", test) for test in each.ifs]
            if isinstance(node, ast.DictComp):
                node.key, node.value = self.visit(node.key), self.visit(node.value)
            else:
                node.elt = self.visit(node.elt)
        return node

    def visit_ListComp(self, node: ast.ListComp) -> ast.expr:
        return self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> ast.expr:
        return self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.expr:
        return self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.expr:
        return self._comprehension(node)

    # Names.

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not self._watching or not isinstance(node.ctx, ast.Load):
            return node
        which = self._which(node.id, node)
        if which is None:
            return node
        report = self._hook(f"{which[0]}_read", node, which[1])  # returns None
        return ast.copy_location(ast.BoolOp(ast.Or(), [report, node]), node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        node.value = self.visit(node.value)
        which = self._which(node.target.id, node) if self._watching else None
        if which is not None and which[0] != "class":
            node.value = self._hook(f"{which[0]}_assigned", node, which[1], node.value)
        return node

    # Attributes and items.

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        node.value = self.visit(node.value)
        if not isinstance(node.ctx, ast.Load):
            self.assigned.add(self._scope.mangled(node.attr))
        if self._watching:
            hook = _ATTRIBUTE[type(node.ctx)]
            name = self._text(self._scope.mangled(node.attr))
            node.value = self._hook(hook, node, node.value, name)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        node.value, node.slice = self.visit(node.value), self.visit(node.slice)
        if self._watching:
            node.value = self._hook("item", node, node.value)
        return node

    # Calls.

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if getattr(node.func, "id", getattr(node.func, "attr", "")) in _SETTERS:
            self.assigned |= {
                each.value
                for each in node.args
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
        if not self._watching:
            return self.generic_visit(node)  # type: ignore[return-value]
        args = [self.visit(each) for each in node.args]
        keywords = [
            ast.keyword(each.arg, self.visit(each.value))
            if each.arg is not None
            else ast.keyword(None, self._value("content", each.value))
            for each in node.keywords
        ]
        if isinstance(node.func, ast.Name) and _looks_at_caller(node.func.id, args):
            made = ast.copy_location(ast.Call(node.func, args, keywords), node)
            if node.func.id not in _RUN_TEXT:
                return made
            told = self._hook("runs_text", node, self._text(node.func.id))
            return ast.copy_location(ast.BoolOp(ast.Or(), [told, made]), node)
        made = self._hook("call", node)
        made.args += [self.visit(node.func), *args]
        made.keywords = keywords
        return made

    def visit_Starred(self, node: ast.Starred) -> ast.expr:
        if isinstance(node.ctx, ast.Load):
            node.value = self._value("content", node.value)
        else:
            node.value = self.visit(node.value)
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        node.values = [
            self._value("content", value) if key is None else self.visit(value)
            for key, value in zip(node.keys, node.values, strict=True)
        ]
        node.keys = [None if key is None else self.visit(key) for key in node.keys]
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.expr:
        node.value = self._value("compared", node.value)
        if node.format_spec is not None:
            node.format_spec = self.visit(node.format_spec)
        return node

    # Operators.

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        node.left, node.right = (
            self._value("compared", node.left),
            self._value("compared", node.right),
        )
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        hook = "truth" if isinstance(node.op, ast.Not) else "compared"
        node.operand = self._value(hook, node.operand)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        *values, last = node.values
        node.values = [*(self._value("truth", each) for each in values), self.visit(last)]
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if not self._watching:
            return self.generic_visit(node)  # type: ignore[return-value]
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn):
            left, right = self.visit(node.left), self.visit(node.comparators[0])
            found = self._hook("contains", node, left, right)
            if isinstance(node.ops[0], ast.In):
                return found
            return ast.copy_location(ast.UnaryOp(ast.Not(), found), node)
        identity = all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops)
        if identity:
            return self.generic_visit(node)  # type: ignore[return-value]
        node.left = self._value("compared", node.left)
        node.comparators = [self._value("compared", each) for each in node.comparators]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        node.test = self._value("truth", node.test)
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.expr:
        node.value = self._value("delegated", node.value)
        return node


def _looks_at_caller(name: str, args: Sequence[ast.expr]) -> bool:
    """Return whether a built-in function looks at the frame that calls it."""
    return name in _OF_CALLER and not (name in ("vars", "dir") and args)


def constant(value: object) -> ast.Constant:
    """Return a value as a constant: a tuple too, which the compiler takes and its types do not say."""
    made: Any = value
    return ast.Constant(made)
