"""Watched code does what the plain code does, in a watched execution and outside one."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from hfsched.explore.execution import execute
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.explore.watch.codes import _File, is_watched
from hfsched.explore.watch.control import watched_codes
from hfsched.explore.watch.hooks import HOOKS
from hfsched.explore.watch.watcher import Watcher

CASES = """
from __future__ import annotations
import contextlib, dataclasses, functools
from collections import Counter, defaultdict, deque

class Base:
    kind = "base"
    def __init__(self): self.__private = 1; self.items = [3, 1, 2]
    @property
    def private(self): return self.__private
    @private.setter
    def private(self, value): self.__private = value
    def describe(self): return f"{self.kind}:{self.__private!r:>4}"
    def __len__(self): return 0
    def __enter__(self): return self
    def __exit__(self, *exc): self.exc = exc[0]; return True

class Derived(Base):
    __slots__ = ("slot",)
    def __init__(self): super().__init__(); self.slot = 5
    def describe(self): return "derived " + super().describe() + __class__.__name__
    @classmethod
    def made(cls): return cls()
    @staticmethod
    def double(x): return x * 2
    @functools.cached_property
    def cached(self): return [self.slot]

@dataclasses.dataclass(frozen=True)
class Point:
    x: int = 0
    y: int = 0

def augmented():
    d, lst, obj = {"a": 1}, [1, [2]], Derived()
    d["a"] += 2; lst[1] += [3]; lst += (4,); obj.slot -= 1; obj.items += [9]
    n = 1; n <<= 3; d |= {"b": 2}
    return d, lst, obj.slot, obj.items, n

def targets():
    a = [0, 0, 0]; i = 0
    i, a[i] = 1, 7
    a[i], *rest, (b, c) = [8, 9, 10, (11, 12)]
    obj = Derived(); obj.slot, a[2] = "s", "t"
    a[0:2] = "xyz"
    del a[0], obj.slot
    for a[-1] in range(3): pass
    with contextlib.suppress(KeyError), contextlib.nullcontext(5) as a[0]: {}["no"]
    return a, i, rest, b, c, hasattr(obj, "slot")

def closures():
    total = 0; functions = []
    def add(n):
        nonlocal total
        total += n
        return total
    for k in range(3):
        functions.append(lambda k=k: (k, total)); functions.append(lambda: k)
    add(2); add(n=3)
    if (seen := total) > 4: add(seen)
    try: raise ValueError("x")
    except ValueError as total_error: text = (lambda: str(total_error))()
    return total, [f() for f in functions], text

def generators():
    def numbers(n):
        got = []
        while n: got.append((yield n)); n -= 1
        return got
    def outer(): return (yield from numbers(3)), (yield from [7, 8])
    g = outer(); out = [next(g), g.send("a"), g.send("b")]
    for each in g: out.append(each)
    return out, [x + y for x in (1, 2) for y in [10, 20] if not x == y], {k: v for k, v in {"a": 1}.items()}, {*"ab"} == set("ba")

def iteration():
    lst = [1, 2, 3]; out = []
    for x in lst:
        if x == 2: lst.append(4)
        out.append(x)
    else: out.append("else")
    pairs = [[1, "a"], [2, "b"]]
    for number, letter in pairs: out.append(letter * number)
    out += [list(reversed(lst)), list(zip(lst, "abc")), list(map(str, lst)), max(*lst, 0), sorted(lst, key=lambda v: -v)]
    return out, dict(enumerate("ab")), any(x > 3 for x in lst), sum(lst), *lst

def operators():
    e = []; d = defaultdict(list); d["k"].append(1); c = Counter("aab"); q = deque([1, 2], maxlen=2); q.append(3)
    b = bytearray(b"abcdef"); b[1:3] = b"XYZ"; b[-1] = 33
    m = memoryview(b)[1:3]
    return (e or "empty", not e, 1 if e else 2, 3 in [3], "k" in d, "z" not in d, 1 < 2 < 3, 1 < 3 < 2, e is None, [1] == [1], c, q, bytes(b), bytes(m), -1 ** 2, ~5, "%s" % (e,), [*e, *q], {**d}, Point(1) == Point(1, 0), dataclasses.replace(Point(), y=4), len(Derived()), bool(Derived()))

def classes():
    made = Derived.made(); made.private = 4
    with made as inside: raise RuntimeError("kept")
    setattr(made, "kind", "own"); made.__dict__["late"] = 1; vars(made).update(later=2)
    class Local(Derived):
        table = [n for n in range(3)]
        def __getattr__(self, name): return "got " + name
        def __setitem__(self, key, value): self.last = key, value
        def __getitem__(self, key): return key
    local = Local(); local[1:2] = 3; local["k"] = 4
    return made.describe(), made.exc.__name__, made.late, made.later, local.nothing, local.last, local[2, 3:4], Local.table, Local.double(4), made.cached, made.cached is made.cached, isinstance(local, Base)

