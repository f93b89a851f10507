"""What every message of a machine's control socket has; `hfsched.control.commands` has the messages."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

__all__ = ["VERSION", "WITHIN_MS", "AnswerBase", "Count", "Name", "RequestBase"]

VERSION = 1
WITHIN_MS = 20_000  # unless the client says otherwise, for it is the one that waits
_WITHIN_MAX = 600_000

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]


class RequestBase(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="command", kw_only=True
):
    """A request; `within_ms` is the time that it may take."""

    version: Literal[1] = 1
    within_ms: Annotated[int, Meta(ge=1, le=_WITHIN_MAX)] = WITHIN_MS


class AnswerBase(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", kw_only=True
):
    """A reply."""
