"""`hfsched completion SHELL`: a script that completes command lines, made from the parsers themselves.

A shell that reads it when it starts (``source <(hfsched completion bash)``) has what this version has.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import time
from contextlib import suppress
from typing import Any

from msgspec import Struct

from hfsched.cli.completion_bash import BASH, BASH_END
from hfsched.cli.parser import Parser
from hfsched.errors import UserError

__all__ = ["Command", "Word", "add_parser", "commands", "run"]

_DESCRIPTION = """\
Print a script that completes command lines in a shell. Have the shell read it when it starts:

  ~/.bashrc                    source <(hfsched completion bash)
  ~/.zshrc, after compinit     source <(hfsched completion zsh)
  ~/.config/fish/config.fish   hfsched completion fish | source

`completion machines` and `completion vms` list the names of what runs; the scripts call them.
"""
_SHELLS = ("bash", "zsh", "fish")
_WITHIN = 1.0  # seconds, until a machine must have answered
_NAME = re.compile(r"[A-Za-z0-9_./-]+")  # bash expands what it is to choose from
# What a word may be, by its name in the help.
_METAVARS = {
    "[NAME=]IMAGE": "image",
    "FILE": "file",
    "PATH": "file",
    "DIR": "directory",
    "MACHINE": "machine",
    "VM": "vm",
    "SCENARIO": "scenario",
    "S": "strategy",
    "V": "variant",
    "ENGINE": "engine",
    "NAME": "name",
}
_OF_FUZZ = ("scenario", "strategy", "engine", "variant")


class Word(Struct, frozen=True):
    """What may stand in one place: `choices`, or names of a `kind`; neither: anything."""

    choices: tuple[str, ...] = ()
    kind: str = ""


class Command(Struct, frozen=True):
    """A command: its options (names, help, value or None for a switch) and its positional words.

    The last positional word is repeated if `repeats`.
    """

    name: str
    help: str
    options: tuple[tuple[tuple[str, ...], str, Word | None], ...]
    words: tuple[Word, ...]
    repeats: bool


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes command lines in a shell",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=(*_SHELLS, "machines", "vms"), metavar="|".join(_SHELLS))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a shell's script, or names; return the exit status."""
    made = {"bash": _bash, "zsh": _zsh, "fish": _fish, "machines": _machines, "vms": _vms}
    lines = made[args.what]()
    if lines:
        print("\n".join(lines))
    return 0


def commands() -> list[Command]:
    """Return all commands, from their parsers."""
    from hfsched.cli.main import COMMANDS  # noqa: PLC0415 - which finds this module

    subparsers: argparse._SubParsersAction[Any] = Parser().add_subparsers()
    for module, _ in COMMANDS.values():
        importlib.import_module(module).add_parser(subparsers)
    return [_command(name, text, subparsers.choices[name]) for name, (_, text) in COMMANDS.items()]


def _command(name: str, text: str, parser: argparse.ArgumentParser) -> Command:
    options = []
    words = []
    repeats = False
    for action in parser._actions:
        if action.option_strings:
            value = None if action.nargs == 0 else _word(action)
            options.append((tuple(action.option_strings), action.help or "", value))
        else:
            words.append(_word(action))
            repeats = action.nargs == "*"
    return Command(name, text, tuple(options), tuple(words), repeats)


def _word(action: argparse.Action) -> Word:
    if action.choices is not None:
        return Word(choices=tuple(map(str, action.choices)))
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    kind = "image" if action.dest == "file" else _METAVARS.get(metavar, "")
    return Word(choices=_of_fuzz(kind)) if kind in _OF_FUZZ else Word(kind=kind)


def _of_fuzz(kind: str) -> tuple[str, ...]:
    from hfsched.cli.fuzz import ENGINES, STRATEGIES  # noqa: PLC0415 - where it is loaded already
    from hfsched.cli.fuzz_token import VERBS  # noqa: PLC0415 - likewise
    from hfsched.explore.registry import catalogue, kind_of, variants_of  # noqa: PLC0415 - likewise

    if kind == "variant":
        return tuple(sorted({each for name in catalogue() for each in variants_of(kind_of(name))}))
    if kind == "scenario":
        return (*catalogue(), *VERBS, "list")
    return STRATEGIES if kind == "strategy" else ENGINES


# What runs.


def _machines() -> list[str]:
    from hfsched.control.runtime_dir import port_sockets  # noqa: PLC0415 - only for names

    return sorted(filter(_NAME.fullmatch, port_sockets()))


