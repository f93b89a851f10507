"""The pytest plug-in: options, and the collection of scenario classes as tests.

It imports the explorer only when a test needs it, so that it does not affect projects that have
hfsched installed and do not explore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_addoption", "pytest_configure", "pytest_pycollect_makeitem"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("hfsched")
    group.addoption("--hfsched-token", metavar="TOKEN", help="run only this schedule of a scenario")
    group.addoption("--hfsched-seed", metavar="N", type=int, help="draw other schedules")


def pytest_configure(config: pytest.Config) -> None:
    """Pass the options to `hfsched.explore.testing`."""
    token, seed = config.getoption("--hfsched-token"), config.getoption("--hfsched-seed")
    if token is not None or seed is not None:
        from hfsched.explore.testing import OPTIONS  # noqa: PLC0415 - needs greenlet

        OPTIONS.token, OPTIONS.seed = token, seed


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Any:
    """Collect decorated scenario classes, in the module that defines them."""
    settings = getattr(obj, "hfsched_settings", None)
    if settings is None or not isinstance(obj, type):
        return None
    if getattr(getattr(collector, "obj", None), "__name__", None) != obj.__module__:
        return None  # imported from elsewhere
    import pytest  # noqa: PLC0415 - installed: this is its plug-in

    def test() -> None:
        __tracebackhide__ = True
        from hfsched.explore.testing import run  # noqa: PLC0415

        run(obj(), settings)

    return pytest.Function.from_parent(collector, name=name, callobj=test)
