"""What the VMs of the scenario `machine` boot, named in its description as MODULE:FUNCTION."""

from __future__ import annotations

from hfsched.programs.bundled import echo
from hfsched.vcpu.script import Guest, Program

__all__ = ["GUESTS", "Guest", "Program", "echo"]

GUESTS: dict[str, Program] = {"echo": echo}
