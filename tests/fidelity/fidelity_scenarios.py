"""All scenarios, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fidelity_information
import fidelity_memory
import fidelity_messages
import fidelity_power
import fidelity_processor
import fidelity_vcpus

if TYPE_CHECKING:
    from probescript import Scenario

SCENARIOS: tuple[Scenario, ...] = tuple(
    make()
    for module in (
        fidelity_information,
        fidelity_messages,
        fidelity_power,
        fidelity_vcpus,
        fidelity_memory,
        fidelity_processor,
    )
    for make in module.SCENARIOS
)
