"""The parser of every command: an error is one line, and words may stand between options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from hfsched.errors import MisuseError
from hfsched.text import meant, one_of

__all__ = ["Parser"]

_MISSING = "the following arguments are required:"
# What argparse says, and better.
_REWORDED = (
    (re.compile(r"argument (\S+): ignored explicit argument (.*)"), r"\1 takes no value, got \2"),
    (re.compile(r"argument (\S+): expected one argument"), r"\1 needs a value after it"),
)


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line with what to do; misuse is a MisuseError.

    A positional argument that takes any number of words also gets those that come after options.
    """

    _given: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; return the namespace, and no unknown words: they are errors."""
        self._given = list(args or [])
        namespace, rest = super().parse_known_args(args, namespace)
        many = next((a for a in self._positionals._group_actions if a.nargs == "*"), None)
        if "--" in rest:
            options, words = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
        else:
            options, words = rest, []
        unknown = [word for word in options if word.startswith("-") and word != "-"]
        if unknown:
            self.error(self._unknown(unknown[0]))
        words = [*options, *words]
        if words and many is None:
            self.error(f"{words[0]!r}: one word too many")
        if words and many is not None:
            many(self, namespace, words, None)
        return namespace, []

    def error(self, message: str) -> NoReturn:
        """Raise MisuseError, with where the options are."""
        if message.startswith(_MISSING) and (odd := self._first_unknown()) is not None:
            message = self._unknown(odd)  # which may be why a word is missing
        for found, text in _REWORDED:
            message = found.sub(text, message)
        raise MisuseError(f"{message} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        what = f"{action.option_strings[-1]} " if action.option_strings else ""
        self.error(f"{what}{str(value)[:80]!r}{one_of(str(value), choices)}")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write at once: an error (OSError) is the caller's, not lost at the end of the process."""
        if file is None or not message:
            return
        file.write(message)
        file.flush()

    def _first_unknown(self) -> str | None:
        """Return the first of the words given that would be an option, and is none."""
        for word in self._given:
            if word == "--":
                break
            name = word.partition("=")[0]
            known = any(option.startswith(name) for option in self._options())
            if word.startswith("-") and word != "-" and not known:
                return word
        return None

    def _unknown(self, option: str) -> str:
        name = option.partition("=")[0]
        return f"no option {name}{meant(name, self._options())}"

    def _options(self) -> Iterable[str]:
        return [name for action in self._actions for name in action.option_strings]
