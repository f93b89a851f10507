"""What `hfsched fuzz` refuses: one line that names the thing, status 2; and what it does not need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfsched.cli.fuzz import STRATEGIES
from hfsched.explore.strategies.choose import NAMES

if TYPE_CHECKING:
    from conftest import Start

TOKEN = "hf1-IwAQbWFpbGJveCt1cHN0cmVhbQELArAvJbB4jgEDERYhr9cB"  # intact, of some code or other


def refusal(hfsched: Start, *arguments: str, **options: Any) -> str:
    """Return the one line that a command line is refused with."""
    refused = hfsched("fuzz", *arguments, **options)
    assert refused.wait() == 2, refused.err
    assert refused.out == ""
    (line,) = refused.err.splitlines()
    assert line.startswith("hfsched: error: ")
    assert line.isprintable()
    return line.removeprefix("hfsched: error: ")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        # Scenarios and their parameters.
        (
            "nobody",
            "no scenario 'nobody': known: events, images, machine, mailbox, members, ports, programs, quiet, restored, services, snapshots, subscribers, suspension, swap, userhold, vhost; ",
        ),
        ("mailbx,vcpus=2", "no scenario 'mailbx': known: "),
        ("mailbox --variant better", "scenario mailbox: no variant better: known: early-run, "),
        ("mailbox,speed=1", "scenario mailbox: no parameter speed: known: boot, couriers, "),
        ("mailbox,vcpus=two", "scenario mailbox: vcpus=two: not a number"),
        ("absent.py::Own", "scenario file absent.py: no such file"),
        # Values.
        ("mailbox --strategy luck", "--strategy luck: known: pos, urw, random, pct, bounded, "),
        ("mailbox --bound -1", "--bound -1: not a number from 0 to 1000"),
        ("mailbox --memory 0", "--memory '0': a multiple of 4096 bytes up to 64GiB, such as 16MiB"),
        ("mailbox --memory 64x", "--memory '64x': unknown suffix 'x': use K, M, G, KiB, MiB, GiB"),
        ("mailbox --budget 0", "--budget 0: a time such as 500ms, 10s or 5m, more than 0"),
        ("mailbox --seed x", "--seed x: not a number from 0 to 9223372036854775807"),
        ("mailbox --jobs 0", "--jobs 0: not a number from 1 to 256"),
        (f"replay {TOKEN} --engine kvm", "--engine kvm: known: script, unicorn"),
        # What does not go together.
        ("mailbox --strategy pos --bound 2", "strategy pos has no bound: bounded has"),
        ("mailbox --jobs 2 --cluster tcp://a:1", "--jobs is for this machine: "),
        ("mailbox --html page.html", "--html is for explain, not for a search"),
        ("mailbox --engine script", "--engine is for replay, not for a search"),
        ("mailbox events", "events: one scenario at a time"),
        (
            "mailbox receiver=trusty vcpus=2",
            "receiver=trusty: parameters are joined by commas: hfsched fuzz mailbox,receiver=trusty,vcpus=2",
        ),
        (f"explan {TOKEN}", "no verb or scenario 'explan': did you mean 'explain'?"),
        ("lsit", "no verb or scenario 'lsit': did you mean 'list'?"),
        ("replay --seed 1 x", "--seed is for a search, not for replay"),
        (f"replay {TOKEN} {TOKEN}", f"{TOKEN}: replay takes one token"),
        ("list mailbox", "mailbox: list takes nothing more"),
        (f"replay {TOKEN} --memory 1G", "--memory is for a search, not for replay"),
        (f"replay {TOKEN} --budget 1s", "--budget is for a search, not for replay"),
        (f"shrink {TOKEN} --html page.html", "--html is for explain, not for shrink"),
        ("programs --strategy pos", "--strategy: programs are drawn; give one "),
        # Tokens.
        ("replay", "replay: missing TOKEN"),
        ("replay mailbox", "not a token: 'mailbox': tokens begin with hf1-"),
        (f"replay {TOKEN.replace('hf1', 'hf2')}", "token 'hf2-IwAQbWFpbGJveCt1...': format 2, "),
        (f"shrink {TOKEN[:-5]}", "token 'hf1-IwAQbWFpbGJveCt1...': truncated: 43 of 48 characters"),
        (f"explain {TOKEN[:20]}X{TOKEN[21:]}", "token 'hf1-IwAQbWFpbGJveCt1...': damaged: "),
    ],
)
def test_misuse_is_named_in_one_line(hfsched: Start, line: str, why: str) -> None:
    assert refusal(hfsched, *line.split()).startswith(why)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def broken(:\n", "SyntaxError: "),
        ("raise ValueError('of\\nits own')\n", "ValueError: of its own ("),
        ("raise SystemExit(0)\n", "SystemExit: 0 ("),
    ],
)
def test_a_file_that_cannot_be_imported(hfsched: Start, text: str, why: str) -> None:
    Path("own.py").write_text(text)
    assert refusal(hfsched, "own.py::Own").startswith(f"scenario file own.py: {why}")


def test_a_file_without_its_class_or_with_a_wrong_one(hfsched: Start) -> None:
    assert refusal(hfsched, "mailbx").endswith(": did you mean 'mailbox'?")
    own = """
