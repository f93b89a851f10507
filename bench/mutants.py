"""The mutation check: every small mistake in what delivers messages must be found.

    python bench/mutants.py [--jobs N] [--only TEXT] [--list]

Mutants are the files and functions of `TARGETS` with one statement deleted, one comparison flipped, one
`not` dropped or one truth value turned over; and `MISTAKES`, each a known way to lose a message or to
spin.  Each runs in a process of its own: the scenarios of `QUICK` are explored, then come the unit tests of
the mailbox, the scheduler and the hypervisor, then the scenarios of `THOROUGH`; a mistake must not
survive the scenarios.  Nothing in the working tree is changed.

What survives both must stand in `mutants-equivalent.txt`, with the reason why it is none.  Exit status
1 when one does not, or when one that stands there is killed or gone.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

EQUIVALENT = TOP / "bench" / "mutants-equivalent.txt"
# File -> the functions to mutate; None for all of them.
TARGETS: dict[str, tuple[str, ...] | None] = {
    "hfsched/mailbox/mirror.py": None,
    "hfsched/mailbox/quiescence.py": None,
    "hfsched/mailbox/slot.py": None,
    "hfsched/mailbox/mailbox.py": (
        "__init__",
        "writable",
        "refuse",
        "write",
        "read",
        "release",
        "take_waiter",
        "became_writable",
        "take_ready",
    ),
    "hfsched/scheduler/driver.py": None,
    "hfsched/scheduler/outbox.py": None,
    "hfsched/scheduler/owners.py": None,
    "hfsched/scheduler/suspension.py": None,
    "hfsched/hypervisor/primary.py": (
        "send",
        "rx_take",
        "rx_release",
        "waiter",
        "writable",
        "inject",
    ),
    "hfsched/hypervisor/messaging.py": ("rx_release", "msg_send", "msg_wait", "msg_poll"),
}
QUICK = (
    "mailbox",
    "mailbox,receiver=wfi-echo,vcpus=2",
    "mailbox,receiver=reader-1,vcpus=2",
    "mailbox,boot=true",
    "mailbox,messages=3",
    "mailbox,messages=1,hosts=2",
    "mailbox,messages=1,guests=1",
    "events,messages=1",
    "events,event=abort,messages=1",
    "events,event=timer,messages=1",
    "events,event=death,messages=1",
    "events,event=post,messages=1",
    "suspension",
)
THOROUGH = (
    "events,vcpus=2,messages=1",
    "programs,program=nI-W;01;",
    "mailbox,receiver=trusty,boot=true",
    "mailbox,runners=1",
    "mailbox,vcpus=2,messages=1,guests=1",
    "programs,program=W_yyI;02;",
)
MISTAKES = (
    "NoBelief",
    "ClearsAfterTheRun",
    "ClearsAtAnyRun",
    "NeverClears",
    "TwoSteps",
    "TimerDoesNotClaim",
    "AbortWakesNobody",
    "OneDeliveryAtATime",
    "BusyIsASleep",
    "FixedTarget",
    "AlwaysHandsOut",
)
TESTS = ("tests/mailbox", "tests/scheduler", "tests/hypervisor")
EXECUTIONS = 3000  # of one scenario
HANG = 150  # seconds after which a mutant counts as killed: it does not end
FOR_SEARCHES = "key"  # the method by which states are told apart
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


@dataclass(frozen=True)
class Mutant:
    """One change: `key` names it by file, function, kind and the source line, whatever its number."""

    file: str
    line: int
    function: str
    kind: str
    text: str
    number: int  # among those of its file

    @property
    def key(self) -> str:
        return f"{self.file} | {self.function} | {self.kind} | {self.text}"


# Making mutants.


class _Places(ast.NodeVisitor):
    """All (function, kind, node, parent list or None) at which something can be changed."""

    def __init__(self, wanted: tuple[str, ...] | None) -> None:
        self._wanted = wanted
        self._inside: list[str] = []
        self.found: list[tuple[str, str, ast.AST]] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside.append(node.name)
        wanted = self._wanted is None or {self._inside[0], node.name} & set(self._wanted)
        if wanted and node.name != FOR_SEARCHES:
            for statement in _statements(node):
                if _worth(statement):
                    self._add("delete", statement)
            for inner in _expressions(node):
                if isinstance(inner, ast.Compare) and type(inner.ops[0]) in FLIPS:
                    self._add("flip", inner)
                elif isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
                    self._add("drop not", inner)
                elif isinstance(inner, ast.Constant) and isinstance(inner.value, bool):
                    self._add("turn over", inner)
        self._inside.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                self.visit_FunctionDef(statement)

    def _add(self, kind: str, node: ast.AST) -> None:
        self.found.append((".".join(self._inside), kind, node))


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
        if not (isinstance(child, ast.Call) and _is_for_searches(child)):
            yield child
            yield from _expressions(child)


def _is_for_searches(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr in ("retain_only", "checkpoint")


def _worth(statement: ast.stmt) -> bool:
    """Tell whether deleting it is a mistake of behaviour: no docstring, nothing for searches only."""
    if isinstance(statement, ast.Pass | ast.Assert | ast.Raise | ast.ImportFrom):
        return False
    if isinstance(statement, ast.AnnAssign) and statement.value is None:
        return False
    if isinstance(statement, ast.Expr):
        if isinstance(statement.value, ast.Constant):
            return False
        return not isinstance(statement.value, ast.Call) or not _is_for_searches(statement.value)
    return True


def mutants_of(file: str, source: str, wanted: tuple[str, ...] | None) -> list[Mutant]:
    """Return all mutants of a file, in order."""
    places = _Places(wanted)
    places.visit(ast.parse(source))
    lines = source.splitlines()
    seen: Counter[str] = Counter()
    mutants = []
    for number, (function, kind, node) in enumerate(places.found):
        text = lines[node.lineno - 1].strip()  # type: ignore[attr-defined]
        seen[f"{function}{kind}{text}"] += 1
        count = seen[f"{function}{kind}{text}"]
        kind_ = kind if count == 1 else f"{kind} #{count}"
        mutants.append(Mutant(file, node.lineno, function, kind_, text, number))  # type: ignore[attr-defined]
    return mutants


def mutated(source: str, wanted: tuple[str, ...] | None, number: int) -> ast.Module:
    """Return a file's tree with its mutant `number` in it."""
    tree = ast.parse(source)
    places = _Places(wanted)
    places.visit(tree)
    _, kind, node = places.found[number]
    if kind == "delete":
        return _without(tree, node)
    if kind == "flip":
        assert isinstance(node, ast.Compare)
        node.ops[0] = FLIPS[type(node.ops[0])]()
    elif kind == "turn over":
        assert isinstance(node, ast.Constant)
        node.value = not node.value
    else:
        assert isinstance(node, ast.UnaryOp)
        kept = copy.copy(node.operand)
        node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), kept)
    return ast.fix_missing_locations(tree)


