"""Tokens: what goes in comes out, and whatever else comes in is refused in one line."""

from __future__ import annotations

import base64
import re
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.errors import InternalError, UserError
from hfsched.explore import token as tokens
from hfsched.explore.schedule import Schedule
from hfsched.explore.token import Token, decode, encode

BIG = (1 << 35) - 1  # the largest number that fits
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

steps = st.lists(st.tuples(st.integers(1, 1000), st.integers(0, BIG)), max_size=20)


def schedule_from(pairs: list[tuple[int, int]], *flags: bool) -> Schedule:
    at, deviations = -1, []
    for step, choice in pairs:
        at += step
        deviations.append((at, choice))
    return Schedule(tuple(deviations), *flags)


schedules = st.builds(schedule_from, steps, st.booleans(), st.booleans(), st.booleans())
some = st.builds(
    Token,
    st.text(max_size=40),
    schedules,
    st.binary(min_size=8, max_size=8).map(bytes.hex),
    st.binary(min_size=2, max_size=2).map(bytes.hex),
)

TOKEN = Token(
    "mailbox+upstream", Schedule(((10, 2), (140, 300)), stateful=True), "0123456789abcdef"
)
TEXT = encode(TOKEN)


def refusal(text: str, spec: str | None = None) -> str:
    """Return why a token is refused: one line, that any terminal can show."""
    with pytest.raises(UserError) as caught:
        decode(text, spec)
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 200
    return said


def sealed(content: bytes) -> str:
    """Return a token with a right size and checksum around anything."""
    out = bytearray()
    size = len(content) + 4
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    out += content
    out += zlib.crc32(out, tokens.VERSION).to_bytes(4, "big")
    return "hf1-" + base64.urlsafe_b64encode(out).rstrip(b"=").decode()


# What is right.


@given(some)
def test_what_is_encoded_is_decoded(token: Token) -> None:
    text = encode(token)
    assert re.fullmatch(r"hf1-[A-Za-z0-9_-]+", text)
    assert decode(text) == token


def test_a_token_is_short_and_stays_as_it_is() -> None:
    """Tokens in old reports must go on working: another text is another version."""
    assert TEXT == "hf1-JwEQbWFpbGJveCt1cHN0cmVhbQIKAoIBrAIAAAEjRWeJq83vW9lC-A"


def test_white_space_around_it_is_no_matter() -> None:
    assert decode(f"  {TEXT}\n") == TOKEN


def test_the_path_of_a_file_may_be_any_bytes() -> None:
    token = Token(b"/tmp/\xff.py::A".decode(errors="surrogateescape"), Schedule(), "00" * 8)
    assert decode(encode(token)) == token


def test_the_scenario_asked_for_may_be_named() -> None:
    assert decode(TEXT, "mailbox+upstream") == TOKEN
    assert "of scenario 'mailbox+upstream', not of 'mailbox'" in refusal(TEXT, "mailbox")


# What is wrong.


@pytest.mark.parametrize(
    "text", ["", "hf", "hf-", "hfx-AAAA", "hf1", "mailbox", "a-b", "hf\u0661-AAAA"]
)
def test_something_else_is_no_token(text: str) -> None:
    assert refusal(text).startswith("not a token: ")


def test_another_format_is_named() -> None:
    assert "format 2, supported: 1" in refusal("hf2-" + TEXT[4:])


@pytest.mark.parametrize("length", range(4, len(TEXT)))
def test_a_token_cut_short_says_so(length: int) -> None:
    assert "truncated: " in refusal(TEXT[:length])


def test_a_token_cut_short_says_how_much_is_left() -> None:
    assert f"truncated: 30 of {len(TEXT) - 4} characters; copy it again" in refusal(TEXT[:34])


def test_a_token_with_more_behind_it_says_so() -> None:
    assert "5 characters too many at the end" in refusal(TEXT + "AAAAA")
    assert "1 characters too many at the end" in refusal(TEXT + "A")


def test_a_character_that_cannot_be_is_named() -> None:
    assert r"damaged: invalid character '\x1b'" in refusal(TEXT[:20] + "\x1b[31m" + TEXT[20:])


def test_every_flipped_character_is_refused() -> None:
    for at in range(len(TEXT)):
        for other in ALPHABET:
            if other != TEXT[at]:
                refusal(TEXT[:at] + other + TEXT[at + 1 :])


