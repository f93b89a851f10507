"""The suites that matter on real arm64 KVM run in machines, and must pass there as they do here."""

from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from booted import SILENCE, end, machine_image, run_inside, start

from qemu.image import TOP

SHIFTS = [0, 2, 4]
RESULTS = "/tmp/results.xml"

KVM_SUITES = [
    *sorted(str(path.relative_to(TOP)) for path in TOP.glob("tests/vcpu/kvm/test_kvm_arm64*.py")),
    "tests/vcpu/kvm/test_device.py",
    "tests/conformance",
    "tests/fidelity",
]
VMM_SUITES = [
    "tests/vmm/test_guests.py",
    "tests/vmm/test_hostile.py",
    "tests/vmm/test_machine.py::test_machines_of_images_leave_nothing_behind",
    "tests/vmm/test_machines.py",
    "tests/vmm/test_saving_elsewhere.py",
    "tests/vmm/test_suspend.py",
    "tests/vmm/test_suspend_ends.py",
]
CONCURRENT = [
    "tests/vmm/test_concurrency.py",
    "tests/vmm/test_lazy.py::test_a_full_and_an_incremental_snapshot_of_an_unfinished_restore",
    "tests/vmm/test_lazy.py::test_the_rest_comes_in_behind_and_swap_is_off_then",
    "tests/vmm/test_lazy.py::test_a_damaged_frame_ends_the_vm_that_needs_it",
]
SWAP_SUITES = [
    "tests/swap/test_machine_swap.py",
    "tests/swap/test_footprint.py",
    "tests/swap/test_live.py::test_all_pages_are_of_one_instant",
    "tests/swap/test_snapshots.py::test_nothing_comes_in_and_all_is_in_the_snapshot",
    "tests/swap/test_torture.py",
]
# So many tests of each, and more, pass: a suite that is not collected does not pass.
LEAST = {"vcpu.kvm": 68, "conformance": 49, "fidelity": 48}
LEAST_VMM = {"vmm": 46}
LEAST_CONCURRENT = {"vmm.test_concurrency": 6, "vmm.test_lazy": 4}
LEAST_SWAP = {"swap": 17}
# KVM in VHE mode, and in nVHE mode; machines side by side have about as much to do.
CPUS = {
    "neoverse-n1": (KVM_SUITES + VMM_SUITES, LEAST | LEAST_VMM),
    "cortex-a57": (KVM_SUITES + CONCURRENT + SWAP_SUITES, LEAST | LEAST_CONCURRENT | LEAST_SWAP),
}
# What may be left out inside, and why.
SKIPS = [
    r"the documents are not here",
    r"root may do anything",
    r"no package ziglang",
]
OTHER_ENGINES = "not unicorn and not x86_64 and not script"


@dataclass(frozen=True)
class Case:
    """A test that was run inside: its outcome is passed, failed or skipped."""

    name: str
    outcome: str
    text: str


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
        cases.append(Case(f"{case.get('classname')}::{case.get('name')}", outcome, text))
    return cases


def check(cases: list[Case], least: dict[str, int]) -> None:
    """Raise if a test failed, was skipped for no known reason, or too few of a suite passed."""
    failed = [case for case in cases if case.outcome == "failed"]
    if failed:
        names = "".join(f"\n    {case.name}" for case in failed)
        texts = "".join(f"\n\n--- {case.name} ---\n{case.text}" for case in failed)
        pytest.fail(
            f"inside the machine {len(failed)} of {len(cases)} failed:{names}{texts}", False
        )
    left_out = [f"{case.name}: {case.text}" for case in cases if case.outcome == "skipped"]
    print("left out:", *left_out, sep="\n    ")
    for text in left_out:
        assert any(re.search(reason, text) for reason in SKIPS), text
    passed = Counter(
        suite
        for case in cases
        for suite in least
        if case.outcome == "passed" and re.match(rf"tests\.{suite}\b", case.name)
    )
    print("passed:", dict(passed))
    assert [suite for suite in least if passed[suite] < least[suite]] == []


