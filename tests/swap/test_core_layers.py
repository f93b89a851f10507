"""The files of the C core call each other in one direction, as `core.h` lists."""

import re
from pathlib import Path

import hfsched.swap.core

CORE = Path(hfsched.swap.core.__file__).parent
DEFINITION = re.compile(r"^[a-z][^\n;{}=]*\b(hfs_\w+)\([^;{}]*\)\n\{", re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def levels() -> dict[str, int]:
    """Return each file's line in the table of `core.h`, counted from the top."""
    table = (CORE / "core.h").read_text().split("Layers.")[1].split("Sources:")[0]
    rows = [re.split(r" {3,}", line.removeprefix(" *").strip()) for line in table.splitlines()]
    return {
        name: level for level, row in enumerate(rows) for name in row[0].split() if len(row) > 1
    }


def test_each_file_calls_only_files_below_it() -> None:
    order = levels()
    sources = {path.stem: COMMENT.sub("", path.read_text()) for path in CORE.glob("*.c")}
    defined = {name: file for file, text in sources.items() for name in DEFINITION.findall(text)}
    calls = {
        (file, defined[name])
        for file, text in sources.items()
        for name in re.findall(r"\b(hfs_\w+)\(", text)
        if defined.get(name, file) != file
    }
    assert ("serve", "fault") in calls
    assert sources.keys() == order.keys()
    assert not [(caller, called) for caller, called in calls if order[caller] >= order[called]]
