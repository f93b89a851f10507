"""The plug-in of pytest: options, and classes of scenarios as tests.

It imports nothing of the explorer before a test needs it, so it does not get into the way of
projects that have hfsched installed and do not explore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_addoption", "pytest_configure", "pytest_pycollect_makeitem"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("hfsched")
    group.addoption("--hfsched-token", metavar="TOKEN", help="run this schedule of a scenario only")
    group.addoption("--hfsched-seed", metavar="N", type=int, help="draw other schedules")


def pytest_configure(config: pytest.Config) -> None:
    """Hand the options over."""
    token, seed = config.getoption("--hfsched-token"), config.getoption("--hfsched-seed")
    if token is not None or seed is not None:
        from hfsched.explore.testing import OPTIONS  # noqa: PLC0415 - needs greenlet

        OPTIONS.token, OPTIONS.seed = token, seed


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Any:
    """Collect decorated classes of scenarios, in the module where they are."""
    settings = getattr(obj, "hfsched_settings", None)
    if settings is None or not isinstance(obj, type):
        return None
    if getattr(getattr(collector, "obj", None), "__name__", None) != obj.__module__:
        return None  # imported from elsewhere
    import pytest  # noqa: PLC0415 - it is here, this is its plug-in

    def test() -> None:
        __tracebackhide__ = True
        from hfsched.explore.testing import run  # noqa: PLC0415

        run(obj(), settings)

    return pytest.Function.from_parent(collector, name=name, callobj=test)
