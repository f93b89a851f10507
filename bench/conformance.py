"""The conformance table: what guests see on every engine, as Markdown.

    python bench/conformance.py [--engine NAME ...] [--json FILE] [--merge FILE ...]

Runs every behaviour of tests/conformance on the engines that can be used here, or on those named
("unicorn", "kvm", "none"), and prints the table of docs/engines.md.  `--json` writes what was seen,
`--merge` adds what another machine saw:

    script/qemu -- python3 bench/conformance.py --engine kvm --json /dev/stdout >arm64.json
    python bench/conformance.py --merge arm64.json

The exit status is 1 if an engine shows what is not expected of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "conformance"))

from rows import ROWS
from table import table
from talk import TARGETS, Target


def look(target: Target) -> dict[str, str]:
    """Return what an engine shows, by row."""
    seen = {}
    for row in ROWS:
        try:
            seen[row.name] = row.see(target)
        except Exception as exc:  # noqa: BLE001 - the other rows are still observed
            seen[row.name] = f"{type(exc).__name__}: {exc}"
        if not row.holds(target, seen[row.name]):
            print(f"{target}: {row.name}: {seen[row.name]}", file=sys.stderr)
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description="what guests see on every engine")
    parser.add_argument("--engine", action="append", choices=["unicorn", "kvm", "none"])
    parser.add_argument("--json", type=Path, help="write what was seen, instead of the table")
    parser.add_argument("--merge", type=Path, nargs="+", default=[], help="what --json wrote")
    args = parser.parse_args()
    seen: dict[str, dict[str, str]] = {}
    for file in args.merge:
        seen |= json.loads(file.read_text())
    for target in TARGETS:
        if args.engine is not None and target.engine not in args.engine:
            continue
        why_not = target.why_not()
        if why_not is None:
            seen[str(target)] = look(target)
        else:
            print(f"{target}: {why_not}", file=sys.stderr)
    if args.json is not None:
        args.json.write_text(json.dumps(seen, indent=1) + "\n")
    else:
        print(table(seen), end="")
    wrong = (
        not row.holds(target, seen[str(target)].get(row.name, ""))
        for target in TARGETS
        if str(target) in seen
        for row in ROWS
    )
    return int(any(wrong))


if __name__ == "__main__":
    sys.exit(main())
