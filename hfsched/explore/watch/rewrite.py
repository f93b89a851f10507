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

from hfsched.explore.watch.expressions import MARK, VARIABLE, Expressions, constant
from hfsched.explore.watch.patterns import class_names, probed
from hfsched.explore.watch.targets import bound_names, is_nested, pattern_names, shape_of

__all__ = ["MARK", "VARIABLE", "rewritten"]


def rewritten(source: str, filename: str) -> tuple[ast.Module, dict[str, int], set[str]]:
    """Return the watched form of a module, the attributes that decide control flow, those assigned.

    Each of the former has the first line of a test that reads it.  Raises SyntaxError and ValueError.
    """
    tree = ast.parse(source, filename)
    rewriter = _Rewriter(source, filename, tree)
    made: ast.Module = rewriter.visit(tree)
    return ast.fix_missing_locations(made), rewriter.deciding, rewriter.assigned


class _Rewriter(Expressions):
    """Rewrites the functions of a module; what runs at its import stays as it is."""

    # Scopes.

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
        node.decorator_list = [self._value("decorated", each) for each in node.decorator_list]
        self._defaults(node.args)
        self._annotations(node)
        with self._inside(self._tables.function(node, self._scope.private)):
            node.body = self._statements(node.body)
        return [node, *self._after([node.name], node)]

    def _annotations(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if self._tables.late_annotations or not self._watching:
            return
        args = node.args
        for each in (*args.posonlyargs, *args.args, args.vararg, args.kwarg, *args.kwonlyargs):
            if each is not None and each.annotation is not None:
                each.annotation = self.visit(each.annotation)
        node.returns = None if node.returns is None else self.visit(node.returns)

    def _statements(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        for each in body:
            found = self.visit(each)
            made += found if isinstance(found, list) else [found]
        return made

    def _after(self, names: Sequence[str], at: ast.AST) -> list[ast.stmt]:
        return self._written(names, at) if self._watching else []

    def _named(self, names: Sequence[str], at: ast.AST) -> list[ast.stmt]:
        """Return statements that report that these names are read."""
        made: list[ast.stmt] = []
        for name in names if self._watching else ():
            which = self._which(name, at)
            if which is not None:
                hook = self._hook(f"{which[0]}_read", at, which[1])
                made.append(ast.copy_location(ast.Expr(hook), at))
        return made

    def visit_FunctionDef(self, node: ast.FunctionDef) -> list[ast.stmt]:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> list[ast.stmt]:
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> list[ast.stmt]:
        node.decorator_list = [self._value("decorated", each) for each in node.decorator_list]
        node.bases = [self.visit(each) for each in node.bases]
        node.keywords = [self.visit(each) for each in node.keywords]
        with self._inside(self._tables.of_class(node)):
            node.body = self._statements(node.body)
        return [node, *self._after([node.name], node)]

    # Statements.

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        hook, value = "spread" if len(node.targets) == 1 else "spread_kept", self.visit(node.value)
        for shape in map(shape_of, node.targets) if self._watching else ():
            if shape is not None and is_nested(shape):
                value = self._hook(hook, node.value, value, constant(shape))
            elif shape is not None:
                value = self._hook("content", node.value, value)
        node.value = value
        node.targets = [self.visit(each) for each in node.targets]
        return [node, *self._after(bound_names(*node.targets), node)]

    def visit_AnnAssign(self, node: ast.AnnAssign) -> list[ast.stmt]:
        if self._scope.in_class and not self._tables.late_annotations:
            node.annotation = self.visit(node.annotation)
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
            self.assigned.add(self._scope.mangled(node.target.attr))
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
        waits = isinstance(node, ast.AsyncFor)
        node.iter = self._iterated(node.iter, node.target, waits=waits)
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
            if each.optional_vars is None:
                each.context_expr = self._value("managed", each.context_expr)
            else:
                each.context_expr = self._shaped("entered", each.context_expr, each.optional_vars)
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
        made = self._import(node)
        for each in node.names if self._watching else ():
            package, _, name = each.name.rpartition(".")
            if (
                package and each.asname is not None
            ):  # else each dot is an attribute where it is used
                made[1:1] = self._imported(package, 0, (name,), node)
        return made

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        made = self._import(node)
        if self._watching:
            names = tuple(each.name for each in node.names)
            made[1:1] = self._imported(node.module or "", node.level, names, node)
        return made

    def _imported(
        self, module: str, level: int, names: tuple[str, ...], node: ast.stmt
    ) -> list[ast.stmt]:
        """Return a statement that reports that attributes of a module have been read."""
        values = [constant(module), constant(level), constant(names)]
        return [ast.copy_location(ast.Expr(self._hook("imported", node, *values)), node)]

    def visit_Match(self, node: ast.Match) -> list[ast.stmt]:
        self._decides(node.subject)
        node.subject = self.visit(node.subject)
        before: dict[str, None] = {}
        for case in node.cases:
            before |= dict.fromkeys(class_names(case.pattern))
            self._case(case)
        return [*self._named(list(before), node), node]

    def _case(self, case: ast.match_case) -> None:
        for each in ast.walk(case.pattern):
            if isinstance(each, ast.MatchClass):
                for name in each.kwd_attrs:
                    self.deciding.setdefault(name, each.lineno)
        written = self._after(pattern_names(case.pattern), case.pattern)
        if self._watching:
            case.pattern = probed(case.pattern, self._filename, self._scope.mangled)
        case.body = self._statements(case.body)
        if case.guard is None:
            case.body = written + case.body
            return
        guard = self._value("truth", case.guard)
        if written:  # what a pattern captures is bound before the guard
            reports = [each.value for each in written if isinstance(each, ast.Expr)]
            both = ast.Tuple([*reports, guard], ast.Load())
            guard = ast.Subscript(both, ast.Constant(len(reports)), ast.Load())
            for each in (both, guard.slice, guard):
                ast.copy_location(each, case.guard)
        case.guard = guard