def _vms() -> list[str]:
    from hfsched.control.command_client import find_machine, subscribe  # noqa: PLC0415 - likewise

    found = []
    for machine in _machines():
        deadline = time.monotonic() + _WITHIN
        with suppress(UserError, TimeoutError):  # it has just ended
            for event in subscribe(find_machine(machine, deadline), deadline):
                vms = event.get("vms")
                if isinstance(vms, list):
                    found += [f"{machine}/{vm}" for vm in vms] + [str(vm) for vm in vms]
                break
    return sorted(set(filter(_NAME.fullmatch, found)))


# bash, and zsh, which can read it.


def _bash() -> list[str]:
    lines = [BASH]
    known = commands()
    names = " ".join(each.name for each in known)
    lines.append(f"    '') _hfsched_words '{names} --help --version' \"$cur\";;")
    for each in known:
        lines.append(f"    {each.name})")
        lines.append("        case $prev in")
        for options, _, value in each.options:
            if value is not None:
                lines.append(f"        {'|'.join(options)}) {_bash_word(value)}return;;")
        lines.append("        esac")
        every = " ".join(name for options, _, _ in each.options for name in options)
        lines.append(
            f"        if [[ $cur == -* ]]; then _hfsched_words '{every}' \"$cur\"; return; fi"
        )
        lines.append("        case $place in")
        for place, word in enumerate(each.words):
            last = each.repeats and place == len(each.words) - 1
            lines.append(f"        {'*' if last else place}) {_bash_word(word)};;")
        lines += ["        esac;;"]
    lines.append(BASH_END)
    lines.append("_hfsched_takes() {\n    case $1:$2 in")
    for each in known:
        valued = [name for options, _, value in each.options if value for name in options]
        if valued:
            lines.append(f"    {'|'.join(f'{each.name}:{name}' for name in valued)}) return 0;;")
    lines.append("    esac\n    return 1\n}")
    return lines


def _bash_word(word: Word) -> str:
    """Return the commands that complete a word, with a semicolon after each."""
    if word.choices:
        return f'_hfsched_words {shlex.quote(" ".join(word.choices))} "$cur"; '
    files, names = (
        '_hfsched_files -f "$cur"; ',
        '_hfsched_words "$(hfsched completion {} 2>/dev/null)" "$cur"; ',
    )
    return {
        "image": f"_hfsched_words '{' '.join(_images())}' \"$cur\"; {files}",
        "file": files,
        "directory": '_hfsched_files -d "$cur"; ',
        "machine": names.format("machines"),
        "vm": names.format("vms"),
        "name": '_hfsched_names "$cur"; ',
        "": "",
    }[word.kind] or ": ; "


def _zsh() -> list[str]:
    return ["autoload -U +X bashcompinit && bashcompinit", *_bash()]


def _images() -> list[str]:
    from hfsched.vmm.guests import bundled_images  # noqa: PLC0415 - only for names

    return [name for name in bundled_images() if name.endswith(".bin")]


# fish.


def _fish() -> list[str]:
    top = "complete -c hfsched -n __fish_use_subcommand"
    lines = ["complete -c hfsched -f", f"{top} -l help", f"{top} -l version"]
    for each in commands():
        lines.append(f"{top} -a {each.name} -d {_fish_text(each.help)}")
        inside = f"complete -c hfsched -n '__fish_seen_subcommand_from {each.name}'"
        for options, text, value in each.options:
            names = " ".join(
                f"-{'l' if o.startswith('--') else 's'} {o.lstrip('-')}" for o in options
            )
            takes = "" if value is None else " -r" + _fish_word(value)
            lines.append(f"{inside} {names}{takes} -d {_fish_text(text)}")
        lines += [f"{inside}{found}" for word in each.words if (found := _fish_word(word))]
    return lines


def _fish_word(word: Word) -> str:
    if word.choices:
        return f" -a {_fish_text(' '.join(word.choices))}"
    return {
        "image": f" -F -a {_fish_text(' '.join(_images()))}",
        "file": " -F",
        "directory": " -a '(__fish_complete_directories)'",
        "machine": " -a '(hfsched completion machines)'",
        "vm": " -a '(hfsched completion vms)'",
        "name": "",
        "": "",
    }[word.kind]


def _fish_text(text: str) -> str:
    quoted = text.replace("%%", "%").replace("\\", "\\\\").replace("'", "\\'")
    return f"'{quoted}'"
