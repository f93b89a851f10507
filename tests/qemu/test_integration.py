"""Suites that matter on real arm64 KVM run in machines, and must pass there as they do here.

`bench/arm64.py` runs them all.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from booted import end, machine_image, run_inside, start

from qemu.image import TOP
from qemu.suites import ALL, PART, Case, check, read_results, script

SHIFTS = [0, 2, 4]


@pytest.fixture(scope="module")
def machines(request: pytest.FixtureRequest) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The machines that are asked for, at work side by side: each is one thread for most of the time."""
    machine_image()
    started = {}
    for cpu, suites in PART.items():
        if any(f"[{cpu}]" in item.name for item in request.session.items):
            started[cpu] = start("--cpu", cpu, "--", "sh", "-c", script(suites))
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("cpu", PART)
def test_the_suites_pass_on_real_kvm(
    machines: dict[str, subprocess.Popen[bytes]], cpu: str
) -> None:
    status, out, err = end(machines[cpu])
    assert out.startswith("<?xml"), f"status {status}, no results:\n{err[-4000:]}"
    cases = read_results(out)
    print("passed:", check(cases, PART[cpu].least))
    print(
        "left out:", *(f"{case.name}: {case.text}" for case in cases if case.outcome == "skipped")
    )
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


_ALL = ALL["neoverse-n1"]
ENOUGH = [
    case(f"{n}", suite=f"tests.{suite}.test_x") for suite, least in _ALL.least.items() for n in range(least)
]  # fmt: skip


def test_a_failure_inside_is_named_with_its_text() -> None:
    broken = case("broken", '<failure message="assert 1 == 2">line 7</failure>')
    died = case("died", '<error message="fixture">line 8</error>')
    with pytest.raises(AssertionError) as raised:
        check(results(*ENOUGH, broken, died), _ALL.least)
    told = str(raised.value)
    assert f"2 of {len(ENOUGH) + 2} failed" in told
    for text in ("tests.vmm.test_x::broken", "assert 1 == 2", "line 7", "::died", "line 8"):
        assert text in told


def test_too_few_inside_do_not_pass() -> None:
    check(results(*ENOUGH), _ALL.least)
    for too_few in ([], ENOUGH[1:], ENOUGH[:-1]):
        with pytest.raises(AssertionError, match="too few tests have passed: "):
            check(results(*too_few), _ALL.least)


def test_a_skip_inside_needs_a_reason_that_is_known() -> None:
    known = case("a", '<skipped message="the documents are not here"/>')
    check(results(*ENOUGH, known), _ALL.least)
    with pytest.raises(AssertionError, match="engine kvm: no"):
        check(results(*ENOUGH, case("b", '<skipped message="engine kvm: no"/>')), _ALL.least)


def test_the_suites_are_there() -> None:
    every = [test for suites in (*ALL.values(), *PART.values()) for test in suites.tests]
    assert sum("test_kvm_arm64" in suite for suite in PART["neoverse-n1"].tests) >= 3
    assert [suite for suite in every if not (TOP / suite.partition("::")[0]).exists()] == []
