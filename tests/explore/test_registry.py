"""Specs: scenarios by name, with what differs from their usual parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.errors import UserError
from hfsched.explore.registry import catalogue, find, kind_of, spec_of, variants_of

OWN = """
from dataclasses import dataclass
from typing import ClassVar

import hfsched.explore
from hfsched.explore import Variant, World

imports = []


@dataclass
class Own:
    number: int = 3
    flag: bool = False
    word: str = "here"
    variant: str = ""

    variants: ClassVar = {"late": Variant("it comes late", {"number": 5})}

    def build(self, runtime):
        return World()


@dataclass
class Picky:
    least: int = 1

    def __post_init__(self):
        if self.least < 1:
            raise ValueError(f"least={self.least}: below 1")

    def build(self, runtime):
        return World()


@hfsched.explore.test()
def test_function(runtime):
    return World()


class Plain:
    pass


imports.append(1)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a file with scenarios, in the working directory."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return "own.py"


def refusal(spec: str, variant: str | None = None, **parameters: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(spec, variant, **parameters)
    said = str(caught.value)
    assert said.isprintable()
    return said


# Names and parameters.


@pytest.mark.parametrize("name", catalogue())
def test_a_name_alone_is_its_own_spec(name: str) -> None:
    assert find(name).name == name
    assert spec_of(name, find(name)) == name
    assert isinstance(find(name), kind_of(name))


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("mailbox,receiver=echo,messages=2", "mailbox"),
        ("mailbox,messages=3,receiver=trusty", "mailbox,receiver=trusty,messages=3"),
        ("mailbox,boot=true", "mailbox,boot=true"),
        ("mailbox,boot=false", "mailbox"),
        ("mailbox,messages=03", "mailbox,messages=3"),
        ("mailbox+upstream", "mailbox+upstream"),
        ("mailbox+upstream,messages=3", "mailbox+upstream,messages=3"),
    ],
)
def test_a_spec_names_what_is_not_usual(spec: str, canonical: str) -> None:
    scenario = find(spec)
    assert scenario.name == canonical
    assert find(canonical) == scenario


@pytest.mark.parametrize(
    ("name", "variant"),
    [(name, variant) for name in catalogue() for variant in variants_of(kind_of(name))],
)
def test_a_variant_has_parameters_of_its_own(name: str, variant: str) -> None:
    scenario: Any = find(name, variant)
    assert scenario.name == f"{name}+{variant}"
    assert find(scenario.name) == scenario
    for key, value in variants_of(kind_of(name))[variant].parameters.items():
        assert getattr(scenario, key) == value


@given(
    st.integers(1, 4),
    st.integers(1, 100),
    st.booleans(),
    st.sampled_from(["", "upstream", "early-run"]),
    st.sampled_from(["echo", "trusty", "disabled"]),
)
def test_specs_round_trip(
    vcpus: int, messages: int, boot: bool, variant: str, receiver: str
) -> None:
    scenario = find(
        "mailbox", variant, vcpus=vcpus, messages=messages, boot=boot, receiver=receiver
    )
    again = find(scenario.name)
    assert again == scenario
    assert again.name == scenario.name
    assert len(scenario.name.split(",")) <= len(fields(kind_of("mailbox")))


def test_what_is_given_beside_a_spec_goes_before_its_own() -> None:
    scenario = find("mailbox+upstream,messages=3", "early-run", messages=4)
    assert scenario.name == find("mailbox+early-run,messages=4").name
    assert find("mailbox+upstream", "") == find("mailbox", **vars(find("mailbox")))


def test_no_parameter_is_named_that_is_usual() -> None:
    @dataclass
    class Local:
        number: int = 3
        flag: bool = True

    assert spec_of("local", Local()) == "local"
    assert spec_of("local", Local(number=4)) == "local,number=4"
    assert spec_of("local", Local(flag=False)) == "local,flag=false"


# Files and modules.


def test_a_scenario_of_a_file(own: str) -> None:
    scenario: Any = find(f"{own}::Own,number=4,flag=true,word=there")
    assert (scenario.number, scenario.flag, scenario.word) == (4, True, "there")
    assert scenario.name == f"{own}::Own,number=4,flag=true,word=there"
    assert find(scenario.name) == scenario


def test_a_variant_of_a_file(own: str) -> None:
    scenario: Any = find(f"{own}::Own", "late")
    assert scenario.number == 5
    assert scenario.name == f"{own}::Own+late"
    assert find(f"{own}::Own+late,number=3").name == f"{own}::Own+late,number=3"


def test_a_file_is_imported_once_whatever_it_is_called(own: str, tmp_path: Path) -> None:
    kinds = {kind_of(f"{path}::Own") for path in (own, f"./{own}", str(tmp_path / own))}
    assert len(kinds) == 1