def test_a_flipped_character_is_told_from_a_cut() -> None:
    """But for the first two, which hold the size."""
    for at in range(6, len(TEXT)):
        other = "A" if TEXT[at] != "A" else "B"
        said = refusal(TEXT[:at] + other + TEXT[at + 1 :])
        assert "damaged: the checksum is wrong" in said


@given(some, st.data())
def test_any_one_character_changed_is_refused(token: Token, data: st.DataObject) -> None:
    text = encode(token)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda each: each != text[at]))
    refusal(text[:at] + other + text[at + 1 :])


@given(some, st.data())
def test_any_two_neighbours_swapped_are_refused(token: Token, data: st.DataObject) -> None:
    text = encode(token)
    at = data.draw(st.integers(0, len(text) - 2))
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if swapped != text:
        refusal(swapped)


@given(st.text() | st.text(ALPHABET).map("hf1-".__add__) | st.text().map("hf1-".__add__))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        decode(text)
    except UserError as exc:
        assert str(exc).isprintable()  # noqa: PT017 - it need not be raised


@given(st.binary(max_size=80))
def test_any_sealed_bytes_are_read_or_refused(content: bytes) -> None:
    """Here no checksum stands before the parser; what it takes has no other text."""
    text = sealed(content)
    try:
        token = decode(text)
    except UserError as exc:
        assert "the content is not a schedule" in str(exc)  # noqa: PT017 - it need not be raised
        return
    assert encode(token) == text


@given(some, st.data())
def test_sealed_bytes_that_are_nearly_right_are_read_or_refused(
    token: Token, data: st.DataObject
) -> None:
    text = encode(token)[4:]
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    content = bytearray(raw[2 if raw[0] & 0x80 else 1 : -4])
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    text = sealed(bytes(content))
    try:
        assert encode(decode(text)) == text
    except UserError as exc:
        assert "the content is not a schedule" in str(exc)  # noqa: PT017 - it need not be raised


# Bounds.


@pytest.mark.parametrize(
    "content",
    [
        b"\0" + b"\xff\xff\xff\xff\x7f",  # the spec's size
        b"\0\0" + b"\xff\xff\xff\xff\x7f",  # how many deviations
        b"\0\0\1\0" + b"\xff" * 60_000,  # a number without end
        b"\0\0\1\0" + b"\xff\xff\xff\xff\xff\x01" + bytes(10),  # a number too large
        b"\0\0\1\0" + b"\x80\x00" + bytes(10),  # a number in more bytes than it takes
        b"\x10\0\0" + bytes(10),  # a flag that is none
        b"\0\0\0" + bytes(11),  # one byte more
        b"\0\0\2\5\1\0\1" + bytes(10),  # two deviations at one decision
        b"",
    ],
)
def test_what_is_intact_but_makes_no_sense_is_refused_and_takes_no_memory(content: bytes) -> None:
    text = sealed(content)
    tracemalloc.start()
    try:
        assert "the content is not a schedule" in refusal(text)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff\x7f", b"\xff" * 9, b"\x80\x00", b"\3"])
def test_a_size_that_cannot_be_is_damage(size: bytes) -> None:
    text = base64.urlsafe_b64encode(size + bytes(20)).rstrip(b"=").decode()
    assert "damaged: invalid " in refusal("hf1-" + text)


def test_no_token_is_too_long_to_be_refused() -> None:
    assert "characters, more than" in refusal("hf1-" + "A" * (tokens.SIZE_MAX + 1))
    refusal("h" * (1 << 22))
    refusal("hf" + "1" * (1 << 22) + "-A")


def test_a_schedule_of_an_execution_that_was_given_up_fits() -> None:
    """A random walk's, 20 000 steps long."""
    schedule = Schedule(tuple((at, at % 200) for at in range(20_000)))
    token = Token("mailbox", schedule, "00" * 8)
    assert decode(encode(token)) == token


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    schedule = Schedule(tuple((at, 1) for at in range(400_000)))
    with pytest.raises(UserError, match="400000 deviations is too long"):
        encode(Token("mailbox", schedule, "00" * 8))


@pytest.mark.parametrize(
    "deviations", [((2, 1), (1, 1)), ((1, 1), (1, 2)), ((-1, 1),), ((0, -1),), ((0, BIG + 1),)]
)
def test_no_token_is_made_that_could_not_be_read(deviations: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InternalError):
        encode(Token("mailbox", Schedule(deviations), "00" * 8))


def test_no_token_is_made_without_the_digests() -> None:
    with pytest.raises(InternalError):
        encode(Token("mailbox", Schedule(), "00" * 7))
