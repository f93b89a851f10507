"""A manifest's text: bytes to tables, and errors in the terms of a manifest.

What an editor or a person may write in another way and can mean one thing by is taken: UTF-8 and UTF-16
with a byte order mark, any line ends, ``[vm]`` for a single ``[[vm]]``, digits in quotes for a number.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hfsched.errors import ConfigError
from hfsched.text import meant, one_line

__all__ = ["NO_VM", "Vocabulary", "is_manifest", "read_tables", "text_of"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MANIFEST = re.compile(
    r"^\s*(\[+\s*vm\s*\]+|(vm|name|engine|swap|swap_idle)\s*=)", re.MULTILINE | re.IGNORECASE
)
NO_VM = 'no VM: write [[vm]], and below it image = "trusty.bin"'
_ONE_VM = re.compile(r"^[ \t]*\[[ \t]*vm[ \t]*\]", re.MULTILINE)
_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_BARE = re.compile(r"(\w+)\s*=\s*([^\s\"'\[\]{}#=,]+)\s*(?:#.*)?")  # a value without quotes
_DIGITS = re.compile(r"[0-9]{1,15}|0x[0-9a-fA-F]{1,15}")
# What msgspec says of a value that has another type or shape than its field.
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_PLACE = re.compile(r"(.*) - at `\$(?:\.vm\[(\d+)\])?\.?([^`]*)`", re.DOTALL)
_TYPES = {
    "int": "a number",
    "float": "a fraction",
    "str": 'a text in "quotes"',
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "",
}
# Other names of things, as other programs have them.
_SYNONYMS = {
    "bootargs": ("args", "append", "cmdline"),
    "fdt": ("devicetree", "dtb"),
    "image": ("file", "guest", "kernel", "path"),
    "memory": ("mem", "ram", "size"),
    "vcpus": ("cpus", "cpu", "smp"),
    "vm": ("guests", "guest", "vms"),
}


class Vocabulary:
    """The keys of a machine, of a VM and of its devices, what a key may be (`choices`), and which are numbers."""

    def __init__(
        self,
        machine: Collection[str],
        vm: Collection[str],
        choices: Mapping[str, Sequence[str]],
        numbers: Collection[str],
        device: Collection[str] = (),
    ) -> None:
        self.machine = machine
        self.vm = vm
        self.choices = choices
        self.numbers = numbers
        self.device = device

    def reword(self, reason: str, tables: Mapping[str, Any]) -> str:
        """Return what msgspec refuses in the terms of a manifest, with the VM's name."""
        place = _PLACE.fullmatch(reason)
        what, index, field = (reason, None, "") if place is None else place.groups()
        where = "" if index is None else f"{_table(int(index), tables)}: "
        if field.startswith("device["):
            where, field = f"{where}device: ", field.partition(".")[2]
            if (extra := _UNKNOWN.fullmatch(what)) is not None:
                key = one_line(extra[1], 80)
                close = meant(key, self.device) or f": there are {', '.join(self.device)}"
                return f"{where}unknown key {key!r}{close}"
        missing, unknown = _MISSING.fullmatch(what), _UNKNOWN.fullmatch(what)
        if missing is not None:
            return f"{where}missing {missing[1]!r}" if where else NO_VM
        if unknown is not None:
            key, inside = unknown[1], index is not None
            elsewhere = (*self.vm, *_SYNONYMS["vm"])
            if not inside and isinstance(tables.get(key), dict) and key not in elsewhere:
                shown = one_line(key, 80)
                return f"unknown table [{shown}]: {', '.join(self._own())} are written above the first [[vm]]"
            return where + self._unknown(key, inside=inside)
        if field in self.choices and what.startswith("Invalid enum value "):
            value = what.removeprefix("Invalid enum value ")
            known = self.choices[field]
            return f"{where}{field} {value}: one of {', '.join(known)}{meant(value.strip(chr(39)), known)}"
        wrong = _WRONG_TYPE.fullmatch(what)
        if wrong is not None:
            asked, given = (
                " or ".join(filter(None, (_TYPES.get(kind, kind) for kind in each.split(" | "))))
                for each in wrong.groups()
            )
            what = f"{asked}, not {given}"
        return f"{where}{field}: {what}" if field else f"{where}{what}"

    def _own(self) -> list[str]:
        return [key for key in self.machine if key != "vm"]

    def _unknown(self, key: str, *, inside: bool) -> str:
        known, others = (self.vm, self.machine) if inside else (self.machine, self.vm)
        shown = f"unknown key {one_line(key, 80)!r}"
        if key in others:
            return f"{shown}: " + (
                "it is the machine's: write it above the first [[vm]]"
                if inside
                else "it is a VM's: write it below its [[vm]]"
            )
        for name in known:
            if key.casefold() in _SYNONYMS.get(name, ()):
                return f"{shown}: did you mean {name!r}?"
        return shown + (meant(key, known) or f": there are {', '.join(known)}")