def matching():
    out = []
    for value in (Point(1, 2), Point(y=5), [1, 2, 3], {"k": 1, "z": 2}, "text", None):
        match value:
            case Point(x=1, y=y): out.append(("one", y))
            case Point(a, b) if b: out.append((a, b))
            case [first, *rest]: out.append((first, rest))
            case {"k": k, **others}: out.append((k, others))
            case str() | None: out.append("other")
    return out

class Kind:
    LIMIT = 3
    __match_args__ = ("low", "high")
    def __init__(self, low, high): self.low, self.high = low, high
def patterns():
    out, table = [], defaultdict(list, k=[1, (2, 3)])
    subjects = (Kind(1, [2, 3]), Kind(3, {"a": Kind(0, ())}), [0, [1, deque([2])]], (1, 2), "ab", b"ab", bytearray(b"ab"),
                1 + 2j, -1, True, None, {"a": 1, -1: 2, None: 3}, table, range(3), {1}, Point(4, Point()), 3, 3.0)
    for value in subjects:
        match value:
            case Kind(1, [2, x]) | Kind(Kind.LIMIT, {"a": Kind(x, [])}): out.append(("kind", x))
            case [0, [1, [2] as inner]]: out.append(inner)
            case (1, _) | "ab": out.append(value)
            case bytes(x) | bytearray(x): out.append(x)
            case {"a": 1, -1: x, None: 3, **rest}: out.append((x, rest))
            case {"k": [1, (*_, 3) as x]}: out.append((x, len(table)))
            case {"missing": _}: out.append("never")
            case [0, *_, x]: out.append(x)
            case Point(x=4, y=Point(0, y)): out.append(y)
            case True | None: out.append("single")
            case -1 | 1+2j: out.append("number")
            case int(x) if x == Kind.LIMIT: out.append("int")
            case float() as x: out.append(x)
            case other: out.append(type(other).__name__)
    match 1, 2:
        case a, b if a > b: out.append("greater")
        case b, a: out.append((a, b))
    class Inside:
        match subjects[0]:
            case Kind(low=own): pass
    try:
        match Kind(1, 2):
            case Kind(1, 2, 3): pass
    except TypeError as exc: out.append(str(exc))
    return out, Inside.own, sorted(vars(Inside))

def unpacking():
    out = []
    def pairs():
        try:
            yield 1, [2, (3, 4)]
            yield "ab", iter([5, "cd"])
        finally: out.append("closed")
    for a, (b, (c, d)) in pairs():
        out.append((a, b, c, d))
        if a == 1: continue
    for a, *_ in pairs(): break
    out.append("after")
    for a in map(len, (pair[1:] for pair in pairs())): break
    for a, (b, (c, d)) in zip(iter("xyz"), pairs()): break
    out.append("after these")
    [(a, *b), c] = {"xyz": 1, "w": 2}
    *a, (b, *c), d = x = iter([0, (1, 2, 3), 4])
    (e, (f, g)), = [(h, i) for h, (*i,) in [(1, {2: 3}.items())] for h, i in [(7, (8, 9))]]
    for wrong in (5, (1,), (1, 2, 3), (1, 5), (1, (1, 2, 3)), None, iter([1])):
        try: a, (b, c) = wrong
        except (TypeError, ValueError) as exc: out.append((type(exc).__name__, str(exc)))
        try:
            for a, b in wrong: pass
        except (TypeError, ValueError) as exc: out.append((type(exc).__name__, str(exc)))
    with contextlib.nullcontext((1, (2, 3))) as (a, [b, c]), contextlib.suppress(KeyError): {}["no"]
    try:
        with 5 as (a, b): pass
    except TypeError as exc: out.append(str(exc))
    async def run():
        async def source():
            yield 1, (2, 3)
        return [(await asyncio.sleep(0, k), m) async for k, (l, m) in source()]
    import asyncio
    loop = asyncio.new_event_loop()
    try: out.append(loop.run_until_complete(run()))
    finally: loop.close()
    return out, a, b, c, d, e, f, g, type(x).__name__

