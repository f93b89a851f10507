"""Durations, alike in all options, manifests and the client."""

from __future__ import annotations

import pytest

from hfsched.cli.fuzz import _budget
from hfsched.errors import ConfigError
from hfsched.times import seconds
from hfsched.vmm.sizes import parse_idle


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("1.5m", 90),
        ("2h", 7200),
        ("5", 5),
        (".5", 0.5),
        ("5.", 5),
        ("0", 0),
        ("0s", 0),
        ("", None),
        ("s", None),
        (".", None),
        ("-1", None),
        ("1 s", None),
        ("1d", None),
        ("1s\n", None),
        ("1e3", None),
        ("nan", None),
    ],
)
def test_a_duration(text: str, found: float | None) -> None:
    assert seconds(text) == found


def test_seconds_without_a_unit_are_taken_everywhere() -> None:
    assert parse_idle("--swap-idle", "5") == parse_idle("--swap-idle", "5s") == 5_000_000_000
    assert _budget("5") == _budget("5s") == 5


@pytest.mark.parametrize("text", ["0", "0s", "0ms", "x"])
def test_no_message_advises_what_is_refused(text: str) -> None:
    for parse in (lambda text: parse_idle("--swap-idle", text), _budget):
        with pytest.raises(ConfigError) as caught:
            parse(text)
        assert "a time such as 500ms" in str(caught.value)
        assert "write" not in str(caught.value)
