"""Which of our tests run inside machines, and what must come of them.

`script/test` has a part of them (`PART`); `bench/arm64.py` runs all, for each mode of KVM.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qemu.beside import SILENCE
from qemu.image import TOP

__all__ = [
    "ALL",
    "PART",
    "Case",
    "Suites",
    "check",
    "read_results",
    "script",
]

_RESULTS = "/tmp/results.xml"
_OTHER_ENGINES = "not unicorn and not x86_64 and not script"
# What may be left out inside, and why.
_SKIPS = [
    r"the documents are not here",
    r"root may do anything",
    r"no package ziglang",
]


@dataclass(frozen=True)
class Suites:
    """Tests, by file or name; of each suite so many pass at least: one that is not collected does not pass."""

    tests: Sequence[str]
    least: Mapping[str, int]

    def __add__(self, other: Suites) -> Suites:
        return Suites([*self.tests, *other.tests], {**self.least, **other.least})


_KVM = Suites(
    [
        *sorted(
            str(path.relative_to(TOP)) for path in TOP.glob("tests/vcpu/kvm/test_kvm_arm64*.py")
        ),
        "tests/vcpu/kvm/test_device.py",
    ],
    {"vcpu.kvm": 68},
)
_CALLS = Suites(["tests/conformance", "tests/fidelity"], {"conformance": 49, "fidelity": 48})
_MACHINES = Suites(
    [
        "tests/vmm/test_guests.py",
        "tests/vmm/test_hostile.py",
        "tests/vmm/test_machine.py::test_machines_of_images_leave_nothing_behind",
        "tests/vmm/test_machines.py",
        "tests/vmm/test_saving_elsewhere.py",
        "tests/vmm/test_suspend.py",
        "tests/vmm/test_suspend_ends.py",
    ],
    {"vmm": 46},
)
_LAZY = [
    "tests/vmm/test_lazy.py::test_a_full_and_an_incremental_snapshot_of_an_unfinished_restore",
    "tests/vmm/test_lazy.py::test_the_rest_comes_in_behind_and_swap_is_off_then",
    "tests/vmm/test_lazy.py::test_a_damaged_frame_ends_the_vm_that_needs_it",
]
_CONCURRENT = Suites(
    ["tests/vmm/test_concurrency.py", *_LAZY], {"vmm.test_concurrency": 6, "vmm.test_lazy": 4}
)
_LIVE = [
    "tests/swap/test_live.py::test_all_pages_are_of_one_instant",
    "tests/swap/test_snapshots.py::test_nothing_comes_in_and_all_is_in_the_snapshot",
]
_SWAP = Suites(
    [
        "tests/swap/test_machine_swap.py",
        "tests/swap/test_footprint.py",
        *_LIVE,
        "tests/swap/test_torture.py",
    ],
    {"swap": 17},
)
# By processor: KVM in VHE mode, and in nVHE mode; machines side by side have about as much to do.
ALL = {
    "neoverse-n1": _KVM + _CALLS + _MACHINES,
    "cortex-a57": _KVM + _CALLS + _CONCURRENT + _SWAP,
}
PART = {
    "neoverse-n1": _KVM
    + Suites(["tests/vmm/test_saving_elsewhere.py", "tests/vmm/test_suspend.py"], {"vmm": 10}),
    "cortex-a57": _CALLS + Suites([*_LAZY, *_LIVE], {"vmm.test_lazy": 4, "swap": 2}),
}


def script(suites: Suites) -> str:
    """Return the shell script that runs them in a machine, where a test may be silent for half of `SILENCE`.

    Its output is the results for `read_results`; its errors are pytest's output.
    """
    options = f"-v -p no:cacheprovider -p no:hypothesispytest --junitxml={_RESULTS}"
    # What is known of a machine that falls silent.
    options += f" -p tests.qemu.loud -o faulthandler_timeout={SILENCE / 2:g}"
    options += f" -o junit_family=xunit1 -k '{_OTHER_ENGINES}'"
    tests = f"python3 -m pytest {options} {' '.join(suites.tests)} >&2"
    return f"{tests}; status=$?; cat {_RESULTS}; exit $status"


@dataclass(frozen=True)
class Case:
    """A test that was run inside: its outcome is passed, failed or skipped; it took `seconds`."""

    name: str
    outcome: str
    text: str
    seconds: float = 0.0

    def is_of(self, suite: str) -> bool:
        """Return whether it is of a suite, as `Suites.least` calls it."""
        return re.match(rf"tests\.{suite}\b", self.name) is not None


def read_results(xml: str) -> list[Case]:
    """Return the tests of a file in JUnit's format, as pytest writes it."""
    cases = []
    for case in ET.fromstring(xml).iter("testcase"):
        outcome, text = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome, text = "failed", f"{child.get('message')}\n{child.text}"
            elif child.tag == "skipped":
                outcome, text = "skipped", str(child.get("message"))
        name = f"{case.get('classname')}::{case.get('name')}"
        cases.append(Case(name, outcome, text, float(case.get("time", 0))))
    return cases


def check(cases: Sequence[Case], least: Mapping[str, int]) -> dict[str, int]:
    """Return how many of each suite passed; raise AssertionError if a test failed, was skipped for no known reason, or too few passed."""
    failed = [case for case in cases if case.outcome == "failed"]
    if failed:
        names = "".join(f"\n    {case.name}" for case in failed)
        texts = "".join(f"\n\n--- {case.name} ---\n{case.text}" for case in failed)
        raise AssertionError(
            f"inside the machine {len(failed)} of {len(cases)} failed:{names}{texts}"
        )
    for case in cases:
        if case.outcome == "skipped" and not any(re.search(why, case.text) for why in _SKIPS):
            raise AssertionError(f"left out: {case.name}: {case.text}")
    passed = Counter(
        suite for case in cases for suite in least if case.outcome == "passed" and case.is_of(suite)
    )
    few = [
        f"{suite} {passed[suite]} of {most}"
        for suite, most in least.items()
        if passed[suite] < most
    ]
    if few:
        raise AssertionError(f"too few tests have passed: {', '.join(few)}")
    return dict(passed)