from dataclasses import dataclass

class Helper:
    pass

@dataclass
class Own:
    def build(self, runtime):
        pass
"""
    Path("own.py").write_text(own)
    Path("none.py").write_text("x = 1\n")
    assert refusal(hfsched, "own.py") == "own.py: name the scenario in it: own.py::Own"
    assert refusal(hfsched, "own.py::Owm") == (
        "scenario own.py::Owm: no class 'Owm' there: own.py::Own"
    )
    assert refusal(hfsched, "own.py::Helper") == (
        "scenario own.py::Helper: Helper is not a dataclass with a method build"
    )
    assert refusal(hfsched, "none.py") == (
        "none.py: name the scenario in it: it has no dataclass with a method build"
    )


def test_a_token_of_code_that_has_changed(hfsched: Start) -> None:
    own = Path("own.py")
    text = """
from dataclasses import dataclass
from hfsched.explore import World

@dataclass
class Own:
    def build(self, runtime):
        def work():
            runtime.checkpoint("one")
            raise KeyError("it fails")
        runtime.spawn("a", work)
        return World()
"""
    own.write_text(text)
    failed = hfsched("fuzz", "own.py::Own")
    assert failed.wait() == 1
    token = failed.out.partition("token: ")[2].split()[0]
    own.write_text(text.replace('"one"', '"another"'))
    said = refusal(hfsched, "replay", token)
    assert said.startswith("this code no longer behaves as the token recorded: trace ")
    own.unlink()
    assert "the token's scenario is not known here: " in refusal(hfsched, "replay", token)


def test_without_assertions_nothing_would_be_found(hfsched: Start) -> None:
    said = refusal(hfsched, "mailbox", environment={"PYTHONOPTIMIZE": "1"})
    assert said == "python -O and PYTHONOPTIMIZE leave out what scenarios assert"


# Files and packages that are missing, or not needed.


@pytest.fixture
def without_greenlet(tmp_path: Path) -> Path:
    """A directory for the module path that has a greenlet which cannot be imported."""
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "greenlet.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'greenlet'\", name='greenlet')\n"
    )
    return folder


@pytest.mark.parametrize("line", ["mailbox", f"replay {TOKEN}", "programs"])
def test_without_greenlet_the_remedy_is_named(
    hfsched: Start, without_greenlet: Path, line: str
) -> None:
    said = refusal(hfsched, *line.split(), paths=[without_greenlet])
    assert "greenlet" in said
    assert "pip install 'hfsched[explore]'" in said


def test_without_distributed_the_remedy_is_named(hfsched: Start, tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text("raise ImportError('No module named distributed')\n")
    refused = hfsched("fuzz", "mailbox", "--cluster", "tcp://127.0.0.1:1", paths=[tmp_path])
    assert refused.wait() == 2
    assert refused.err == (
        "hfsched: error: --cluster needs the package 'distributed': pip install 'hfsched[cluster]'\n"
    )


@pytest.mark.parametrize("line", ["run --help", "image --help", "fuzz --help"])
def test_nothing_else_imports_the_explorer(hfsched: Start, line: str) -> None:
    """Nor for its help."""
    told = hfsched(*line.split(), environment={"PYTHONPROFILEIMPORTTIME": "1"})
    assert told.wait() == 0
    imported = {each.rpartition("|")[2].strip() for each in told.err.splitlines()}
    assert "hfsched.cli.main" in imported
    assert not {name for name in imported if name.startswith(("hfsched.explore", "greenlet"))}


def test_running_guests_needs_no_greenlet(hfsched: Start, without_greenlet: Path) -> None:
    echo = hfsched("run", "--guest", "image=guests.py:echo", paths=[without_greenlet])
    assert echo.wait() == 0
    assert echo.out == "[image] up\n"


def test_each_strategy_of_the_explorer_has_a_name_here() -> None:
    assert STRATEGIES == NAMES
