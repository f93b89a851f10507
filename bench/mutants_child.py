"""One mutant or mistake in a process of its own: loaded instead of the file, explored and tested.

    python bench/mutants_child.py GROUP FILE NUMBER
    python bench/mutants_child.py NAME
    python bench/mutants_child.py unchanged SCENARIO
    python bench/mutants_child.py unchanged tests GROUP

The last ones search a scenario of the code as it is, and run a group's tests of it.  Prints what it does, and at last ``killer:`` and what finds it; nothing after it if nothing does.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mistakes_places import mutated
from mutants_table import GROUPS, QUICK, THOROUGH, TOP

if TYPE_CHECKING:
    from hfsched.explore.execution import Result

__all__ = ["EXECUTIONS", "PREFIX"]

EXECUTIONS, OF_MACHINES = 3000, 300  # of one scenario
RANDOM = (
    100  # then, unless they were all, by each of `STRATEGIES`: what is far from the first schedules
)
STRATEGIES = ("pos", "random")
RACES, WALKS = 100, 50  # in a race pass,
RACE_SECONDS = 60.0  # of processor time at most
PREFIX = "killer: "


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module in another file than its own: a race pass reads the source, too."""

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._path = path

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path)


def run_mutant(group_name: str, file: str, number: int) -> str:
    """Load the mutant, and return what kills it, empty when nothing does."""
    group, path = GROUPS[group_name], TOP / file
    tree = mutated(group.find, path.read_text(), number, group.files[file])
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, path.name)
        copy.write_text(ast.unparse(tree))
        sys.meta_path.insert(0, _Finder(file.removesuffix(".py").replace("/", "."), copy))
        specs = group.scenarios(file)
        return (
            _explored(specs)
            or (_raced(specs) if group.races else "")
            or _tested(group.tests)
            or _explored(group.thorough)
        )


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
    return _explored(QUICK) or _explored(THOROUGH)


def run_unchanged(spec: str) -> str:
    """Return what finds a failure in the code as it is, empty when nothing does: whatever it is, it finds no mutant."""
    return _explored([spec]) or _raced([spec])


def _explored(specs: Sequence[str]) -> str:
    try:
        from hfsched.explore.execution import search
        from hfsched.explore.registry import find
        from hfsched.explore.strategies.choose import make
    except Exception as exc:  # noqa: BLE001 - the mutant cannot even be imported
        return f"import: {type(exc).__name__}"
    complete = set()
    for strategy, spec in product(("exhaustive", *STRATEGIES), specs):
        if spec in complete or (strategy == "exhaustive" and "idle=true" in spec):
            continue  # nothing is left of it; or it has no end where time stands still
        print(f"{strategy} {spec}", flush=True)
        most = OF_MACHINES if spec.startswith("machine") else EXECUTIONS
        if strategy in STRATEGIES:
            most = RANDOM
        try:
            result = search(find(spec), make(strategy, 0), until=partial(_enough, most))
        except Exception as exc:  # noqa: BLE001 - it cannot be built
            return f"{spec}: {type(exc).__name__} while it is built"
        if result.complete:
            complete.add(spec)
        if result.failure is not None:
            words = str(result.failure.failure).split("\n")[0][:80]
            kind = type(result.failure.failure).__name__
            return f"{spec}: {strategy}, {result.executions} schedules: {kind}: {words}"
    return ""


def _enough(most: int, so_far: Result) -> bool:
    print(".", end="", flush=True)  # it gets on
    return so_far.executions >= most


def _used_up(end: float) -> bool:
    print(".", end="", flush=True)
    return time.process_time() >= end


def _raced(specs: Sequence[str]) -> str:
    from hfsched.explore.registry import find
    from hfsched.explore.watch.racepass import race_pass

    for spec in specs:
        if spec.startswith("programs"):
            continue  # what its guests note for the oracles has no order
        print(f"race pass {spec}", flush=True)
        # Without a cache a guest that never waits may run to the limit of steps in each.
        over = partial(_used_up, time.process_time() + RACE_SECONDS)
        found = race_pass(find(spec), executions=RACES, walks=WALKS, over=over).failure
        if found is not None:
            return f"{spec}: race pass: {str(found.outcome.failure)[:120]}"
    return ""


def _tested(tests: Sequence[str]) -> str:
    import pytest

    class Watch:
        first = ""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed and not self.first:
                self.first = report.nodeid

    watch = Watch()
    arguments = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-p", "no:hfsched", "--assert=plain"]
    os.chdir(TOP)
    status = pytest.main([*arguments, *tests], plugins=[watch])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {status}")
    return f"test {watch.first}" if status else ""


if __name__ == "__main__":
    _words = sys.argv[1:]
    if len(_words) == 1:
        _killer = run_mistake(_words[0])
    elif _words[:2] == ["unchanged", "tests"]:
        _killer = _tested(GROUPS[_words[2]].tests)
    elif len(_words) == 2:
        _killer = run_unchanged(_words[1])
    else:
        _killer = run_mutant(_words[0], _words[1], int(_words[2]))
    print(f"\n{PREFIX}{_killer}", flush=True)
    os._exit(0)
