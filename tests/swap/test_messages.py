"""Messages between main and the monitor: what goes in comes out, and garbage is one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hfsched.swap.pages.entries import REGIONS_MAX
from hfsched.swap.protocol import messages
from hfsched.swap.protocol.messages import (
    MEMBERS_MAX,
    NO_NUMBER,
    Begin,
    Collect,
    Collected,
    Disable,
    Done,
    Enable,
    Exit,
    GetStatus,
    Metrics,
    MonitorAnswer,
    MonitorRequest,
    ProtocolError,
    Refused,
    Region,
    Register,
    State,
    Status,
    SwapOut,
    Transition,
    Trim,
    Zapped,
    decode_answer,
    decode_request,
    encode,
    name_of,
    number_of,
    reply_text,
)

numbers = st.integers(1, (1 << 63) - 1)
members = st.integers(0, MEMBERS_MAX - 1)
counts = st.integers(0, (1 << 63) - 1)
half = st.integers(0, (1 << 62) - 1)
regions = st.builds(Region, base=half, offset=half, size=st.integers(1, 1 << 62))
requests: st.SearchStrategy[MonitorRequest] = st.one_of(
    st.builds(
        Register,
        member=members,
        dynamic=st.booleans(),
        zapped=st.booleans(),
        regions=st.lists(regions, min_size=1, max_size=4).map(tuple),
    ),
    st.builds(
        Begin,
        fresh=st.booleans(),
        resources=st.lists(st.text(min_size=1, max_size=9), max_size=4).map(tuple),
    ),
    st.builds(Zapped, member=members),
    st.builds(Disable, slow_file_cleanup=st.booleans()),
    st.builds(Exit, discard=st.booleans()),
    st.sampled_from([Enable(), Trim(), SwapOut(), GetStatus(), Collect()]),
)
answers: st.SearchStrategy[MonitorAnswer] = st.one_of(
    st.builds(Done, pages=counts),
    st.builds(Refused, text=st.text(max_size=80)),
    st.builds(Collected, members=st.lists(members, max_size=4).map(tuple)),
    st.builds(
        Status,
        state=st.sampled_from(State),
        transition=st.builds(Transition, pages=counts, ms=counts),
        metrics=st.builds(Metrics, resident=counts, file=counts, events=st.just({"faults": 3})),
        members=counts,
        error=st.text(max_size=80),
    ),
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(numbers, requests)
def test_a_request_comes_out_as_it_went_in(number: int, request: MonitorRequest) -> None:
    data = encode(number, request)
    assert decode_request(data) == (number, request)
    assert number_of(data) == number


@given(numbers, answers)
def test_an_answer_comes_out_as_it_went_in(number: int, answer: MonitorAnswer) -> None:
    assert decode_answer(encode(number, answer)) == (number, answer)


def error_of(decode: Callable[[bytes], object], data: bytes) -> ProtocolError | None:
    try:
        decode(data)
    except ProtocolError as exc:
        return exc
    return None


def is_reply_text(error: ProtocolError) -> bool:
    text = str(error)
    return text.isprintable() and 0 < len(text) <= messages.TEXT_MAX


@given(st.binary(max_size=64))
@example(b"")
@example(b"\xff" * 8)
@example(bytes(8) + b"\x91" * 60_000)  # nested too deeply
def test_garbage_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(ProtocolError) as request:
        decode_request(data)
    with pytest.raises(ProtocolError) as answer:
        decode_answer(data)
    assert is_reply_text(request.value)
    assert is_reply_text(answer.value)


@given(
    st.sampled_from(["enable", "zapped", "register", "disable", "state", "refused", "none"]),
    st.dictionaries(st.sampled_from(["member", "regions", "text", "state", "x"]), anything),
)
def test_fields_that_are_wrong_are_one_clear_error_or_typed(tag: str, fields: Any) -> None:
    data = bytes(8) + msgspec.msgpack.encode({"is": tag, **fields})
    for decode in (decode_request, decode_answer):
        error = error_of(decode, data)
        assert error is None or is_reply_text(error)


@given(requests, st.data())
def test_a_message_cut_short_is_no_message(request: MonitorRequest, data: st.DataObject) -> None:
    whole = encode(1, request)
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError):
        decode_request(whole[:size])


@given(answers, st.data())
def test_an_answer_cut_short_is_no_answer(answer: MonitorAnswer, data: st.DataObject) -> None:
    whole = encode(1, answer)
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError):
        decode_answer(whole[:size])


@given(
    requests | answers, st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4)
)
def test_bytes_that_change_on_the_way_are_typed_or_one_clear_error(
    message: MonitorRequest | MonitorAnswer, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(encode(1, message))
    for place, byte in changes:
        data[place % len(data)] = byte
    for decode, kinds in ((decode_request, MonitorRequest), (decode_answer, MonitorAnswer)):
        error = error_of(decode, bytes(data))
        assert error is None or is_reply_text(error)
        if error is None:
            number, made = decode(bytes(data))
            assert number == number_of(bytes(data))
            assert isinstance(made, kinds)
            assert decode(encode(number, made)) == (number, made)


REGION = {"base": 0x1000, "offset": 0, "size": 0x1000}
REGISTER = {"is": "register", "member": 1, "dynamic": False, "zapped": True, "regions": [REGION]}


@pytest.mark.parametrize(
    "fields",
    [
        {"member": -1},
        {"member": MEMBERS_MAX},
        {"member": True},
        {"dynamic": 1},
        {"regions": []},
        {"regions": [REGION] * (REGIONS_MAX + 1)},
        {"regions": [REGION | {"size": 0}]},
        {"regions": [REGION | {"size": 1 << 63}]},
        {"regions": [REGION | {"base": (1 << 63) - 1}]},
        {"regions": [REGION | {"base": (1 << 64) - 1}]},
        {"regions": [REGION | {"base": -1}]},
        {"more": 1},
    ],
)
def test_a_field_out_of_its_bounds_is_refused(fields: dict[str, Any]) -> None:
    decode_request(bytes(8) + msgspec.msgpack.encode(REGISTER))
    with pytest.raises(ProtocolError, match="invalid request: "):
        decode_request(bytes(8) + msgspec.msgpack.encode(REGISTER | fields))


def test_a_request_is_no_answer_and_the_other_way_round() -> None:
    with pytest.raises(ProtocolError, match="invalid answer"):
        decode_answer(encode(1, Enable()))
    with pytest.raises(ProtocolError, match="invalid request"):
        decode_request(encode(1, Done()))


def test_what_has_no_number_has_none() -> None:
    assert number_of(b"\x01") == NO_NUMBER
    assert number_of(b"\xff" * 8) == NO_NUMBER
    assert number_of(b"\x01" + bytes(7)) == 1


def test_every_request_has_a_word() -> None:
    assert [name_of(request) for request in (Enable(), SwapOut(), Zapped(member=1))] == [
        "enable",
        "out",
        "zapped",
    ]


@given(st.text(max_size=2000))
def test_any_text_becomes_one_that_an_answer_may_have(text: str) -> None:
    safe = reply_text(text)
    assert safe.isprintable()
    assert decode_answer(encode(1, Refused(text=safe))) == (1, Refused(text=safe))


def test_a_text_becomes_one_bounded_line() -> None:
    assert reply_text("a\nb\x1b[2J  c") == r"a\nb\x1b[2J  c"
    assert len(reply_text("x" * 9999)) == messages.TEXT_MAX
