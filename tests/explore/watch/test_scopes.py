"""Each function, class and comprehension of odd code has the symbol table that the compiler made for it."""

from __future__ import annotations

import ast
import sys
import sysconfig
from pathlib import Path

import pytest

from hfsched.explore.watch.scopes import Scope, Tables

# In every scope there is a name of its own, from v0 on, in the order of the text.
ODD = """
Stream(1).map(lambda v: v * scale).filter(lambda v: v < limit, key=lambda v: -v).end(lambda v: v)
f(lambda v: v, *(lambda v: [v]), **(lambda v: {v}))(lambda v: 1, [v for v in x if v], {v for v in y})
(lambda p=lambda v: 1, *, q=lambda v: 2: lambda v=[lambda v: v]: 3)
[[v for v in [v for v in z]] for w in [v for v in [v for v in z]] if (lambda v: v)(w) for u in [v for v in z]]
{k: n for k in (lambda v: v)() if (kept := (lambda v: v)(k))}
{(lambda v: v): (lambda v: v), (lambda v: v): (lambda v: v), **(lambda v: v)()}
{(lambda v: v)(k): (lambda v: v)(n) for k, n in (lambda v: v)() for m in (lambda v: v)(k)}
f"{(lambda v: v)(1)!r:>{(lambda v: v)(2)}}" f"{[v for v in x]}{ {v for v in x} }"
x[lambda v: v] = y[lambda v: v], *rest = (lambda v: v), [v for v in x]
x[lambda v: v].a[lambda v: v] += (lambda v: v)()
(lambda v: v) if (lambda v: v) else (lambda v: v)
(lambda v: 1) < (lambda v: 2) < (lambda v: 3) in [v for v in x]
(v for v in x) and (v for v in y) or not (v for v in z)
with (lambda v: v)() as x[lambda v: v], (lambda v: v)() as y[lambda v: v]: (lambda v: v)
for x[lambda v: v] in (lambda v: v)(): (lambda v: v); (lambda v: v)
x[lambda v: v]: (lambda v: v) = (lambda v: v)
del x[lambda v: v], y[lambda v: v]
assert (lambda v: v), (lambda v: v)
raise (lambda v: v) from (lambda v: v)
x[(lambda v: v):(lambda v: v):(lambda v: v), (lambda v: v)]
async def f():
    return (await (lambda v: v)(), [v async for v in (lambda v: v)() if (lambda v: v)], (yield (lambda v: v)))
try: (lambda v: v)
except (lambda v: v)(): (lambda v: v)
else: (lambda v: v)
finally: (lambda v: v)
match (lambda v: v), (lambda v: v):
    case [1, a] if (lambda v: v)(a) and (lambda v: v): (lambda v: v); [v for v in x]
    case {"k": b} if [v for v in b if (lambda v: v)]: (lambda v: v)
@d(lambda v: v, [v for v in x])
@(lambda v: v)
def f(a: (lambda v: v), /, b: (lambda v: v) = (lambda v: v), *c: (lambda v: v), d: (lambda v: v) = [v for v in x], **e: (lambda v: v)) -> (lambda v: v): return (lambda v: v), (lambda v: v)
@(lambda v: v)
@(lambda v: v)(lambda v: v)
class K((lambda v: v)(), *[v for v in x], metaclass=(lambda v: v), **(lambda v: v)()): a = lambda v: v; b = [v for v in x]; c: (lambda v: v) = (lambda v: v)
class K:
    def f(self, p=[lambda v: v for v in x]): return lambda v: lambda v: (v for v in (lambda v: v)())
    class K: f = lambda self: (lambda v: v), (lambda v: v)
    __private = lambda v: (lambda __v: __v)
"""


def numbered() -> str:
    """Return the odd code with a name of its own in each scope."""
    pieces = ODD.split("lambda v")
    text = pieces[0] + "".join(f"lambda l{n}{each}" for n, each in enumerate(pieces[1:]))
    pieces = text.split("v for v in")
    return pieces[0] + "".join(f"c{n} for c{n} in{each}" for n, each in enumerate(pieces[1:]))


def own_name(node: ast.AST) -> str | None:
    """Return the name that only the scope of a node binds."""
    if isinstance(node, ast.Lambda) and node.args.args:
        return node.args.args[0].arg
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        target = node.generators[0].target
        return target.id if isinstance(target, ast.Name) else None
    return None


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_each_node_has_its_table(future: str) -> None:
    source = future + numbered()
    tree = ast.parse(source)
    tables = Tables(source, "odd.py", tree)
    seen = 0
    for node, table in tables.of.items():
        name = own_name(node)
        if name is None:
            continue
        seen += 1
        found = {each.removeprefix("_K") for each in table.get_identifiers()}
        assert name in found, (ast.unparse(node), table)
        if sys.version_info < (3, 12) or isinstance(node, ast.Lambda | ast.GeneratorExp):
            assert table.get_lineno() == getattr(node, "lineno", None)
    assert seen > (110 if future else 115)


def test_every_table_is_given_to_a_node_in_files_that_others_wrote() -> None:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[::6]:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        made = Tables(source, str(path), tree).of
        wanted = [
            each
            for each in ast.walk(tree)
            if isinstance(each, ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.ListComp)
        ]
        assert all(each in made for each in wanted), path


def test_a_source_that_is_not_the_trees_is_refused() -> None:
    tree = ast.parse("f(lambda x: 1)\n")
    for other in ("f(lambda x, y: 1)\n", "\nf(lambda x: 1)\n", "f([x for x in y])\n", "f(1)\n"):
        with pytest.raises(ValueError, match="symbol table"):
            Tables(other, "other.py", tree)
    with pytest.raises(ValueError, match="no node has"):
        Tables("f(lambda x: 1, lambda: 2)\n", "other.py", tree)


NESTED = """
def f(a, b, c, d):
    class K:
        a = a
        e = b
        global g
        g = 1
        def m(self): return a, c
        class Inner:
            def m(self): return d
    b = 2
    return b
"""


def test_where_names_live() -> None:
    tree = ast.parse(NESTED)
    tables = Tables(NESTED, "nested.py", tree)
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    inner = function.body[0]
    assert isinstance(inner, ast.ClassDef)
    outer, body = tables.function(function, ""), tables.of_class(inner)
    assert [outer.kind(each) for each in "abcdK"] == ["cell", "cell", "cell", "cell", "local"]
    assert [body.kind(each) for each in "abeg"] == ["class", "cell", "class", "global"]
    assert Scope(None, function=True).kind("a") == "local"
