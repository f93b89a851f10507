"""The mistakes of `bench/mutants.py`: each kind on a few lines of code."""

from __future__ import annotations

import ast
import textwrap

import pytest
from mistakes_places import mutants_of, mutated
from mistakes_races import KINDS, find_races
from mistakes_small import find_small
from mutants import equivalents
from mutants_table import GROUPS

CASES = {
    "wake before state": (
        """
        def f(self):
            self.value = 1
            self.event.set()
        """,
        """
        def f(self):
            self.event.set()
            self.value = 1
        """,
    ),
    "one woken": (
        """
        def f(self):
            for each in self.all:
                each.room.set()
        """,
        """
        def f(self):
            for each in list(self.all)[:1]:
                each.room.set()
        """,
    ),
    "no recheck": (
        """
        def f(self):
            while not self.value:
                self.event.wait()
            return self.value
        """,
        """
        def f(self):
            while not self.value:
                self.event.wait()
                break
            return self.value
        """,
    ),
    "stale copy": (
        """
        def f(self):
            with self._lock:
                value = self.value
                return value
        """,
        """
        def f(self):
            value = self.value
            with self._lock:
                return value
        """,
    ),
    "check, then act": (
        """
        def f(self):
            with self._lock:
                if self.value:
                    act()
        """,
        """
        def f(self):
            _seen_before = bool(self.value)
            with self._lock:
                if _seen_before:
                    act()
        """,
    ),
    "let go early": (
        """
        def f(self):
            with self._lock:
                use()
                self.value = 2
        """,
        """
        def f(self):
            with self._lock:
                use()
            self.value = 2
        """,
    ),
    "swapped": (
        """
        def f(self):
            self.first.set()
            self.second.set()
        """,
        """
        def f(self):
            self.second.set()
            self.first.set()
        """,
    ),
    "cleared late": (
        """
        def f(self):
            self.event.clear()
            use(self.value)
        """,
        """
        def f(self):
            use(self.value)
            self.event.clear()
        """,
    ),
}


def lines(text: str) -> str:
    return textwrap.dedent(text).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_makes_its_mistake_and_no_other_does(kind: str) -> None:
    right, wrong = map(lines, CASES[kind])
    found = mutants_of(find_races, "f.py", right)
    assert [each.kind for each in found] == [kind]
    assert ast.unparse(mutated(find_races, right, 0)) == wrong


@pytest.mark.parametrize(
    "text",
    [
        "def __init__(self):\n    self.value = 1\n    self.event.set()",
        "def f(self):\n    self.value = 1\n    self.cell.set(2)",
        "def f(self):\n    with self._lock:\n        self.value = 1",
        "def f(self):\n    with self._lock:\n        value = 1\n        return value",
        "def f(self):\n    with open(self.path) as file:\n        use(self.value)\n        self.value = 1",
        "def key(self):\n    self.first.set()\n    self.second.set()",
        "def f(self):\n    while True:\n        self.event.wait()",
        "def f(self):\n    for each in self.all:\n        use(each)",
        "def f(self):\n    self.event.clear()\n    return self.value",
    ],
)
def test_what_is_no_place_for_a_mistake(text: str) -> None:
    assert mutants_of(find_races, "f.py", text) == []


def test_a_wake_after_a_locked_part_may_come_before_it() -> None:
    right = "def f(self):\n    with self._lock:\n        self.value = 1\n    self.event.set()"
    wrong = "def f(self):\n    self.event.set()\n    with self._lock:\n        self.value = 1"
    assert ast.unparse(mutated(find_races, right, 0)) == wrong


def test_under_a_lock_a_wake_or_a_clearing_comes_out_of_it() -> None:
    right = """
        def f(self):
            with self._lock:
                self.event.clear()
                self.value = 1
                self.done.set()
    """
    found = mutants_of(find_races, "f.py", lines(right))
    made = {
        each.kind: ast.unparse(mutated(find_races, lines(right), each.number)) for each in found
    }
    assert made["wake before state"] == lines("""
        def f(self):
            self.done.set()
            with self._lock:
                self.event.clear()
                self.value = 1
    """)
    assert made["cleared late"] == lines("""
        def f(self):
            with self._lock:
                self.value = 1
                self.done.set()
            self.event.clear()
    """)
    assert made.keys() == {"wake before state", "cleared late", "let go early"}


def test_a_wake_of_what_is_found_under_the_lock_stays_there() -> None:
    text = "def f(self):\n    with self._lock:\n        if self.a:\n            task = self.a\n        task.done.set()"
    kinds = [each.kind for each in mutants_of(find_races, "f.py", text)]
    assert "wake before state" not in kinds


def test_notes_for_searches_are_no_statements() -> None:
    right = """
        def f(self):
            self.value = 1
            self.runtime.retain_only(1)
            self.event.set()
    """
    wrong = """
        def f(self):
            self.event.set()
            self.value = 1
            self.runtime.retain_only(1)
    """
    assert ast.unparse(mutated(find_races, lines(right), 0)) == lines(wrong)


def test_equal_lines_have_names_of_their_own() -> None:
    text = """
        class A:
            def f(self):
                with self._lock:
                    use()
                    self.value = 1
                with self._lock:
                    use()
                    self.value = 2
    """
    keys = [each.key for each in mutants_of(find_races, "f.py", lines(text))]
    same = "f.py | A.f | let go early"
    assert keys == [f"{same} | with self._lock:", f"{same} #2 | with self._lock:"]


def test_functions_that_are_wanted() -> None:
    text = "def f(self):\n    self.a.set()\n    self.b.set()\ndef g(self):\n    self.a.set()\n    self.b.set()"
    assert [each.function for each in mutants_of(find_races, "f.py", text, ["g"])] == ["g"]


def test_small_mistakes() -> None:
    text = "def f(self):\n    if not self.a == 1:\n        self.b = True\n"
    found = mutants_of(find_small, "f.py", text)
    assert [each.kind for each in found] == ["delete", "delete", "drop not", "flip", "turn over"]
    made = [ast.unparse(mutated(find_small, text, each.number)) for each in found]
    assert len({*made}) == 5
    assert made[2] == "def f(self):\n    if not not self.a == 1:\n        self.b = True"


def test_every_mistake_that_is_judged_can_be_made() -> None:
    made = {mutant.key for group in GROUPS.values() for mutant in group.mutants()}
    assert equivalents().keys() - made == set()
