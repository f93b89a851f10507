"""What `hfsched run` says while something lasts too long, and of what it leaves behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from hfsched.cli.leftovers import summary_lines
from hfsched.hypervisor.interface import RunResult
from hfsched.vmm.report import VmSummary

if TYPE_CHECKING:
    from conftest import Start


def test_an_unread_message_is_named_while_it_lasts(run: Start) -> None:
    deaf = run("--guest", "guests.py:deaf")
    deaf.type("one\n")
    deaf.until(
        r"^hfsched: vm guests: a message of 19 bytes from the host has been unread for 1 s, and no"
        r" vCPU runs: vCPU 0 waits for an interrupt \(enabled: none; pending: 1 mailbox readable\)$",
        "err",
    )
    assert deaf.wait() == 3


@pytest.mark.parametrize(
    ("guest", "lines", "why", "left"),
    [
        ("unmapped", "one\n", r"RX is not mapped \(FFA_RXTX_MAP\)", r"has not mapped RX"),
        ("keeper", "one\ntwo\n", r"RX is not released \(FFA_RX_RELEASE\)", r"has not released RX"),
    ],
)
def test_a_message_that_no_vm_takes_is_named_while_it_waits(
    run: Start, guest: str, lines: str, why: str, left: str
) -> None:
    deaf = run("--guest", f"g=guests.py:{guest}", "--linger", "0.1")
    deaf.type(lines)
    deaf.until(
        rf"^hfsched: vm g: a message from the host has waited for 1 s: {why}, and no vCPU runs:"
        r" vCPU 0 waits for an interrupt \(enabled: none; pending: (none|1 mailbox readable)\)$",
        "err",
    )
    assert deaf.wait() == 3
    assert re.search(rf"error: standard input: 1 line undelivered: vm g {left}", deaf.err)


def test_a_message_that_was_read_and_not_released_is_named(run: Start) -> None:
    keeper = run("--guest", "g=guests.py:keeper", "--linger", "0.1")
    keeper.type("one\n")
    assert keeper.wait() == 0
    assert "hfsched: vm g: RX is not released: no FFA_RX_RELEASE after a message" in keeper.err


def test_what_a_signal_leaves_behind_is_named(run: Start) -> None:
    deaf = run("--guest", "g=guests.py:unmapped")
    deaf.type("one\n")
    deaf.until("has waited for 1 s", "err")
    deaf.interrupt()
    assert deaf.wait() == 130
    assert (
        "hfsched: standard input: 1 line undelivered to vm g: the run was interrupted" in deaf.err
    )


def test_a_vcpu_that_spins_is_named_while_it_lasts(run: Start) -> None:
    spin = run("--guest", "guests.py:spin")
    spin.until(
        r"^hfsched: vm guests: vCPU 0 has run for 1 s without a hypercall or WFI; pc 0x", "err"
    )
    assert spin.wait() == 1
    assert "error: vm guests: vCPU 0 still running 2 s after end of input; pc 0x" in spin.err


def test_a_message_that_went_with_its_buffer_is_named_and_counted(run: Start) -> None:
    careless = run("--guest", "g=guests.py:careless", "--json", "--linger", "5")
    careless.type("one\n")
    careless.until('"careless"')
    careless.type("two\n")
    status = careless.wait()
    assert status == 3, careless.out + careless.err
    text = "vm g: 1 message to it dropped: RX was unmapped (FFA_RXTX_UNMAP) before it was read"
    assert f"hfsched: error: {text}\n" in careless.err
    *_, undelivered, summary = map(json.loads, careless.out.splitlines())
    assert undelivered == {"event": "undelivered", "text": text}
    assert (summary["vms"][0]["from_host"], summary["vms"][0]["unmapped"]) == (2, 1)


@pytest.mark.parametrize(
    ("guest", "line", "doing"),
    [("clock", "sleep 600000\n", "waits for its timer"), ("busy", "", "runs")],
)
def test_a_guest_that_the_end_of_lingering_cuts_off_is_named(
    run: Start, guest: str, line: str, doing: str
) -> None:
    cut = run("--guest", f"g=guests.py:{guest}", "--linger", "0.2s", "--json")
    cut.type(line)
    assert cut.wait() == 0
    text = f"ended by --linger 0.2 s: vm g: vCPU 0 {doing}"
    assert f"hfsched: {text}\n" in cut.err
    assert {"event": "notice", "text": text} in map(json.loads, cut.out.splitlines())
    assert "error" not in cut.err


def test_a_guest_that_is_at_rest_is_not_cut_off(run: Start) -> None:
    echo = run("--guest", "g=guests.py:echo", "--linger", "0.2s")
    echo.type("one\n")
    assert echo.wait() == 0
    assert "--linger" not in echo.err


def test_the_words_of_the_summary_are_explained() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
    section = page.read_text().partition("## What the summary says\n")[2].partition("\n## ")[0]
    results = [result.__name__ for result in get_args(RunResult)]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    explained = re.findall(r"`(\w+)`", "".join(rows))
    assert sorted(explained) == sorted([*results, *VmSummary.__struct_fields__])


def test_a_vm_that_never_ran_has_no_kinds_of_runs() -> None:
    vm = VmSummary("a", 0, 0, 0, "not mapped", 0, 0, 0, 0, 0, 0, {}, 0, 0, None, ("off",))
    assert summary_lines(1, [vm])[1].endswith("; 0 RUNs; 0 wake-ups, 0 spurious RUNs")
    ran = VmSummary("a", 0, 0, 0, "empty", 0, 0, 0, 0, 0, 0, {"Yield": 2}, 0, 0, None, ("off",))
    assert "; 2 RUNs (2 Yield); " in summary_lines(1, [ran])[1]
