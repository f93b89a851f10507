"""hfsched: a Hafnium-style hypervisor mailbox scheduler in user space.

`connect` and `connect_async` talk to the VMs of a running machine; `HfschedError` is the base of what
they raise.  `guest_includes` has the C header of guests.  All are loaded when first used, so that
importing this package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hfsched.client import ConnectionClosed, RefusedError, connect
    from hfsched.client_asyncio import connect_async
    from hfsched.errors import HfschedError, UserError
    from hfsched.vmm.guests import guest_includes

__all__ = [
    "ConnectionClosed",
    "HfschedError",
    "RefusedError",
    "UserError",
    "__version__",
    "connect",
    "connect_async",
    "guest_includes",
]

__version__ = "0.1.0"

_HOMES = {
    "ConnectionClosed": "hfsched.client",
    "HfschedError": "hfsched.errors",
    "RefusedError": "hfsched.client",
    "UserError": "hfsched.errors",
    "connect": "hfsched.client",
    "connect_async": "hfsched.client_asyncio",
    "guest_includes": "hfsched.vmm.guests",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - only those who ask pay for it

    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
