"""The table of dialects, and what each says of its calls; docs/abi.md is checked against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfsched.abi.dialect import Call, Dialect, Op, describe
from hfsched.abi.dialects import DEFAULT, DIALECTS
from hfsched.abi.ffa import CONVENTION_64
from hfsched.hypervisor.calls import table_of

DOC = Path(__file__).resolve().parents[2] / "docs" / "abi.md"
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def test_each_stands_under_its_name() -> None:
    assert {name: dialect.name for name, dialect in DIALECTS.items()} == {n: n for n in DIALECTS}
    assert DIALECTS[DEFAULT.name] is DEFAULT


@every_dialect
def test_every_operation_has_a_handler(dialect: Dialect) -> None:
    """Any of them may be negotiated, so this must not come up on a vCPU's thread."""
    assert table_of(dialect).keys() == dialect.calls.keys()


@every_dialect
def test_each_decoder_returns_as_many_arguments_as_are_named(dialect: Dialect) -> None:
    for number, call in dialect.calls.items():
        regs = tuple(range(call.registers))
        assert len(call.decode(regs)) == len(call.arguments), f"{number:#x} {call.name}"
        assert len(set(call.arguments)) == len(call.arguments)


@every_dialect
def test_a_name_is_one_call_by_one_or_two_conventions(dialect: Dialect) -> None:
    names: dict[str, set[int]] = {}
    for number, call in dialect.calls.items():
        names.setdefault(call.name, set()).add(number & ~CONVENTION_64)
    assert all(len(numbers) == 1 for numbers in names.values())


def test_a_call_in_words() -> None:
    call = Call("TWO", Op.RUN, ("vm", "vcpu"), lambda x: (x[1], x[2]), smc=True)
    shown = describe(call, (0, 5, 6, 0, 0, 0, 0, 0), lambda name, value: f"<{name} {value}>")
    assert shown == "TWO vm=<vm 5> vcpu=<vcpu 6>"
    none = Call("NONE", Op.YIELD, (), lambda _: (), smc=True)
    assert describe(none, (0,) * 8, lambda _name, _value: "") == "NONE"


def table(dialect: Dialect) -> str:
    """Return the documentation's table of a dialect."""
    rows = ["| id | call | arguments | by |", "|---|---|---|---|"]
    for number, call in sorted(dialect.calls.items()):
        twin = dialect.calls.get(number ^ CONVENTION_64)
        both = twin is not None and (twin.hvc, twin.smc) == (call.hvc, call.smc)
        if both and number & CONVENTION_64:
            continue
        ids = f"{number:08x}" + (f", {number | CONVENTION_64:08x}" if both else "")
        what = ", ".join(call.arguments)
        if call.op in (Op.NOT_SUPPORTED, Op.PSCI_NOT_SUPPORTED):
            what = "answers NOT_SUPPORTED"
        by = ", ".join(["HVC"] * call.hvc + ["SMC"] * call.smc)
        rows.append(f"| {ids} | {call.name} | {what} | {by} |")
    return "\n".join(rows)


@every_dialect
def test_the_documentation_has_the_calls_of_each(dialect: Dialect) -> None:
    text = DOC.read_text()
    section = text.partition(f"\n## {dialect.name}\n")[2].partition("\n## ")[0]
    found = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert found == table(dialect), f"docs/abi.md, {dialect.name}:\n{table(dialect)}"