def _without(tree: ast.Module, node: ast.AST) -> ast.Module:
    for parent in ast.walk(tree):
        for _, value in ast.iter_fields(parent):
            if isinstance(value, list) and node in value:
                value[value.index(node)] = ast.copy_location(ast.Pass(), node)
                return ast.fix_missing_locations(tree)
    raise AssertionError("no such statement")


# Running one, in a process of its own.


class Loader(importlib.abc.Loader, importlib.abc.MetaPathFinder):
    """Loads one module from a tree instead of its file."""

    def __init__(self, name: str, tree: ast.Module, path: str) -> None:
        self._name = name
        self._code = compile(tree, path, "exec")
        self._path = path

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


def run_mutant(file: str, number: int) -> str:
    """Load the mutant, and return what kills it, empty when nothing does."""
    path = TOP / file
    tree = mutated(path.read_text(), TARGETS[file], number)
    name = file.removesuffix(".py").replace("/", ".")
    sys.meta_path.insert(0, Loader(name, tree, str(path)))
    return explored(QUICK) or _tested() or explored(THOROUGH)


def run_mistake(name: str) -> str:
    """Put a known mistake in, and return the scenario that finds it."""
    from hfsched.mailbox.mailbox import Mailbox
    from hfsched.mailbox.mirror import Mirror
    from hfsched.scenarios import variants
    from hfsched.vmm.assembly import Parts

    faulty = getattr(importlib.import_module("tests.scheduler.test_lost_wakeups"), name)
    if issubclass(faulty, Mirror):
        parts = Parts(mirror=faulty)
    elif issubclass(faulty, Mailbox):
        parts = Parts(mailbox=faulty)
    else:
        parts = Parts(driver=faulty)
    variants.PARTS[""] = parts  # type: ignore[index]
    return explored(QUICK) or explored(THOROUGH)


