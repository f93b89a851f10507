"""`hfsched kvp get|set|delete|list VM [KEY [VALUE]]`: the key-value pairs of a guest, by its utility services.

Exit status: 0 it is done; 1 it is not, and one line gives the reason; 2 misuse.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from hfsched.cli.within import SLACK, add_within, within_of
from hfsched.control.command_client import ask, find
from hfsched.control.guest_messages import Keys, KvpDelete, KvpGet, KvpList, KvpSet, Value
from hfsched.errors import MisuseError, UserError
from hfsched.services.bodies import KEY_MAX, VALUE_MAX
from hfsched.text import is_utf8, printable, printable_bytes

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Get and set key-value pairs of a running guest that offers that (the bundled guest `utility` does; see
docs/services.md).

  hfsched kvp list utility              the guest's keys
  hfsched kvp get utility os            the value of a key
  hfsched kvp set utility role db       '-' for the value: standard input
  hfsched kvp delete utility role
  hfsched kvp get --host utility vm     of the keys that the host keeps for the guest
"""
_STANDARD_INPUT = "-"
_WORDS = {"get": 1, "set": 2, "delete": 1, "list": 0}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "kvp",
        help="get and set key-value pairs of a running guest",
        description=_DESCRIPTION,
        epilog="Exit status: 0 it is done; 1 it is not, and one line gives the reason; 2 misuse.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=(*_WORDS,), metavar="|".join(_WORDS))
    parser.add_argument(
        "vm", metavar="VM", help="a VM's name, MACHINE/VM, or the path of a machine's socket"
    )
    parser.add_argument("key", nargs="?", metavar="KEY", help=f"at most {KEY_MAX} bytes")
    parser.add_argument(
        "value", nargs="?", metavar="VALUE", help=f"set: at most {VALUE_MAX} bytes, or '-'"
    )
    parser.add_argument(
        "--host", action="store_true", help="the keys that the host keeps for the guest"
    )
    add_within(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send the requests, and print what comes back; return the exit status."""
    given = [each for each in (args.key, args.value) if each is not None]
    wanted = _WORDS[args.what]
    if len(given) < wanted:
        raise MisuseError(f"{args.what} needs {'a KEY' if not given else 'a VALUE'}")
    if len(given) > wanted:
        raise MisuseError(f"{given[wanted]!r} is one word too many for {args.what}")
    if args.key is not None:
        if not is_utf8(args.key):
            raise MisuseError(f"key {printable(args.key)}: it must be UTF-8")
        if not 0 < len(args.key.encode()) <= KEY_MAX:
            raise MisuseError(f"key {args.key[:80]!r}: 1 to {KEY_MAX} bytes")
    if args.value is not None:
        args.value = _value(args.value)
    within = within_of(args)
    deadline = time.monotonic() + within + SLACK
    try:
        path, vm = find(args.vm, deadline)
        shown, found = _carry_out(args, path, vm, int(within * 1000), deadline)
    except TimeoutError as exc:
        raise UserError(str(exc)) from None
    if args.json:
        print(json.dumps(found))
    elif shown is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(shown)
        sys.stdout.buffer.flush()
    return 0


def _carry_out(
    args: argparse.Namespace, path: Path, vm: str | None, within: int, deadline: float
) -> tuple[bytes | None, object]:
    """Return what is printed, as text and for --json."""
    key, host = args.key, args.host
    match args.what:
        case "get":
            answer = ask(path, KvpGet(vm=vm, within_ms=within, key=key, host=host), deadline)
            assert isinstance(answer, Value)
            return _text(answer.value), {"key": key, **_json(answer.value)}
        case "set":
            value = args.value
            ask(path, KvpSet(vm=vm, within_ms=within, key=key, value=value, host=host), deadline)
            return None, {"key": key, "set": True}
        case "delete":
            ask(path, KvpDelete(vm=vm, within_ms=within, key=key, host=host), deadline)
            return None, {"key": key, "deleted": True}
    keys = _keys(path, vm, within, deadline, host=host)
    return "".join(f"{printable(each)}\n" for each in keys).encode(), {"keys": keys}


def _keys(path: Path, vm: str | None, within: int, deadline: float, *, host: bool) -> list[str]:
    keys: list[str] = []
    while True:
        after = keys[-1] if keys else ""
        answer = ask(path, KvpList(vm=vm, within_ms=within, after=after, host=host), deadline)
        assert isinstance(answer, Keys)
        if not answer.keys:
            return keys
        if answer.keys[0] <= after:
            raise UserError("list: the guest does not list its keys in their order")
        keys += answer.keys


def _value(text: str) -> bytes:
    if text == _STANDARD_INPUT:
        value = sys.stdin.buffer.read(VALUE_MAX + 1)
    else:
        value = text.encode(errors="surrogateescape")
    if len(value) > VALUE_MAX:
        raise MisuseError(f"a value of {len(value)} bytes or more: at most {VALUE_MAX}")
    return value


def _text(value: bytes) -> bytes:
    """Return a value as it is, but for a terminal, which a guest may not command."""
    return (printable_bytes(value).encode() if sys.stdout.isatty() else value) + b"\n"


def _json(value: bytes) -> dict[str, str]:
    import base64  # noqa: PLC0415 - only here

    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