def test_two_files_of_one_name_are_two(own: str, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / own).write_text(OWN)
    assert kind_of(f"{own}::Own") is not kind_of(f"more/{own}::Own")


def test_a_path_may_have_what_specs_are_made_of(own: str, tmp_path: Path) -> None:
    (tmp_path / "a+b,c=d").mkdir()
    (tmp_path / "a+b,c=d" / own).write_text(OWN)
    scenario = find(f"a+b,c=d/{own}::Own+late,flag=true")
    assert scenario.name == f"a+b,c=d/{own}::Own+late,flag=true"


def test_a_function_that_is_a_test(own: str) -> None:
    assert find(f"{own}::test_function").name == f"{own}::test_function"


def test_a_scenario_of_a_module() -> None:
    scenario = find("worlds::Counter,locked=true,tasks=2")
    assert scenario.name == "worlds::Counter,locked=true"
    assert find(scenario.name) == scenario


# What is refused.


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            "",
            "no scenario '': known: events, images, machine, mailbox, members, ports, programs, quiet, restored, services, snapshots, subscribers, suspension, swap, userhold, vhost; your own is FILE.py::CLASS",
        ),
        ("Mailbox", "no scenario 'Mailbox': known: "),
        ("mailbox+", ""),
        ("mailbox+slow", "scenario mailbox: no variant slow: known: early-run, "),
        ("mailbox,speed=3", "scenario mailbox: no parameter speed: known: boot, couriers, "),
        ("mailbox,name=x", "scenario mailbox: no parameter name: known: boot, "),
        ("mailbox,variant=upstream", "scenario mailbox: no parameter variant: known: boot, "),
        ("mailbox,vcpus=", "scenario mailbox: vcpus=: not a number"),
        ("mailbox,vcpus=1.5", "scenario mailbox: vcpus=1.5: not a number"),
        ("mailbox,boot=1", "scenario mailbox: boot=1: not true or false"),
        ("mailbox,", "scenario mailbox,: '' is not PARAMETER=VALUE"),
        ("mailbox,=3", "scenario mailbox,=3: '=3' is not PARAMETER=VALUE"),
        ("mailbox,vcpus=1,vcpus=2", "scenario mailbox,vcpus=1,vcpus=2: vcpus is given twice"),
        ("own.py::Own,number=x", "scenario own.py::Own: number=x: not a number"),
        ("own.py::Own+never", "scenario own.py::Own: no variant never: known: late"),
        ("own.py::Picky,least=0", "scenario own.py::Picky: least=0: below 1"),
        ("own.py::Picky+any", "scenario own.py::Picky: no variant any: known: none"),
        ("own.py::Plain", "scenario own.py::Plain: Plain is not a dataclass with a method build"),
        (
            "own.py::Absent",
            "scenario own.py::Absent: no class 'Absent' there: ",
        ),
        ("own.py::imports", "scenario own.py::imports: imports is not a dataclass with a method "),
        ("own.py::", "scenario own.py::"),
        ("absent.py::Own", "scenario file absent.py: no such file"),
        (".py::Own", "scenario file .py: no such file"),
        ("a\0b.py::Own", r"scenario file a\x00b.py: embedded null byte"),
        ("a" * 300 + ".py::Own", f"scenario file {'a' * 80}: File name too long"),
        ("absent::Own", "scenario module absent: No module named 'absent'"),
        ("::Own", "scenario module : ValueError: Empty module name"),
    ],
)
def test_bad_specs_are_named(own: str, spec: str, why: str) -> None:
    if not why:
        assert find(spec).name == "mailbox"  # no variant is one too
        return
    assert refusal(spec).startswith(why)


def test_a_value_of_the_caller_is_looked_at_by_the_scenario() -> None:
    assert refusal("mailbox", vcpus=9) == "scenario mailbox: vcpus=9: not in 1..4"
    assert refusal("mailbox", speed=9).startswith("scenario mailbox: ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def broken(:\n", "SyntaxError: "),
        ("raise ValueError('of\\nits own')\n", "ValueError: of its own ("),
        ("raise SystemExit(3)\n", "SystemExit: 3 ("),
        ("import absent\n", "ModuleNotFoundError: No module named 'absent' ("),
    ],
)
def test_a_file_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "bad.py"
    file.write_text(text)
    assert refusal("bad.py::Own").startswith(f"scenario file bad.py: {why}")
    file.write_text(OWN)  # mended, it can be
    assert find("bad.py::Own").name == "bad.py::Own"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    said = refusal(f"{tmp_path}/folder.py::Own")
    assert said == f"scenario file {tmp_path}/folder.py: no such file"
