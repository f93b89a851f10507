"""The calls of tests/fidelity on an engine, or on real Hafnium, whose answers are the table.

    python bench/fidelity.py --record HAFNIUM.BIN     writes tests/fidelity/hafnium-f0701679c0.txt
    python bench/fidelity.py --engine kvm             compares: prints what differs and is not listed

HAFNIUM.BIN is Hafnium's image for QEMU (`docs/engines.md`).  The exit status of a comparison is 1 if
anything differs that tests/fidelity/differences.py has not, or if it lists what does not differ.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fidelity"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "conformance"))

from differences import SCRIPT
from fidelity_compare import compare
from fidelity_scenarios import SCENARIOS
from fidelity_table import recorded, write
from hafnium import run as run_hafnium
from probemachine import run_images, run_script
from talk import TARGETS, UNICORN

PROBE = Path(__file__).resolve().parent.parent / "guests" / "build" / "aarch64" / "probe.bin"


def record(image: Path) -> None:
    """Ask Hafnium, and write the table."""
    probe = PROBE.read_bytes()
    write([(scenario, run_hafnium(image, probe, scenario)) for scenario in SCENARIOS])


def look(engine: str) -> list[str]:
    """Compare every scenario on an engine; return what is wrong."""
    wrong = []
    if engine == SCRIPT:
        for scenario in SCENARIOS:
            wrong += compare(SCRIPT, scenario, recorded(scenario), run_script(scenario))
        return wrong
    for target in TARGETS:
        if target.engine == engine and target.why_not() is None:
            for scenario in SCENARIOS:
                if scenario.waits and target != UNICORN:
                    continue  # arm64's KVM never ends a WFI
                came = run_images(target, scenario)
                wrong += compare(str(target), scenario, recorded(scenario), came)
    return wrong


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Calls beside real Hafnium's answers.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path, metavar="HAFNIUM.BIN")
    what.add_argument("--engine", choices=["unicorn", "kvm", "script"])
    options = parser.parse_args()
    if options.record is not None:
        record(options.record)
        return 0
    wrong = look(options.engine)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