def explored(specs: Sequence[str]) -> str:
    """Return which of the scenarios fails, and how; empty when none does."""
    try:
        from hfsched.explore.execution import search
        from hfsched.explore.registry import find
        from hfsched.explore.strategies.exhaustive import Exhaustive
    except Exception as exc:  # noqa: BLE001 - the mutant cannot even be imported
        return f"import: {type(exc).__name__}"
    for spec in specs:
        try:
            result = search(find(spec), Exhaustive(), until=lambda r: r.executions >= EXECUTIONS)
        except Exception as exc:  # noqa: BLE001 - it cannot be built
            return f"{spec}: {type(exc).__name__} while it is built"
        if result.failure is not None:
            words = str(result.failure.failure).split("\n")[0][:80]
            kind = type(result.failure.failure).__name__
            return f"{spec}: {result.executions} schedules: {kind}: {words}"
    return ""


def _tested() -> str:
    import pytest

    class Watch:
        first = ""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed and not self.first:
                self.first = report.nodeid

    watch = Watch()
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:hfsched", "--assert=plain", *TESTS]
    os.chdir(TOP)
    status = pytest.main(arguments, plugins=[watch])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {status}")
    return f"test {watch.first}" if status else ""


# All of them.


def fresh(program: str, what: list[str], hang: float = HANG) -> str:
    """Run one in a fresh process of this program or another one; return what killed it."""
    command = [sys.executable, program, "--child", *what]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=hang)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"it does not end within {hang:g} s"
    line = next((line for line in out.splitlines() if line.startswith("killer: ")), None)
    if line is None:
        raise RuntimeError(f"the check itself ended with {process.returncode}: {' '.join(command)}")
    return line[8:]


def _equivalents() -> dict[str, str]:
    known = {}
    for line in EQUIVALENT.read_text().splitlines():
        if line and not line.startswith("#"):
            key, _, reason = line.rpartition(" || ")
            known[key] = reason
    return known


def _all(only: str) -> tuple[list[Mutant], list[str]]:
    mutants = [
        mutant
        for file, wanted in TARGETS.items()
        for mutant in mutants_of(file, (TOP / file).read_text(), wanted)
        if only in mutant.key
    ]
    return mutants, [name for name in MISTAKES if only in name]


def check(jobs: int, only: str) -> int:
    """Run everything, and print what came of it."""
    mutants, mistakes = _all(only)
    known = _equivalents()
    bad = 0
    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda name: fresh(__file__, ["mistake", name]), mistakes)
        for name, killer in zip(mistakes, found, strict=True):
            bad += not killer
            print(f"mistake {name}: {killer or 'SURVIVES'}", flush=True)
        killers = pool.map(lambda m: fresh(__file__, ["mutant", m.file, str(m.number)]), mutants)
        totals: Counter[tuple[str, str]] = Counter()
        for mutant, killer in zip(mutants, killers, strict=True):
            reason = known.pop(mutant.key, None)
            how = _how(killer, reason)
            totals[mutant.file, how] += 1
            if how == "SURVIVES" or (killer and reason is not None):
                bad += 1
                print(f"{how}: {mutant.file}:{mutant.line}: {mutant.key}  {killer}", flush=True)
    if not only:
        for key in known:
            bad += 1
            print(f"listed as equivalent, and gone: {key}")
    _table(totals)
    print(f"{len(mutants)} mutants, {len(mistakes)} mistakes, {time.monotonic() - start:.0f} s")
    return 1 if bad else 0


def _how(killer: str, reason: str | None) -> str:
    if not killer:
        return "SURVIVES" if reason is None else "equivalent"
    if killer.startswith("test "):
        return "killed by a test"
    return "killed by exploring"


def _table(totals: Counter[tuple[str, str]]) -> None:
    columns = ("killed by exploring", "killed by a test", "equivalent", "SURVIVES")
    print("| file | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for file in dict.fromkeys(file for file, _ in totals):
        print(f"| {file} | " + " | ".join(str(totals[file, how]) for how in columns) + " |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", metavar="TEXT", help="those with TEXT in their name")
    parser.add_argument("--list", action="store_true", help="list them, and run none")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        kind, *what = args.child
        killer = run_mistake(what[0]) if kind == "mistake" else run_mutant(what[0], int(what[1]))
        print(f"\nkiller: {killer}", flush=True)
        os._exit(0)
    if args.list:
        for mutant in _all(args.only)[0]:
            print(f"{mutant.file}:{mutant.line}: {mutant.key}")
        return 0
    return check(args.jobs, args.only)


if __name__ == "__main__":
    sys.exit(main())
