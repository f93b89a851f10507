"""Scenarios by name, for ``hfsched fuzz SCENARIO`` and for tokens.

A *spec* is ``NAME[+VARIANT][,PARAMETER=VALUE]...``, as in ``mailbox+upstream,receiver=echo``.  NAME
is one of `catalogue`, or ``FILE.py::CLASS`` or ``package.module::CLASS`` for a user's scenario.
A distribution names its scenarios by entry points of the group `GROUP`.

A scenario is a dataclass whose fields are its parameters (int, str or bool, each with a default).  A
field ``variant`` names the faulty code to explore, empty for the code that ships; the class
attribute ``variants`` lists them, with the parameters that show each best; ``values``, which a class
may have too, lists what its texts may be.  The canonical spec
names the parameters that differ from those: scenarios with equal canonical specs are equal.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Collection, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from hashlib import blake2b
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from hfsched.errors import UserError, describe
from hfsched.text import meant, one_line

if TYPE_CHECKING:
    from hfsched.explore.scenario import Scenario

__all__ = [
    "GROUP",
    "NoFileError",
    "Variant",
    "catalogue",
    "check_ranges",
    "find",
    "kind_of",
    "spec_of",
    "variants_of",
]

GROUP = "hfsched.scenarios"  # entry points: NAME = "module:CLASS"

Value = int | str | bool


class NoFileError(UserError):
    """A scenario's file is not there."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A faulty variant: a description of the fault, and the parameters that show it best."""

    text: str
    parameters: Mapping[str, Value] = field(default_factory=dict)


@cache
def catalogue() -> Mapping[str, str]:
    """Return the named scenarios of all installed distributions: name -> "module::CLASS".

    A scenario's module is imported by `find`.
    """
    found = {each.name: each.value.replace(":", "::") for each in entry_points(group=GROUP)}
    return dict(sorted(found.items()))


def find(spec: str, variant: str | None = None, **parameters: Value) -> Scenario:
    """Create the scenario of `spec`; `variant` and `parameters` override those of the spec.

    Raises UserError for an unknown scenario, variant or parameter, with a list of the known ones.
    """
    name, inner, values = _split(spec)
    kind = kind_of(name)
    chosen = inner if variant is None else variant
    known = variants_of(kind)
    if chosen and chosen not in known:
        raise UserError(f"scenario {name}: no variant {chosen}: {_list(known)}")
    given: dict[str, Any] = dict(known[chosen].parameters) if chosen else {}
    given |= {key: _parse(kind, name, key, value) for key, value in values.items()}
    given |= parameters
    if chosen:
        given["variant"] = chosen
    try:
        scenario: Scenario = kind(**given)
    except (TypeError, ValueError, UserError) as exc:
        raise UserError(f"scenario {name}: {exc}") from exc
    except Exception as exc:
        raise UserError(f"scenario {name}: {' '.join(describe(exc).split())}") from exc
    if name not in catalogue():
        # Tokens and workers need a name by which `find` finds it.  A property cannot be set, nor can
        # an attribute of a class with slots.
        with contextlib.suppress(AttributeError):
            object.__setattr__(scenario, "name", spec_of(name, scenario))
    return scenario


def kind_of(name: str) -> type:
    """Return the class of the scenario called `name`; see `find`."""
    where = catalogue().get(name, name)
    path, found, attribute = where.partition("::")
    if not found and path.endswith(".py") and Path(path).is_file():
        raise UserError(f"{path}: name the scenario in it: {_own(path, _load_file(path))}")
    if not found:
        raise UserError(
            f"no scenario {name!r}: {_list(catalogue())}; your own is FILE.py::CLASS or MODULE::CLASS"
            + meant(name, catalogue())
        )
    module = _load_file(path) if path.endswith(".py") else _load_module(path)
    kind = getattr(module, attribute, None)
    kind = getattr(kind, "hfsched_scenario", kind)  # a function that is a test
    if kind is None:
        raise UserError(f"scenario {name}: no class {attribute!r} there: {_own(path, module)}")
    if isinstance(kind, FunctionType):
        raise UserError(
            f"scenario {name}: {attribute} is a function that is no test:"
            " put @hfsched.explore.test() above it"
        )
    if not _is_scenario(kind):
        raise UserError(f"scenario {name}: {attribute} is not a dataclass with a method build")
    found_kind: type = kind
    return found_kind


