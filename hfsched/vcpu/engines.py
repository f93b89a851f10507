"""The engines by name.  Each is imported when it is made: one of them is enough for most machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.engine import Engine

__all__ = ["ENGINES", "EngineId"]

EngineId: TypeAlias = Literal["unicorn", "kvm", "script"]


def _unicorn(runtime: Runtime) -> Engine:
    from hfsched.vcpu.unicorn import UnicornEngine  # noqa: PLC0415 - an extra, and GPLv2

    return UnicornEngine(runtime)


def _kvm(runtime: Runtime) -> Engine:
    from hfsched.vcpu.kvm.engine import KvmEngine  # noqa: PLC0415

    return KvmEngine(runtime)


def _script(runtime: Runtime) -> Engine:
    from hfsched.vcpu.script import ScriptEngine  # noqa: PLC0415

    return ScriptEngine(runtime)


ENGINES: Mapping[EngineId, Callable[[Runtime], Engine]] = {
    "unicorn": _unicorn,
    "kvm": _kvm,
    "script": _script,
}
