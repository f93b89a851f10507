"""The watched form of a module's source: each access in a function reports itself first.

No operation is replaced by another one, but for calls and for items of containers: ``a.b`` becomes
``attribute(a, "b", site).b``, where the hook reports the access and returns its first argument.
So properties, slots and descriptors do what they did.  A call ``f(x)`` becomes ``call(site, f, x)``, since
only after the arguments are evaluated is it known what happens; ``c[k]`` becomes ``item(c, site)[k]``,
which returns ``c`` itself unless it is a container, and then what reports and forwards.

A hook is written as a constant, a text that begins with `MARK`; `hfsched.explore.watch.codes` puts the
hook itself there.  So no name is added to the code under exploration.  Positions are kept: tracebacks
have the lines of the source.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from hfsched.explore.watch.expressions import (
    MARK,
    VARIABLE,
    Expressions,
    bound_names,
    constant_tuple,
)

__all__ = ["MARK", "VARIABLE", "rewritten"]


def rewritten(source: str, filename: str) -> tuple[ast.Module, dict[str, int]]:
    """Return the watched form of a module, and the attributes that decide control flow in it.

    Each of these has the first line of a test that reads it.  Raises SyntaxError.
    """
    tree = ast.parse(source, filename)
    rewriter = _Rewriter(source, filename)
    made: ast.Module = rewriter.visit(tree)
    return ast.fix_missing_locations(made), rewriter.deciding


class _Rewriter(Expressions):
    """Rewrites the functions of a module; what runs at its import stays as it is."""

    # Scopes.

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
        node.decorator_list = [self.visit(each) for each in node.decorator_list]
        self._defaults(node.args)
        with self._inside(self._tables.function(node, self._scope.private)):
            node.body = self._statements(node.body)
        return [node, *self._after([node.name], node)]

    def _statements(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        for each in body:
            found = self.visit(each)
            made += found if isinstance(found, list) else [found]
        return made

    def _after(self, names: Sequence[str], at: ast.AST) -> list[ast.stmt]:
        return self._written(names, at) if self._watching else []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> list[ast.stmt]:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> list[ast.stmt]:
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> list[ast.stmt]:
        node.decorator_list = [self.visit(each) for each in node.decorator_list]
        node.bases = [self.visit(each) for each in node.bases]
        node.keywords = [self.visit(each) for each in node.keywords]
        with self._inside(self._tables.of_class(node)):
            node.body = self._statements(node.body)
        return [node, *self._after([node.name], node)]

    # Statements.

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        unpacks = any(isinstance(each, ast.Tuple | ast.List) for each in node.targets)
        node.value = self._value("content", node.value) if unpacks else self.visit(node.value)
        node.targets = [self.visit(each) for each in node.targets]
        return [node, *self._after(bound_names(*node.targets), node)]

    def visit_AnnAssign(self, node: ast.AnnAssign) -> list[ast.stmt]:
        if node.value is None:
            return [node]
        node.value = self.visit(node.value)
        node.target = self.visit(node.target)
        return [node, *self._after(bound_names(node.target), node)]

    def visit_AugAssign(self, node: ast.AugAssign) -> list[ast.stmt]:
        node.value = self._value("content", node.value)
        if not self._watching:
            node.target = self.visit(node.target)
            return [node]
        before: list[ast.stmt] = []
        if isinstance(node.target, ast.Name):
            value: ast.expr = self.visit(
                ast.copy_location(ast.Name(node.target.id, ast.Load()), node)
            )
            before = [ast.copy_location(ast.Expr(self._hook("augmented", node, value)), node)]
        elif isinstance(node.target, ast.Attribute):
            held = self.visit(node.target.value)
            node.target.value = self._hook("augmented_attribute", node, held)
        else:
            held = self.visit(node.target.value)
            node.target.value = self._hook("augmented_item", node, held)
            node.target.slice = self.visit(node.target.slice)
        return [*before, node, *self._after(bound_names(node.target), node)]

    def visit_Delete(self, node: ast.Delete) -> list[ast.stmt]:
        node.targets = [self.visit(each) for each in node.targets]
        return [*self._after(bound_names(*node.targets), node), node]

    def _for(self, node: ast.For | ast.AsyncFor) -> ast.stmt:
        if isinstance(node, ast.For):
            node.iter = self._iterated(node.iter, node.target)
        else:
            node.iter = self.visit(node.iter)
        node.target = self.visit(node.target)
        node.body = self._after(bound_names(node.target), node) + self._statements(node.body)
        node.orelse = self._statements(node.orelse)
        return node

    def visit_For(self, node: ast.For) -> ast.stmt:
        return self._for(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.stmt:
        return self._for(node)

    def _with(self, node: ast.With | ast.AsyncWith) -> ast.stmt:
        names: list[str] = []
        for each in node.items:
            each.context_expr = self.visit(each.context_expr)
            if each.optional_vars is not None:
                each.optional_vars = self.visit(each.optional_vars)
                names += bound_names(each.optional_vars)
        node.body = self._after(names, node) + self._statements(node.body)
        return node

    def visit_With(self, node: ast.With) -> ast.stmt:
        return self._with(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.stmt:
        return self._with(node)

    def _branch(self, node: ast.If | ast.While) -> ast.stmt:
        node.test = self._value("truth", node.test)
        node.body, node.orelse = self._statements(node.body), self._statements(node.orelse)
        return node

    def visit_If(self, node: ast.If) -> ast.stmt:
        return self._branch(node)

    def visit_While(self, node: ast.While) -> ast.stmt:
        return self._branch(node)

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        node.test = self._value("truth", node.test)
        node.msg = None if node.msg is None else self.visit(node.msg)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        node.type = None if node.type is None else self.visit(node.type)
        bound = [] if node.name is None else [node.name]
        node.body = self._after(bound, node) + self._statements(node.body)
        return node

    def _import(self, node: ast.Import | ast.ImportFrom) -> list[ast.stmt]:
        names = [(each.asname or each.name).partition(".")[0] for each in node.names]
        return [node, *self._after([name for name in names if name != "*"], node)]

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        return self._import(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        return self._import(node)

    def visit_Match(self, node: ast.Match) -> ast.stmt:
        names = {
            name
            for pattern in ast.walk(node)
            if isinstance(pattern, ast.MatchClass)
            for name in pattern.kwd_attrs
        }
        positional = any(
            isinstance(each, ast.MatchClass) and each.patterns for each in ast.walk(node)
        )
        subject: ast.expr = self.visit(node.subject)
        if self._watching:
            wanted = constant_tuple(*sorted(names), *(("*",) if positional else ()))
            subject = self._hook("matched", node, subject, wanted)
        node.subject = subject
        for case in node.cases:
            case.guard = None if case.guard is None else self._value("truth", case.guard)
            case.body = self._statements(case.body)
        return node
