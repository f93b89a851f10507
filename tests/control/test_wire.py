"""The first packets on a machine's port socket: any bytes are parsed or refused."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.control import wire
from hfsched.mailbox.ports import FIRST_CONNECTION

CODES = {"bad-hello", "version"}
names = st.text(min_size=1, max_size=20)
scraps = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def test_ports_named_by_users_end_where_connections_begin() -> None:
    assert wire.LOCAL_PORTS == FIRST_CONNECTION


@given(
    names,
    st.integers(0, 2**64 - 1) | names,
    st.none() | st.integers(0, wire.LOCAL_PORTS - 1),
    st.none() | st.integers(1, wire.UNREAD_MS_MAX),
)
def test_a_hello_arrives_as_it_was_sent(
    vm: str, port: int | str, local: int | None, unread: int | None
) -> None:
    hello = wire.Hello(vm, port, local, unread)
    assert wire.parse_hello(hello.encode()) == hello


@pytest.mark.parametrize("unread", [0, -1, wire.UNREAD_MS_MAX + 1, "30s", True, 1.5])
def test_a_time_that_is_none_is_refused(unread: object) -> None:
    hello = {"v": 1, "vm": "a", "port": 1, "unread_ms": unread}
    with pytest.raises(wire.RefusedError, match="'unread_ms' must be a number from"):
        wire.parse_hello(json.dumps(hello).encode())


def test_a_hello_of_an_earlier_client_has_no_time_of_its_own() -> None:
    hello = wire.parse_hello(b'{"v": 1, "vm": "a", "port": 1, "local": null}')
    assert hello == wire.Hello("a", 1, None, None)


@given(names)
def test_a_question_arrives_as_it_was_sent(vm: str) -> None:
    assert wire.parse_hello(wire.Ask(vm).encode()) == wire.Ask(vm)


def judge(data: bytes) -> None:
    """Parse: the result is within its bounds, or the refusal can be sent."""
    try:
        hello = wire.parse_hello(data)
    except wire.RefusedError as exc:
        refusal = exc
    else:
        check(hello)
        return
    assert refusal.code in CODES
    assert len(wire.error(refusal.code, str(refusal))) <= wire.ANSWER_MAX


def check(hello: wire.Hello | wire.Ask) -> None:
    assert 1 <= len(hello.vm) <= 64
    if isinstance(hello, wire.Hello):
        if isinstance(hello.port, str):
            assert 1 <= len(hello.port) <= 64
        else:
            assert type(hello.port) is int
            assert 0 <= hello.port < 2**64
        assert hello.local is None or 0 <= hello.local < wire.LOCAL_PORTS


@given(st.binary(max_size=wire.HELLO_MAX + 1))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    judge(data)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "v": st.just(1) | scraps,
            "vm": names | scraps,
            "port": st.integers(-1, 2**65) | scraps,
            "local": st.integers(-1, 2**33) | scraps,
            "ask": names | scraps,
        },
    )
)
def test_any_object_is_parsed_or_refused(value: dict[str, object]) -> None:
    judge(json.dumps(value).encode())


@given(st.binary(max_size=200) | scraps.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_parsed_or_refused(data: bytes) -> None:
    try:
        welcome = wire.parse_welcome(data)
    except wire.RefusedError:
        return
    assert 0 < welcome.payload_max < wire.PACKET_MAX


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"[" * wire.HELLO_MAX, "bad-hello"),
        (b" " * (wire.HELLO_MAX + 1), "bad-hello"),
        (b"\xff\xfe{", "bad-hello"),
        (b'{"v": 1}', "bad-hello"),
        (b'{"v": 1, "vm": "", "port": 1}', "bad-hello"),
        (b'{"v": 1, "vm": "a", "port": true}', "bad-hello"),
        (b'{"v": 1, "vm": "a", "port": 1.0}', "bad-hello"),
        (b'{"v": 1, "vm": "a", "port": 1, "local": 4294967296}', "bad-hello"),
        (b'{"v": 2, "vm": "a", "port": 1}', "version"),
        (b'{"v": true, "vm": "a", "port": 1}', "version"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, code: str) -> None:
    with pytest.raises(wire.RefusedError) as caught:
        wire.parse_hello(data)
    assert caught.value.code == code


@pytest.mark.parametrize("text", ["\U0001f600" * 9999, "\x00" * 9999, "\ud800" * 9999])
def test_any_refusal_fits_into_an_answer(text: str) -> None:
    assert len(wire.error("no-vm", text)) <= wire.ANSWER_MAX


def test_our_own_process_is_an_allowed_peer() -> None:
    wire.check_peer(os.geteuid())
    with pytest.raises(wire.RefusedError, match="the peer is user"):
        wire.check_peer(os.geteuid() + 7)