def is_manifest(head: bytes) -> bool:
    """Return whether a file that begins with `head` is meant as a manifest."""
    return _MANIFEST.search(head.decode("utf-8", "replace")) is not None


def text_of(data: bytes) -> str:
    """Return a manifest's text, without a byte order mark; raises ConfigError."""
    mark, encoding = next((each for each in _MARKS if data.startswith(each[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise ConfigError(
            f"line {line}: byte {exc.object[exc.start]:#x} is no text in {encoding.upper()}: save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ConfigError("it has NUL bytes: not text, or UTF-16 without a mark: save it as UTF-8")
    return text


def read_tables(data: bytes, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what a manifest says as TOML's tables; raises ConfigError."""
    import tomllib  # noqa: PLC0415 - only where there is a manifest

    text = text_of(data)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(_explain(str(exc), text, vocabulary)) from None
    if "vm" not in tables and not tables:
        raise ConfigError(NO_VM)
    if isinstance(tables.get("vm"), dict):
        tables["vm"] = [tables["vm"]]
    vms = tables.get("vm")
    for index, table in enumerate(vms if isinstance(vms, list) else ()):
        if isinstance(table, dict):
            _numbers(table, vocabulary.numbers)
            if isinstance(ports := table.get("ports"), dict):
                _numbers(ports, ports.keys())
                _check_ports(ports, index, tables)
    return tables


def _numbers(table: dict[str, Any], keys: Collection[str]) -> None:
    for key in keys:
        value = table.get(key)
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            table[key] = int(value, 16 if value.startswith("0x") else 10)


def _check_ports(ports: dict[str, Any], index: int, tables: Mapping[str, Any]) -> None:
    """Name the port, which msgspec does not."""
    for name, port in ports.items():
        if type(port) is not int:
            where = (
                f"{_table(index, tables)}: ports: {one_line(name, 80)} = {one_line(repr(port), 80)}"
            )
            raise ConfigError(f"{where}: a number, such as 1")


def _explain(reason: str, text: str, vocabulary: Vocabulary) -> str:
    """Return where and why a text is not TOML, with its line."""
    found = _AT_LINE.search(reason)
    line = (
        "" if found is None else text.replace("\r\n", "\n").split("\n")[int(found[1]) - 1].strip()
    )
    again = "twice" in reason or "Cannot" in reason
    if again and line.startswith("[") and _ONE_VM.search(text):
        return "[vm] and another VM: write [[vm]] for each"
    if "Cannot overwrite" in reason:
        return f"a key is there twice: {reason}"
    bare = _BARE.fullmatch(line)
    hint = ""
    if bare is not None and bare[1] not in vocabulary.numbers:
        hint = f': write it in quotes: {bare[1]} = "{one_line(bare[2], 80)}"'
    return f"{reason}: {one_line(line, 80)}{hint}" if line else reason


def _table(index: int, tables: Mapping[str, Any]) -> str:
    """Return which [[vm]] table is meant, by its name if it has one."""
    table = tables["vm"][index]
    name = table.get("name") if isinstance(table, dict) else None
    return f"[[vm]] {name!r}" if isinstance(name, str) and name else f"[[vm]] number {index + 1}"
