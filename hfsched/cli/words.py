"""The words of `hfsched run`: which name guests, and which a machine's manifest."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from hfsched.errors import ConfigError, ImageError, MisuseError
from hfsched.memory.image import is_image, looks_like, read_head
from hfsched.vmm.guests import raw_hint
from hfsched.vmm.manifest_text import is_manifest

__all__ = ["Words", "sort_words"]


class Words(argparse.Action):
    """Collects words and the values of an option in one list, in their order.

    An entry is (whether it was the option's value, the word).
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option: str | None = None,
    ) -> None:
        """Add what was given."""
        words = getattr(namespace, self.dest)
        if words is None:
            words = []
            setattr(namespace, self.dest, words)
        added = [values] if isinstance(values, str) else list(values or [])
        words += [(option is not None, each) for each in added]


def sort_words(
    words: list[tuple[bool, str]], engine: str, *, raw: bool = False
) -> tuple[str | None, list[str]]:
    """Return the manifest that the words name, None without one, and the guests.

    With `raw`, any file is a guest that is not a manifest by its name and its text.

    Raises MisuseError for words that do not go together, and ConfigError for a file that is neither a
    manifest nor an image.
    """
    if not words:
        raise MisuseError("name a guest, such as trusty.bin, or a machine's manifest")
    manifests: list[str] = []
    guests: list[str] = []
    for optional, word in words:
        (manifests if _is_manifest(word, engine, optional, raw) else guests).append(word)
    if len(manifests) > 1:
        raise MisuseError(f"{manifests[0]}, {manifests[1]}: one manifest a machine")
    if manifests and guests:
        raise MisuseError(
            f"{manifests[0]}, {guests[0]}: either a manifest or guests:"
            " write the guest into the manifest, as another [[vm]]"
        )
    return (manifests[0] if manifests else None), guests


def _is_manifest(word: str, engine: str, optional: bool, raw: bool) -> bool:  # noqa: FBT001
    """Return whether a word names a manifest: by what the file holds, by the name where that does not tell."""
    named = word.lower().endswith(".toml")
    if optional and raw:
        return False
    if not os.path.exists(word):
        return named and not (optional or raw or "=" in word)
    if engine == "script" or word.endswith(".py"):
        return named and not optional
    head = _head(word)
    if head is None:
        return named and not optional
    if is_image(head):
        return False
    if optional and is_manifest(head):
        raise MisuseError(
            f"--guest {word}: a manifest: give it without --guest: hfsched run {word}"
        )
    if optional or (raw and not is_manifest(head)):
        return False
    if named or (is_manifest(head) and not raw):
        return True
    if raw:
        return False
    what = looks_like(head)
    refusal = f"{word}: neither a guest image nor a machine's manifest: {what}"
    raise ConfigError(refusal + raw_hint(what))


def _head(path: str) -> bytes | None:
    """Return how a regular file begins; None if it cannot be read, which whoever reads it reports."""
    if os.path.isdir(path):  # noqa: PTH112 - False where Path raises
        raise ConfigError(f"{path}: a directory: name a guest image or a manifest in it")
    try:
        return read_head(path)[0]
    except ImageError:
        return None
