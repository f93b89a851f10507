"""For all tests: nothing is judged by how long it takes; other programs may need the processor."""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("untimed")
