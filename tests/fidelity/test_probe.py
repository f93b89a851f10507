"""Every engine answers the calls of the table as real Hafnium did, but for the differences listed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from differences import ALL, DIFFERENCES, SCRIPT
from fidelity_compare import compare, shared
from fidelity_scenarios import SCENARIOS
from fidelity_table import recorded, table
from probemachine import run_images, run_script
from probescript import PRIMARY, Answer, Kind, Scenario, State, parsed
from talk import TARGETS, UNICORN, Target

from hfsched.abi.ffa import PsciId

DOCS = Path(__file__).resolve().parents[2] / "docs" / "engines.md"

by_scenario = pytest.mark.parametrize(
    "scenario", SCENARIOS, ids=lambda s: re.sub(r"\W+", "-", s.name)
)


@by_scenario
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target).replace(" ", "-"))
def test_images_get_what_hafnium_answered(target: Target, scenario: Scenario) -> None:
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")
    if scenario.waits and target != UNICORN:
        return  # no row is compared, and arm64's KVM never ends a WFI
    wrong = compare(str(target), scenario, recorded(scenario), run_images(target, scenario))
    assert not wrong, "\n".join(wrong)


@by_scenario
def test_script_guests_get_what_hafnium_answered(scenario: Scenario) -> None:
    wrong = compare(SCRIPT, scenario, recorded(scenario), run_script(scenario))
    assert not wrong, "\n".join(wrong)


# What would make these pass for nothing.


def test_the_table_is_of_these_scenarios_and_large() -> None:
    assert list(table()) == [scenario.name for scenario in SCENARIOS]
    rows = [row for scenario in SCENARIOS for row in scenario.rows]
    calls = Counter(row.kind for row in rows if row.who[0] != PRIMARY)
    assert calls[Kind.HVC] >= 1200
    assert calls[Kind.SMC] >= 450
    assert calls[Kind.INSTRUCTION] >= 200


def test_hafnium_did_all_but_what_never_returns() -> None:
    for scenario in SCENARIOS:
        answers = recorded(scenario)
        last = {row.who: index for index, row in enumerate(scenario.rows)}
        for index, (row, answer) in enumerate(zip(scenario.rows, answers, strict=True)):
            assert answer.state is not State.UNKNOWN, f"{scenario.name}: {row}"
            if answer.state is State.PENDING and row.regs[0] != PsciId.CPU_OFF:
                assert index == last[row.who], f"{scenario.name}: {row}"


@pytest.mark.parametrize("target", ALL)
def test_an_answer_that_is_not_hafniums_is_found(target: str) -> None:
    scenario = SCENARIOS[0]
    answers = recorded(scenario)
    assert compare(target, scenario, answers, answers) == []
    call = [row.kind for row in scenario.rows].index(Kind.HVC, 2)
    other = [*answers]
    other[call] = Answer(State.DONE, (answers[call].regs[0] ^ 1, *answers[call].regs[1:]))
    (found,) = compare(target, scenario, answers, other)
    assert str(scenario.rows[call]) in found


@pytest.mark.parametrize("target", ALL)
def test_a_listed_row_that_does_not_differ_is_found(target: str) -> None:
    """And each rule names a row of each of its engines."""
    found: Counter[str] = Counter()
    for scenario in SCENARIOS:
        answers = recorded(scenario)
        rules = [rule for rule in DIFFERENCES if rule.concerns(target, scenario)]
        for row, answer in zip(scenario.rows, answers, strict=True):
            for rule in rules:
                if shared(target, scenario, row) and rule.names(str(row), answer.text(row)):
                    found[str(rule)] += 1
        listed = compare(target, scenario, answers, answers)
        assert all("equal, but listed" in line for line in listed)
    assert [rule for rule in DIFFERENCES if target in rule.targets and not found[str(rule)]] == []


def test_what_is_written_is_read_again() -> None:
    for scenario in SCENARIOS:
        for row, answer in zip(scenario.rows, recorded(scenario), strict=True):
            assert parsed(row, answer.text(row)) == answer


@pytest.mark.skipif(not DOCS.exists(), reason="the documents are not here")
def test_the_documents_have_every_reason() -> None:
    written = " ".join(DOCS.read_text().split())
    assert [rule.why for rule in DIFFERENCES if rule.why not in written] == []