def _is_scenario(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind) and hasattr(kind, "build")


def _own(path: str, module: Any) -> str:
    """Return the names of the scenarios that a module has, its own and its tests, as they are given."""
    own = [
        f"{path}::{name}"
        for name, kind in vars(module).items()
        if _is_scenario(getattr(kind, "hfsched_scenario", kind))
        and kind.__module__ == module.__name__
    ]
    return ", ".join(own) or "it has no dataclass with a method build"


def variants_of(kind: type) -> Mapping[str, Variant]:
    """Return the faulty variants of a scenario's class."""
    found: Mapping[str, Variant] = getattr(kind, "variants", {})
    return found


def values_of(kind: type) -> Mapping[str, Collection[str]]:
    """Return what parameters of a scenario's class may be, where that is a list of words."""
    found: Mapping[str, Collection[str]] = getattr(kind, "values", {})
    return found


def check_ranges(scenario: Any, *ranges: tuple[str, int, int]) -> None:
    """Check parameters, each given as its name and the range of its values; raises ValueError."""
    for name, low, high in ranges:
        if not low <= getattr(scenario, name) <= high:
            raise ValueError(f"{name}={getattr(scenario, name)}: not in {low}..{high}")


def spec_of(name: str, scenario: Any) -> str:
    """Return the canonical spec of a scenario of this name: parameters that are not the default."""
    kind = type(scenario)
    variant = getattr(scenario, "variant", "")
    usual = dict(variants_of(kind)[variant].parameters) if variant else {}
    parts = [f"{name}+{variant}" if variant else name]
    for each in fields(kind):
        value = getattr(scenario, each.name)
        if each.name in ("variant", "name"):
            continue
        if value != usual.get(each.name, each.default):
            parts.append(f"{each.name}={_value_text(value)}")
    return ",".join(parts)


def _split(spec: str) -> tuple[str, str, dict[str, str]]:
    """Split a spec into name, variant, and parameters as text."""
    path, colons, rest = spec.rpartition("::")
    head, *pairs = rest.split(",")
    head, _, variant = head.partition("+")
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"scenario {spec}: {pair!r} is not PARAMETER=VALUE")
        if key in values:
            raise UserError(f"scenario {spec}: {key} is given twice")
        values[key] = value
    return path + colons + head, variant, values


def _parse(kind: type, name: str, key: str, text: str) -> Value:
    known: dict[str, Field[Any]] = {each.name: each for each in fields(kind)}
    if key not in known or key in ("variant", "name"):
        others = set(known) - {"variant", "name"}
        raise UserError(f"scenario {name}: no parameter {key}: {_list(others)}")
    default = known[key].default
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text]
        return int(text) if isinstance(default, int) else text
    except (KeyError, ValueError):
        wanted = "true or false" if isinstance(default, bool) else "a number"
        raise UserError(f"scenario {name}: {key}={text}: not {wanted}") from None


def _value_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list(names: Any) -> str:
    return "known: " + (", ".join(sorted(names)) or "none")


def _load_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise UserError(f"scenario module {name}: {exc}") from exc
    except (Exception, SystemExit) as exc:
        raise UserError(f"scenario module {name}: {_raised(exc)}") from exc


def _load_file(path: str) -> Any:
    """Import a file once, under a unique name that is the same in workers."""
    try:
        file = Path(path).resolve()
        found = file.is_file()
    except (OSError, ValueError) as exc:  # a name that no file can have; tokens have them too
        raise UserError(f"scenario file {one_line(path, 80)}: {_reason(exc)}") from None
    name = f"hfsched_scenario_{file.stem}_{blake2b(bytes(file), digest_size=8).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if not found or spec is None or spec.loader is None:
        raise NoFileError(f"scenario file {path}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        del sys.modules[name]
        raise UserError(f"scenario file {path}: {_raised(exc)}") from exc
    return module


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _raised(error: BaseException) -> str:
    """Return the error that a module's import raised, with its location, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        "" if isinstance(error, SyntaxError) else f" ({frames[-1].filename}:{frames[-1].lineno})"
    )
    return " ".join(describe(error).split()) + where