n = "module"
def bodies():
    n, m, marks = "function", 1, []
    def mark(of): marks.append(of.__name__); return of
    @mark
    @functools.total_ordering
    class K:
        n = n
        m = 1
        k = m
        o = [n for _ in "a"]
        m = 2
        k += m
        global made_here
        made_here = k
        @staticmethod
        def __lt__(a): return n
        @property
        @mark
        def p(self): return n, m
        if (w := made_here): del w
    try:
        class Broken: v = missing_name
    except NameError as exc: marks.append(str(exc))
    del n
    try: n
    except NameError as exc: marks.append(str(exc))
    m = 5
    return K.n, K.k, K.o, K.m, made_here, marks, hasattr(K, "w"), (lambda: m)()

def errors():
    out = []
    for act in (lambda: {}["x"], lambda: [][3], lambda: None.missing, lambda: undefined, lambda: len(3), lambda: Point().__setattr__("x", 1)):
        try: act()
        except Exception as exc: out.append((type(exc).__name__, str(exc)))
    def unbound():
        if not out: late = 1
        return (lambda: late)()
    try: unbound()
    except NameError as exc: out.append(str(exc))
    return out

counted = 0
def variables():
    global counted
    counted += 1; before = counted
    globals()["counted"] = 10
    import os.path as path; from collections import abc
    assert counted == 10, "not seen"
    return before, counted, path.basename("a/b"), abc.Sized.__name__, sorted(locals())[:2]

@functools.lru_cache
def cached(n): return n if n < 2 else cached(n - 1) + cached(n - 2)
def decorated():
    def twice(f):
        @functools.wraps(f)
        def wrapper(*a, **k): return f(*a, **k), f(*a, **k)
        return wrapper
    @twice
    def named(x, /, y=2, *rest, z, **more): return x, y, rest, z, more
    return named(1, z=3), named(1, 2, 3, z=4, w=5), named.__name__, cached(12), functools.partial(named, 1)(z=0)
"""
NAMES = [
    "augmented",
    "targets",
    "closures",
    "generators",
    "iteration",
    "operators",
    "classes",
    "matching",
    "patterns",
    "unpacking",
    "bodies",
    "errors",
    "variables",
    "decorated",
]


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    file = tmp_path / "cases.py"
    file.write_text(CASES)

    def load() -> dict[str, Any]:
        module = ModuleType("cases")
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, "cases", module)
        exec(compile(CASES, str(file), "exec", dont_inherit=True), vars(module))
        return vars(module)

    return load


def watched_result(function: FunctionType) -> object:
    """Return what a function returns in a watched execution."""
    results: list[object] = []

    class Scenario:
        name = "cases"

        def build(self, runtime: ExploreRuntime) -> World:
            assert is_watched(function.__code__)
            runtime.spawn("task", lambda: results.append(function()))
            return World()

    outcome = execute(Scenario(), RandomWalk(1), watcher=Watcher())
    if outcome.failure is not None:
        raise outcome.failure
    return results[0]


@pytest.mark.parametrize("name", NAMES)
def test_watched_code_returns_the_same(cases: Any, name: str) -> None:
    plain = repr(cases()[name]())
    assert repr(watched_result(cases()[name])) == plain
    function = cases()[name]
    with watched_codes():  # and where no execution is watched
        assert is_watched(function.__code__)
        assert repr(function()) == plain


def test_every_function_of_the_cases_is_watched(cases: Any, tmp_path: Path) -> None:
    found = cases()
    file = _File(str(tmp_path / "cases.py"), HOOKS)
    for name in NAMES:
        assert file.watched(found[name].__code__) is not None


def test_the_codes_are_exchanged_and_restored(cases: Any) -> None:
    function = cases()["closures"]
    plain = function.__code__
    with watched_codes():
        assert is_watched(function.__code__)
        with watched_codes():
            pass
        assert is_watched(function.__code__)
    assert function.__code__ is plain


def test_a_traceback_has_the_lines_of_the_source(cases: Any, tmp_path: Path) -> None:
    def lines(function: Callable[[], object]) -> list[int | None]:
        with pytest.raises(ZeroDivisionError) as caught:
            function()
        frames = traceback.extract_tb(caught.value.__traceback__)
        return [frame.lineno for frame in frames if frame.filename.endswith("failing.py")]

    source = "def inner(x):\n    y = [x]\n    return y[0] / 0\n\n\ndef outer():\n    inner(\n        1\n    )\n"
    file = tmp_path / "failing.py"
    file.write_text(source)
    found: dict[str, Any] = {}
    exec(compile(source, str(file), "exec", dont_inherit=True), found)
    plain = lines(found["outer"])
    with watched_codes():
        assert is_watched(found["inner"].__code__)
        assert lines(found["outer"]) == plain == [7, 3]
