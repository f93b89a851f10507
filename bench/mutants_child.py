"""One mutant or mistake in a process of its own: loaded instead of the file, explored and tested.

    python bench/mutants_child.py GROUP FILE NUMBER < LOOK
    python bench/mutants_child.py NAME
    python bench/mutants_child.py unchanged SCENARIO
    python bench/mutants_child.py unchanged tests GROUP

LOOK is JSON: what to look with, of what comes to the mistake's place.  The last ones search a scenario of the
code as it is, and run a group's tests of it.  Prints what it does, and at last ``killer:`` and what finds it,
nothing after it if nothing does, with ``seconds:`` of processor time before it; of the code as it is, JSON of the places that are reached, else what fails.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mistakes_places import mutated
from mutants_reached import Finder, instrumented, reached
from mutants_table import GROUPS, QUICK, THOROUGH, TOP

if TYPE_CHECKING:
    import pytest

    from hfsched.explore.execution import Result

__all__ = ["PREFIX", "SECONDS"]

EXECUTIONS, OF_MACHINES = 3000, 300  # of one scenario
RANDOM = (
    100  # then, unless they were all, by each of `STRATEGIES`: what is far from the first schedules
)
STRATEGIES = ("pos", "portfolio")
FIRST = 0.1  # of these, before unit tests of a small mistake
RACES, WALKS = 100, 50  # in a race pass,
RACE_SECONDS = 60.0  # of processor time at most
PREFIX, SECONDS = "killer: ", "seconds: "


@contextmanager
def _loaded(sources: Mapping[str, str]) -> Iterator[None]:
    """Have files of the package loaded with other source, by their names."""
    with tempfile.TemporaryDirectory() as directory:
        copies = {}
        for file, source in sources.items():
            copy = copies[Path(file)] = Path(directory, file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(source)
        sys.meta_path.insert(0, Finder(copies))
        yield


def run_mutant(group_name: str, file: str, number: int, look: Mapping[str, Sequence[str]]) -> str:
    """Load the mutant, and return what kills it, empty when nothing does.

    `look` has the ``scenarios``, the ``tests`` and the ``thorough`` scenarios that come to its place.
    """
    group, path = GROUPS[group_name], TOP / file
    tree = mutated(group.find, path.read_text(), number, group.files[file])
    with _loaded({file: ast.unparse(tree)}):
        specs, tests = look["scenarios"], look["tests"]
        if group.races:
            return _explored(specs) or _raced(specs) or _tested(tests)
        # Most of what any test finds costs less so.
        found = _explored(specs, FIRST) or _tested(tests)
        return found or _explored(specs) or _explored(look["thorough"])


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


def run_unchanged(spec: str) -> dict[str, dict[str, list[int]]]:
    """Search a scenario of the code as it is; return what it came to."""
    with _marked():
        if failure := _explored([spec]) or _raced([spec]):
            raise _FailsError(failure)
        return {spec: reached()}


def run_tests(group_name: str) -> dict[str, dict[str, list[int]]]:
    """Run a group's tests of the code as it is; return what each came to."""
    each: dict[str, dict[str, list[int]]] = {}
    with _marked():
        if failure := _tested(GROUPS[group_name].tests, each):
            raise _FailsError(failure)
    return each


class _FailsError(Exception):
    """The code as it is fails: whatever finds that, it finds no mutant."""


def _marked() -> AbstractContextManager[None]:
    files = dict.fromkeys(file for group in GROUPS.values() for file in group.files)
    return _loaded({file: instrumented(file, (TOP / file).read_text()) for file in files})


def _explored(specs: Sequence[str], share: float = 1) -> str:
    """Search scenarios, each with this share of its executions; return what fails, empty when nothing does."""
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
        most = int(most * share)
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


def _tested(tests: Sequence[str], came: dict[str, dict[str, list[int]]] | None = None) -> str:
    """Run folders of tests, or single ones; with `came`, note there what each came to."""
    if not tests:
        return ""
    import pytest

    class Watch:
        first = ""

        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            if "::" in tests[0]:
                items[:] = [item for item in items if item.nodeid in set(tests)]

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed and not self.first:
                self.first = report.nodeid

        def pytest_runtest_logfinish(self, nodeid: str) -> None:
            if came is not None:
                came[nodeid] = reached()

    watch = Watch()
    places = dict.fromkeys(test.partition("::")[0] for test in tests)
    arguments = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-p", "no:hfsched", "--assert=plain"]
    os.chdir(TOP)
    status = pytest.main([*arguments, *places], plugins=[watch])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {status}")
    return f"test {watch.first}" if status else ""


def main(words: Sequence[str]) -> str:
    """Do what the words say, and return what is printed at last."""
    if len(words) == 1:
        return run_mistake(words[0])
    if words[0] != "unchanged":
        return run_mutant(words[0], words[1], int(words[2]), json.load(sys.stdin))
    try:
        return json.dumps(run_tests(words[2]) if words[1] == "tests" else run_unchanged(words[1]))
    except _FailsError as exc:
        return str(exc)


if __name__ == "__main__":
    _said = main(sys.argv[1:])
    print(f"\n{SECONDS}{sum(os.times()[:4]):.1f}\n{PREFIX}{_said}", flush=True)
    os._exit(0)
