"""Canonical encodings: values are equal to a search exactly if their encodings are.

Python's ``==`` and `hash` do not serve that: ``hash(-1) == hash(-2)``, and ``1 == True == 1.0``.  An
encoding says the type of each part, the sign of a zero, the order of a dict, and not the order of a set;
it is the same in every process.  `digest` is its 128-bit BLAKE2b hash.

An object is encoded by what its method ``key`` returns, else as a dataclass, a struct or one of a subclass of a
built-in type: by its fields, slots and other attributes (but those that its class declares as uncompared), and by
its items or number; an enum's member by its name, a class by its name.  A list that occurs twice in a value is not
two equal lists: the second time it is a reference to the first, and so is all else that can change.  What
remains has no canonical form and is refused: an object that equals nothing but itself, a function, a NaN (which does
not even equal itself), a class that is not what its module has by its name, and its objects.

What is compared is one value at a time: that an object is in two cells, or guarded by two locks, is not seen.

Implementation note.  `marshal` in format 2 is a canonical encoding of values of the built-in types, written
in C: it has no references and no mark of interned strings, and sets are sorted by encodings.  It takes
every buffer for bytes, a NaN for a number, and a list that occurs twice for two, so where its output may have one the
slower way decides (`hfsched.explore.forms`).  The first byte tells the two ways apart.
"""

from __future__ import annotations

import marshal
import re
from hashlib import blake2b
from typing import Any

from hfsched.errors import UserError
from hfsched.explore.forms import ATOMS, FORMAT, FormlessError, form

__all__ = [
    "ATOMS",
    "FORMAT",
    "SIZE",
    "NoCanonicalFormError",
    "RefusedError",
    "digest",
    "encode",
    "unkeyed_lock",
]

SIZE = 16  # bytes of a digest
BUILT_IN = b"b"
OTHER = b"o"

# A binary NaN (or infinity), a buffer of less than 16 MiB, a list, dict or set: where one may be in marshal's output.
_SUSPECT = re.compile(rb"[\[{<]|(?:[gy]|y.{8}).{6}[\xf0-\xff][\x7f\xff]|s...\x00", re.DOTALL)
_LONG = 1 << 24  # bytes


class RefusedError(UserError):
    """The explorer cannot vouch for a search of this scenario; the text says what stands in the way."""


class NoCanonicalFormError(RefusedError):
    """A value that is compared has a part without a canonical form."""


def unkeyed_lock(name: str) -> RefusedError:
    """Return the refusal of a search whose states leave out what a lock guards."""
    return RefusedError(
        f"lock {name}: states cannot be compared without what it guards: give it state=, which returns all"
        " of that, or state=guards_nothing (hfsched.runtime.base); or search by a strategy that compares no"
        " states, such as pos"
    )


def encode(value: Any, place: str) -> bytes:
    """Return the canonical encoding of a value; `place` says where it is, for the error.

    Raises NoCanonicalFormError.
    """
    try:
        data = marshal.dumps(value, FORMAT)
    except ValueError:  # of another type, or too deep
        return OTHER + _encode_form(value, place)
    if (len(data) >= _LONG or _SUSPECT.search(data) is not None) and not _built_in(value):
        return OTHER + _encode_form(value, place)
    return BUILT_IN + data


def digest(value: Any, place: str) -> bytes:
    """Return the 128-bit digest of a value's canonical encoding; raises NoCanonicalFormError."""
    return blake2b(encode(value, place), digest_size=SIZE).digest()


def _built_in(value: Any) -> bool:
    """Return whether a value that `marshal` takes has no buffer but bytes, no NaN, and nothing twice that can change."""
    met: set[int] = set()
    left = [value]
    while left:
        each = left.pop()
        kind = type(each)
        if kind in ATOMS:
            continue
        if kind in (list, dict, set):
            if id(each) in met:
                return False
            met.add(id(each))
        if kind is dict:
            left += each
            left += each.values()
        elif kind in (tuple, list, set, frozenset):
            left += each
        elif kind in (float, complex):
            if each != each:  # noqa: PLR0124 - this is what makes it a NaN
                return False
        elif each is not ...:
            return False
    return True


def _encode_form(value: object, place: str) -> bytes:
    try:
        return marshal.dumps(form(value, {}), FORMAT)
    except FormlessError as exc:
        why = str(exc)
    except (RecursionError, ValueError):
        why = f"a {type(value).__name__} that is nested too deeply, or contains itself"
    raise NoCanonicalFormError(f"{place}: {why} has no canonical form to compare states by")