@pytest.fixture(scope="module")
def machines(request: pytest.FixtureRequest) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The machines that are asked for, at work side by side: each is one thread for most of the time."""
    machine_image()
    started = {}
    options = f"-v -p no:cacheprovider -p no:hypothesispytest --junitxml={RESULTS}"
    # What is known of a machine that falls silent.
    options += f" -p tests.qemu.loud -o faulthandler_timeout={SILENCE / 2:g}"
    options += f" -o junit_family=xunit1 -k '{OTHER_ENGINES}'"
    for cpu, (suites, _) in CPUS.items():
        if any(f"[{cpu}]" in item.name for item in request.session.items):
            tests = f"python3 -m pytest {options} {' '.join(suites)} >&2"
            script = f"{tests}; status=$?; cat {RESULTS}; exit $status"
            words = ("--cpu", cpu, "--", "sh", "-c", script)
            started[cpu] = start(*words)
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("cpu", CPUS)
def test_the_suites_pass_on_real_kvm(
    machines: dict[str, subprocess.Popen[bytes]], cpu: str
) -> None:
    status, out, err = end(machines[cpu])
    assert out.startswith("<?xml"), f"status {status}, no results:\n{err[-4000:]}"
    check(read_results(out), CPUS[cpu][1])
    assert status == 0, err[-4000:]


def test_each_schedule_repeats_itself_and_loses_nothing() -> None:
    machine_image()
    schedules = set()
    for shift in SHIFTS:
        words = ("--icount", f"{shift}", "--", "python3", "tests/qemu/sweep.py")
        runs = [start(*words) for _ in range(2)]
        (status, out, err), again = [end(process) for process in runs]
        assert status == 0, f"shift {shift}: {err[-4000:]}"
        assert again == (status, out, err), f"shift {shift}: two runs differ"
        _complete(json.loads(out), shift)
        schedules.add(out)
    assert len(schedules) == len(SHIFTS), "another shift is another schedule"


def _complete(said: dict[str, list[object]], shift: int) -> None:
    """Check that every message was answered, once and in order, and none is left anywhere."""
    sent = said["sent"]
    assert len(sent) >= 60
    assert said["chain"] == sent, f"shift {shift}"
    turns = [f"vcpu {n % 2} of 2: {text}" for n, text in enumerate(sent)]
    assert said["turns"] == turns, f"shift {shift}"
    assert said["ended"] == [True] * 4
    assert said["stuck"] == []
    assert len(said["vms"]) == 4
    for vm in said["vms"]:
        assert isinstance(vm, dict)
        lost = ("unread", "unmapped", "unclaimed", "discarded", "malformed", "lost")
        assert [vm[what] for what in lost] == [0] * len(lost), f"shift {shift}: {vm}"
        assert vm["abort"] is None


def test_an_old_kernel_is_told_in_a_line_and_what_would_help() -> None:
    machine_image("6.1")
    commands = "hfsched doctor; echo =$?; hfsched run --engine kvm --guest echo.bin; echo =$?"
    status, out, err = run_inside("sh", "-c", commands, options=("--kernel", "6.1"))
    assert status == 0
    found = re.search(
        r"^  engine kvm +no +(Linux 6\.1\.\S+ has no SMCCC filter .*)$", out, re.MULTILINE
    )
    assert found is not None, out
    assert found[1].endswith("6.4 has")
    assert err == f"hfsched: error: vm echo: engine kvm: {found[1]}\n"
    assert re.findall(r"^=(\d+)$", out, re.MULTILINE) == ["1", "1"]


# What would make the tests above pass for nothing.


def results(*cases: str) -> list[Case]:
    text = "".join(cases)
    return read_results(f"<testsuites><testsuite>{text}</testsuite></testsuites>")


def case(name: str, inside: str = "", suite: str = "tests.vmm.test_x") -> str:
    return f'<testcase classname="{suite}" name="{name}">{inside}</testcase>'


ENOUGH = [
    case(f"{n}", suite=f"tests.{suite}.test_x") for suite, least in LEAST.items() for n in range(least)
]  # fmt: skip


def test_a_failure_inside_is_named_with_its_text() -> None:
    broken = case("broken", '<failure message="assert 1 == 2">line 7</failure>')
    died = case("died", '<error message="fixture">line 8</error>')
    with pytest.raises(pytest.fail.Exception) as raised:
        check(results(*ENOUGH, broken, died), LEAST)
    told = str(raised.value)
    assert f"2 of {len(ENOUGH) + 2} failed" in told
    for text in ("tests.vmm.test_x::broken", "assert 1 == 2", "line 7", "::died", "line 8"):
        assert text in told


def test_too_few_inside_do_not_pass() -> None:
    check(results(*ENOUGH), LEAST)
    for too_few in ([], ENOUGH[1:], ENOUGH[:-1]):
        with pytest.raises(AssertionError, match="assert \\['"):
            check(results(*too_few), LEAST)


def test_a_skip_inside_needs_a_reason_that_is_known() -> None:
    known = case("a", '<skipped message="the documents are not here"/>')
    check(results(*ENOUGH, known), LEAST)
    with pytest.raises(AssertionError, match="engine kvm: no"):
        check(results(*ENOUGH, case("b", '<skipped message="engine kvm: no"/>')), LEAST)


def test_the_suites_are_there() -> None:
    assert sum("test_kvm_arm64" in suite for suite in KVM_SUITES) >= 3
    every = KVM_SUITES + VMM_SUITES + CONCURRENT
    assert [suite for suite in every if not (TOP / suite.partition("::")[0]).exists()] == []
