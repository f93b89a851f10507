"""Messages and requests: what is written can be read, and any bytes are read or refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from one_task import one_task

from hfsched.services import bodies
from hfsched.services.bodies import FileOp, KvpOp, Request, pack, parse
from hfsched.services.daemons import Freezer, KeyValues, Simple, serve
from hfsched.services.dispatch import Dispatcher
from hfsched.services.guest import GuestService
from hfsched.services.service import UtilityService
from hfsched.services.transaction import Answer, State, Status
from hfsched.services.wire import (
    BODY_MAX,
    HEADER,
    Goodbye,
    Kind,
    Message,
    ServiceId,
    WireError,
    decode,
    encode,
)

U8, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 32, 64))
TEXT = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), max_size=60)
NAMES = TEXT.filter(lambda name: name not in ("", ".", ".."))
MESSAGES = st.builds(Message, st.sampled_from(Kind), U8, U8, U8, U32, U32, st.binary(max_size=80))
KVP = st.builds(
    lambda op, key, value: bodies.KvpRequest(op, key, value if op is KvpOp.SET else b""),
    st.sampled_from(KvpOp),
    TEXT,
    st.binary(max_size=80),
)
FILE = st.one_of(
    st.builds(bodies.FileRequest, st.just(FileOp.BEGIN), U32, U64, st.integers(0, 0o7777), NAMES),
    st.builds(
        lambda transfer, at, data: bodies.FileRequest(FileOp.DATA, transfer, at, data=data),
        U32,
        U64,
        st.binary(max_size=80),
    ),
    st.builds(bodies.FileRequest, st.sampled_from([FileOp.END, FileOp.CANCEL]), U32, U64),
)
REQUESTS: st.SearchStrategy[Request] = st.one_of(
    KVP,
    FILE,
    st.builds(bodies.FreezeRequest, st.sampled_from(bodies.FreezeOp), U32),
    st.builds(bodies.Heartbeat, U64),
    st.builds(bodies.SetTime, U64),
    st.builds(bodies.ShutdownRequest, st.sampled_from(bodies.ShutdownOp), U32),
)


def damaged(data: bytes, at: int, value: int, cut: int) -> bytes:
    changed = bytearray(data)
    changed[at % len(changed)] ^= value
    return bytes(changed[: len(changed) - cut])


NEARLY = st.builds(damaged, MESSAGES.map(encode), st.integers(0, 200), U8, st.integers(0, 3))


@given(MESSAGES)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    data = encode(message)
    assert len(data) == HEADER.size + len(message.body)
    assert decode(data) == message


def test_the_header_is_as_documented() -> None:
    data = encode(Message(Kind.REPLY, ServiceId.FILE, 2, Status.FAILED, 0x01020304, 5, b"abc"))
    assert data.hex(" ", -4) == "48550106 03020100 04030201 05000000 03000000 00000000 616263"


@given(st.one_of(st.binary(max_size=BODY_MAX + 100), NEARLY))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except WireError:
        return
    assert encode(message) == data


@given(REQUESTS)
def test_a_request_is_read_as_it_was_written(request: Request) -> None:
    service, body = pack(request)
    assert len(body) <= BODY_MAX
    assert parse(service, body) == request


@given(st.sampled_from(ServiceId), st.binary(max_size=120), REQUESTS, st.integers(0, 200), U8)
def test_any_body_gets_an_answer(
    service: ServiceId, body: bytes, request: Request, at: int, value: int
) -> None:
    owner, good = pack(request)
    daemons = (KeyValues(), Freezer(lambda _on: True), Simple())
    for daemon in daemons:
        assert isinstance(serve(daemon, service, body, 0), Answer)
        assert isinstance(serve(daemon, owner, damaged(good, at, value, 0), 0), Answer)
    try:
        found = parse(service, body)
    except WireError:
        return
    assert pack(found) == (service, body)


def host() -> tuple[Dispatcher, UtilityService, UtilityService]:
    _, runtime = one_task()
    kvp, link = UtilityService(runtime, "kvp", ServiceId.KVP), UtilityService(runtime, "link", 0)
    return Dispatcher({ServiceId.KVP: kvp}, {ServiceId.KVP: (1, 2)}, link), kvp, link


def told(service: UtilityService) -> list[Message]:
    found = []
    while (message := service.begin_send()) is not None:
        service.end_send(message, sent=True)
        found.append(decode(message.data))
    return found


@given(st.lists(st.one_of(st.binary(max_size=60), NEARLY, MESSAGES.map(encode)), max_size=30))
def test_nothing_that_a_guest_sends_raises(messages: list[bytes]) -> None:
    dispatcher, kvp, link = host()
    for data in messages:
        dispatcher.deliver(data)
    assert len(told(link)) == min(dispatcher.malformed, 16)
    assert all(each.kind is not Kind.REQUEST for each in told(kvp))
    # And a daemon can register, and is asked and answers, whatever came before.
    daemon = GuestService(ServiceId.KVP, 1, 3)
    dispatcher.deliver(encode(daemon.offer()))
    ticket = kvp.ask(b"k", 100)
    requests = [daemon.receive(each) for each in told(kvp)]
    assert requests[-1] is not None
    dispatcher.deliver(encode(daemon.reply(requests[-1], Answer(Status.OK, b"v"))))
    assert ticket.answer == Answer(Status.OK, b"v")
    assert (daemon.version, kvp.state) == (2, State.READY)


def test_bad_bytes_are_counted_and_answered() -> None:
    dispatcher, kvp, link = host()
    dispatcher.deliver(b"HU")
    dispatcher.deliver(encode(Message(Kind.OFFER, 99)))
    dispatcher.deliver(encode(Message(Kind.ACCEPT, ServiceId.KVP)))
    dispatcher.deliver(encode(Message(Kind.REPLY, ServiceId.KVP, flag=200)))
    assert dispatcher.malformed == 4
    wanted = [Status.MALFORMED, Status.UNSUPPORTED, Status.MALFORMED, Status.MALFORMED]
    assert [(each.kind, each.flag) for each in told(link)] == [(Kind.REFUSE, s) for s in wanted]
    assert told(kvp) == []


def test_versions_are_negotiated() -> None:
    for (low, high), chosen in {
        (1, 1): 1,
        (1, 9): 2,
        (2, 2): 2,
        (3, 9): None,
        (0, 0): None,
    }.items():
        dispatcher, kvp, _ = host()
        daemon = GuestService(ServiceId.KVP, low, high)
        dispatcher.deliver(encode(daemon.offer()))
        for message in told(kvp):
            daemon.receive(message)
        assert (daemon.version or None) == chosen
        assert kvp.state is (State.INIT if chosen is None else State.READY)


def test_a_guest_drops_what_was_asked_before_the_last_accept() -> None:
    daemon = GuestService(ServiceId.KVP)
    daemon.offer()
    daemon.receive(Message(Kind.ACCEPT, ServiceId.KVP, epoch=3, id=7))
    for epoch, served in ((6, False), (7, True), (8, True), ((7 - 1) % (1 << 32), False)):
        request = Message(Kind.REQUEST, ServiceId.KVP, epoch=epoch)
        assert (daemon.receive(request) is request) == served
    assert daemon.dropped == 2


def test_a_daemon_that_goes_or_comes_too_late() -> None:
    dispatcher, kvp, _ = host()
    daemon = GuestService(ServiceId.KVP)
    dispatcher.deliver(encode(daemon.offer()))
    told(kvp)
    dispatcher.deliver(encode(daemon.goodbye(Goodbye.HIBERNATE)))
    states = [kvp.state]
    dispatcher.deliver(encode(daemon.goodbye()))
    states.append(kvp.state)
    assert states == [State.READY, State.INIT]
    kvp.close()
    dispatcher.deliver(encode(daemon.offer()))
    assert [(each.kind, each.flag) for each in told(kvp)] == [(Kind.REFUSE, Status.CLOSED)]
