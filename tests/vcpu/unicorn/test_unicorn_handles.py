"""New instances: their translated code lies in small pages, and nothing else of the process changes."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.unicorn import UnicornEngine, handles
from hfsched.vcpu.unicorn.library import CODE_SIZE, load

pytestmark = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages"
)

_SET_THP_DISABLE, _GET_THP_DISABLE = 41, 42
PAGE = 4096


def executable() -> dict[int, list[str]]:
    """Return, by address, what the kernel says of memory that is writable and executable."""
    found: dict[int, list[str]] = {}
    lines: list[str] = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            lines = []
            if " rwxp " in line:
                found[int(line.partition("-")[0], 16)] = lines
        lines.append(line)
    return found


def flags(lines: list[str]) -> list[str]:
    return next(line for line in lines if line.startswith("VmFlags:")).split()[1:]


def huge(lines: list[str]) -> str:
    return next(line for line in lines if line.startswith("AnonHugePages:")).split()[1]


def test_an_instance_that_is_opened_as_it_is_asks_for_huge_pages() -> None:
    library = load()
    before = executable()
    uc = library.new_handle()
    try:
        made = [lines for start, lines in executable().items() if start not in before]
        assert any("hg" in flags(lines) for lines in made), "then `handles` is needed no more"
    finally:
        library.close(uc)


def test_code_lies_in_small_pages() -> None:
    library = load()
    before = executable()
    uc = handles.new_handle(library)
    try:
        made = [lines for start, lines in executable().items() if start not in before]
        code = [lines for lines in made if int(lines[1].split()[1]) << 10 == CODE_SIZE - PAGE]
        assert code, made
        for lines in code:
            assert "nh" in flags(lines)
            assert huge(lines) == "0"
    finally:
        library.close(uc)


def test_other_memory_may_still_have_huge_pages() -> None:
    prctl = ctypes.CDLL(None).prctl
    before = prctl(_GET_THP_DISABLE, 0, 0, 0, 0)
    prctl(_SET_THP_DISABLE, 0, 0, 0, 0)
    try:
        load().close(handles.new_handle(load()))
        assert prctl(_GET_THP_DISABLE, 0, 0, 0, 0) == 0
    finally:
        prctl(_SET_THP_DISABLE, before, 0, 0, 0)


def test_where_the_place_is_not_found_an_instance_is_made_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(handles._places, load(), None)
    engine = UnicornEngine(ThreadRuntime())
    engine.space("a", 1).vcpu(0).reset(0, 0)
    engine.close()
