"""Which bytes of its object a memoryview shows."""

from __future__ import annotations

import ctypes
from typing import Any

from hfsched.explore.watch.kinds import BYTES

__all__ = ["region", "root"]

_FULL_READ_ONLY = 0x11C  # PyBUF_FULL_RO


class _Buffer(ctypes.Structure):
    """CPython's Py_buffer; what follows `length` is room for the rest."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("owner", ctypes.c_void_p),
        ("length", ctypes.c_ssize_t),
        ("rest", ctypes.c_ssize_t * 16),
    )


def _address(of: Any) -> int:
    buffer = _Buffer()
    take = ctypes.pythonapi.PyObject_GetBuffer
    take(ctypes.py_object(of), ctypes.byref(buffer), _FULL_READ_ONLY)
    try:
        return buffer.start or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


def region(
    view: memoryview, start: int = 0, stop: int | None = None
) -> tuple[Any, int, int] | None:
    """Return the object behind a view and the bytes of it that items [start, stop) of the view are.

    None: it is not known which bytes, or the object is not one whose accesses are noted by bytes.
    """
    of = view.obj
    if not isinstance(of, BYTES) or view.ndim != 1 or view.strides is None:
        return None
    count = len(view)
    stop = count if stop is None else stop
    start, stop = max(start, 0), min(stop, count)
    if start >= stop:
        return of, 0, 0
    stride = view.strides[0]
    direct = stride == view.itemsize and view.nbytes == len(of)
    offset = 0 if direct else _address(view) - _address(of)
    first, last = offset + start * stride, offset + (stop - 1) * stride
    return of, min(first, last), max(first, last) + view.itemsize


def root(of: Any) -> Any:
    """Return the object of ctypes whose memory another one is a part of; of another object, itself."""
    base = of._b_base_
    while base is not None:
        of, base = base, base._b_base_
    return of
