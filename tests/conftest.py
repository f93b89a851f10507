"""For all tests: nothing is judged by how long it takes; what several rooms' tests look at."""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from timing import Timing

with contextlib.suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Timing(), "timing")


TESTS = Path(__file__).parent
# The files that take longest, which are begun first, so that no worker is alone with one at the end.
LONGEST = (
    "qemu/test_integration.py",
    "qemu/test_qemu_boot.py",
    "explore/test_soundness.py",
    "swap/test_processes.py",
    "swap/test_monitor.py",
    "vmm/test_hostile.py",
    "scenarios/test_shipped.py",
    "scenarios/test_races.py",
    "scenarios/test_swap.py",
    "cli/test_swap_command.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


# What tests start is not to ignore it, however they were started themselves.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Leave what is there now out of later collections: many tests collect, to count what is left."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def descriptors() -> Callable[[], int]:
    """Return what tells how many descriptors this process has, without those that nobody holds."""

    def count() -> int:
        gc.collect()
        return len([*Path("/proc/self/fd").iterdir()])

    return count
