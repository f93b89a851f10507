"""``hfsched --version``: its version, and those of the engines here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from hfsched import __version__

__all__ = ["Version", "versions"]


def versions() -> list[str]:
    """Return a line for hfsched, and one for each engine with a version, or why it is not there."""
    import importlib.metadata as packages  # noqa: PLC0415 - slow, and only for this

    from hfsched.vcpu.kvm import device  # noqa: PLC0415 - likewise

    try:
        unicorn = f"unicorn {packages.version('unicorn')}"
    except packages.PackageNotFoundError:
        unicorn = "no unicorn: pip install 'hfsched[emulator]'"
    problem = device.problem()
    kvm = f"no KVM: {problem}"
    if problem is None:
        kvm = f"KVM API {device.API_VERSION}, {device.MACHINE} guests"
    return [f"hfsched {__version__}", unicorn, kvm]


class Version(argparse.Action):
    """Prints the versions and ends the process."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Do it."""
        parser._print_message("\n".join(versions()) + "\n", sys.stdout)
        parser.exit()
