"""What a handler of a hypercall may use besides the calling vCPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from hfsched.hypervisor.console import Console
    from hfsched.hypervisor.registry import Registry
    from hfsched.runtime.base import Runtime

__all__ = ["Context"]


class Context(Struct, frozen=True):
    """One machine's parties, its console, and its runtime.

    `notice(vm name, text)` gets what the user may want to know of a VM; None: nobody asks.
    """

    runtime: Runtime
    registry: Registry
    console: Console
    notice: Callable[[str, str], None] | None = None
