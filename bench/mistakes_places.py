"""Places in a source file where a mistake can be made, whatever its kind.

A `Place` is found in a tree, and changes that tree.  Trees of the same source have the same places in the
same order, so that a number names one.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

__all__ = [
    "FOR_SEARCHES",
    "Finder",
    "Mutant",
    "Place",
    "functions",
    "is_note",
    "mutants_of",
    "mutated",
    "statements",
]

FOR_SEARCHES = ("key", "__repr__")  # methods by which states are told apart, or shown
NOTES = (
    "retain_only",
    "checkpoint",
    "declare_retry",
    "declare_private",
)  # what only searches look at


@dataclass(frozen=True)
class Place:
    """Where a mistake of a kind can be made: `make` makes it, in the tree that the place is from."""

    function: str
    kind: str
    line: int
    make: Callable[[], None]


Finder = Callable[[ast.Module, Sequence[str] | None], list[Place]]


@dataclass(frozen=True)
class Mutant:
    """One change: `key` names it by file, function, kind and the source line, whatever its number."""

    file: str
    line: int
    function: str
    kind: str
    text: str
    number: int  # among the places of its file

    @property
    def key(self) -> str:
        return f"{self.file} | {self.function} | {self.kind} | {self.text}"


def mutants_of(
    find: Finder, file: str, source: str, wanted: Sequence[str] | None = None
) -> list[Mutant]:
    """Return a mutant for each place that `find` finds in a file, in order."""
    lines = source.splitlines()
    seen: Counter[str] = Counter()
    mutants = []
    for number, place in enumerate(find(ast.parse(source), wanted)):
        text = lines[place.line - 1].strip()
        name = f"{place.function}{place.kind}{text}"
        seen[name] += 1
        kind = place.kind if seen[name] == 1 else f"{place.kind} #{seen[name]}"
        mutants.append(Mutant(file, place.line, place.function, kind, text, number))
    return mutants


def mutated(
    find: Finder, source: str, number: int, wanted: Sequence[str] | None = None
) -> ast.Module:
    """Return a file's tree with the mistake `number` in it."""
    tree = ast.parse(source)
    find(tree, wanted)[number].make()
    return ast.fix_missing_locations(tree)


def functions(
    tree: ast.Module, wanted: Sequence[str] | None
) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield each function with its name, ``Class.method``, and those inside it after it."""

    def inside(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                path = (*names, child.name)
                known = wanted is None or {*path} & {*wanted}
                if known and child.name not in FOR_SEARCHES:
                    yield ".".join(path), child
                yield from inside(child, path)
            elif isinstance(child, ast.ClassDef):
                yield from inside(child, (*names, child.name))
            elif isinstance(child, ast.stmt):
                yield from inside(child, names)

    yield from inside(tree, ())


def statements(block: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return the statements of a block that are not for searches alone."""
    return [each for each in block if not is_note(each)]


def is_note(node: ast.AST) -> bool:
    """Return whether a node is a call that only searches look at, or a docstring."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or is_note(node.value)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in NOTES
    )
