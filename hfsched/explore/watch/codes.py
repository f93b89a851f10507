"""The two codes of each function: plain, and watched.  They are exchanged by assigning ``__code__``.

Nothing is imported in another way for it, so pytest's own rewriting of modules is not disturbed, and a
function that is not exchanged runs at its full speed.  Functions are found among all objects of the
process, by the file of their code: methods, properties, lambdas, functions inside decorators.  Those
that a watched function makes have watched code from the beginning.
"""

from __future__ import annotations

import ast
import functools
import gc
import sys
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from hfsched.explore.watch.replaced import may_be_replaced
from hfsched.explore.watch.rewrite import MARK, VARIABLE, rewritten

__all__ = ["Codes", "is_explorer_file", "is_watched", "is_watched_file"]

_Key = tuple[str, int, tuple[str, ...], tuple[str, ...]]
_PACKAGE = Path(__file__).resolve().parents[2]
# The explorer, and what it is written with: never watched.
_OWN = tuple(
    f"{_PACKAGE}/{name}" for name in ("explore/", "runtime/", "cli/", "errors.py", "text.py")
)
_INSTALLED = tuple(
    f"{Path(sysconfig.get_path(name))}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


@functools.cache
def is_explorer_file(filename: str) -> bool:
    """Return whether a source file is the explorer's, or what it is written with."""
    path = str(Path(filename).resolve())
    return path.startswith(_OWN)


@functools.cache
def is_watched_file(filename: str) -> bool:
    """Return whether functions of this source file are explored: not the explorer's or a library's."""
    if not filename.endswith(".py") or is_explorer_file(filename):
        return False
    path = str(Path(filename).resolve())
    return path.startswith(f"{_PACKAGE}/") or not path.startswith(_INSTALLED)


_known: dict[int, CodeType] = {}  # every watched code, by id


def is_watched(code: CodeType) -> bool:
    """Return whether this is a watched code."""
    return id(code) in _known


class _File:
    """The watched codes of one source file."""

    def __init__(self, filename: str, hooks: Mapping[str, Callable[..., object]]) -> None:
        source = Path(filename).read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # a constant is called: a hook
            plain = compile(ast.parse(source, filename), filename, "exec", dont_inherit=True)
            tree, self.deciding, assigned = rewritten(source, filename)
            may_be_replaced(assigned)
            watched = compile(tree, filename, "exec", dont_inherit=True)
        self._plain: dict[_Key, list[CodeType]] = defaultdict(list)
        self._watched: dict[_Key, list[CodeType]] = defaultdict(list)
        for code in _functions(plain):
            self._plain[_key(code)].append(code)
        for code in _functions(_with_hooks(watched, hooks)):
            self._watched[_key(code)].append(code)
        _known.update({id(code): code for codes in self._watched.values() for code in codes})

    def watched(self, code: CodeType) -> CodeType | None:
        """Return the watched form of a function's code; None if it is not found for certain."""
        key = _key(code)
        found = self._watched.get(key, [])
        if len(found) == 1:
            return found[0]
        plain = self._plain.get(key, [])
        if code in plain and len(plain) == len(found):
            return found[plain.index(code)]
        return None


def _key(code: CodeType) -> _Key:
    arguments = code.co_argcount + code.co_kwonlyargcount
    arguments += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
    return (code.co_qualname, code.co_firstlineno, code.co_freevars, code.co_varnames[:arguments])


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Return the codes inside a code, but not those of the lambdas that only name a variable."""
    for each in code.co_consts:
        if isinstance(each, CodeType) and VARIABLE not in each.co_varnames:
            yield each
            yield from _functions(each)


def _with_hooks(code: CodeType, hooks: Mapping[str, Callable[..., object]]) -> CodeType:
    """Return a code with the hooks in the place of their marks."""
    constants: list[object] = []
    for each in code.co_consts:
        if isinstance(each, CodeType):
            constants.append(_with_hooks(each, hooks))
        elif isinstance(each, str) and each.startswith(MARK):
            constants.append(hooks[each.removeprefix(MARK)])
        else:
            constants.append(each)
    return code.replace(co_consts=tuple(constants))


class Codes:
    """The functions of this process that are explored, each with its plain and its watched code."""

    def __init__(self, hooks: Mapping[str, Callable[..., object]]) -> None:
        self._hooks = hooks
        self._files: dict[str, _File | None] = {}
        self._plain: dict[FunctionType, CodeType] = {}

    def watch(self) -> None:
        """Give every function its watched code."""
        for function in _all_functions():
            code = function.__code__
            if not is_watched_file(code.co_filename):
                continue
            if is_watched(code):
                continue  # made by watched code
            file = self._file(code.co_filename)
            watched = None if file is None else file.watched(code)
            if watched is not None:  # else a call of it is listed: it has no rule
                function.__code__ = watched
                self._plain[function] = code

    def deciding(self, field: str) -> tuple[str, int] | None:
        """Return a file and line in which a field of this name decides control flow."""
        for name, file in self._files.items():
            if file is not None and field in file.deciding:
                return name, file.deciding[field]
        return None

    def restore(self) -> None:
        """Give every function its plain code."""
        for function, code in self._plain.items():
            function.__code__ = code
        self._plain.clear()

    def _file(self, filename: str) -> _File | None:
        if filename not in self._files:
            try:
                self._files[filename] = _File(filename, self._hooks)
            except (OSError, SyntaxError, ValueError):
                self._files[filename] = None
        return self._files[filename]


_DESCENDED = (
    FunctionType,
    MethodType,
    CellType,
    type,
    property,
    classmethod,
    staticmethod,
    functools.partial,
    functools.cached_property,
    dict,
    list,
    tuple,
    set,
    frozenset,
)


def _all_functions() -> list[FunctionType]:
    """Return every function of the process, but some that `gc.freeze` hides and no module has."""
    found = {id(each): each for each in gc.get_objects() if type(each) is FunctionType}
    if gc.get_freeze_count():
        for each in _reachable():
            found[id(each)] = each
    return list(found.values())


def _reachable() -> Iterator[FunctionType]:
    """Return the functions that modules with watched files have, or hold in what they have."""
    left: list[Any] = [
        vars(module)
        for module in list(sys.modules.values())
        if type(module) is ModuleType and is_watched_file(getattr(module, "__file__", None) or "")
    ]
    seen = {id(each) for each in left}
    while left:
        each = left.pop()
        if type(each) is FunctionType:
            yield each
        for inner in gc.get_referents(each):
            module = type(inner) is dict and "__spec__" in inner
            if isinstance(inner, _DESCENDED) and id(inner) not in seen and not module:
                seen.add(id(inner))
                left.append(inner)
