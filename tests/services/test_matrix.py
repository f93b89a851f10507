"""Every state, event, reply, timer and later request together: what happens is what the table says.

`TABLE` is the one of `docs/services.md`, written down a second time: the service has no table, its state
follows from what is under way.  `Model` walks through it; `Real` does the same to a service.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import msgspec
import pytest
from one_task import OneEvent, OneLock, one_task

from hfsched.errors import UserError
from hfsched.services.records import GuestAskedRecord, OutgoingRecord, ServiceRecord
from hfsched.services.service import ServiceClosedError, UtilityService
from hfsched.services.transaction import Answer, Direction, State, Status, Ticket
from hfsched.services.wire import Kind, decode

TIMEOUT = 100  # ns
PLACES = ("init", "ready", "hostmsg", "outbox", "rx", "req", "completing")
EVENTS = ("hibernate", "pause", "restore")
REPLIES = ("before", "during", "after", "never")
TIMERS = ("not due", "running", "fired", "due meanwhile")
LATER = ("no", "same", "new")

# {state: {event: (status of the host's request, next state, epochs that rise, counted as)}}
STALE, DROPPED = "stale", "dropped"
TABLE: dict[str, dict[str, tuple[Status | None, str, str, str]]] = {
    "INIT": {
        "pause": (None, "INIT", "", ""),
        "restore": (None, "INIT", "", ""),
        "hibernate": (None, "INIT", "", ""),
        "reply": (None, "INIT", "", DROPPED),
        "timeout": (None, "INIT", "", ""),
        "gone": (None, "INIT", "", ""),
    },
    "READY": {
        "pause": (None, "READY", "", ""),
        "restore": (None, "READY", "h", ""),
        "hibernate": (None, "READY", "hg", ""),
        "reply": (None, "READY", "", STALE),
        "timeout": (None, "READY", "", ""),
        "gone": (None, "INIT", "", ""),
    },
    "HOSTMSG": {
        "pause": (None, "HOSTMSG", "", ""),
        "restore": (Status.RESTORED, "READY", "h", ""),
        "hibernate": (Status.HIBERNATED, "READY", "hg", ""),
        "reply": (None, "HOSTMSG", "", STALE),
        "timeout": (Status.TIMED_OUT, "READY", "", ""),
        "gone": (Status.DAEMON_GONE, "INIT", "", ""),
    },
    "REQ": {
        "pause": (None, "REQ", "", ""),
        "restore": (Status.RESTORED, "READY", "h", ""),
        "hibernate": (Status.HIBERNATED, "READY", "hg", ""),
        "reply": (Status.OK, "READY", "", ""),
        "timeout": (Status.TIMED_OUT, "READY", "", ""),
        "gone": (Status.DAEMON_GONE, "INIT", "", ""),
    },
    "DYING": {
        "pause": (None, "DYING", "", ""),
        "restore": (None, "DYING", "", ""),
        "hibernate": (None, "DYING", "", ""),
        "reply": (None, "DYING", "", DROPPED),
        "timeout": (None, "DYING", "", ""),
        "gone": (None, "DYING", "", ""),
    },
}
Then = Callable[[], None] | None
_NO_TICKET = Ticket(OneEvent())
START = {"init": "INIT", "ready": "READY", "hostmsg": "HOSTMSG", "dying": "DYING"}  # else REQ


@dataclass
class Seen:
    """What can be seen of a service; the answer is the one that the request's own process has given."""

    state: str
    answer: Status | None = None
    host_epoch: int = 0
    guest_epoch: int = 0
    counted: dict[str, int] = field(default_factory=lambda: {STALE: 0, DROPPED: 0})


class Model:
    """The table, walked through."""

    def __init__(self, place: str) -> None:
        self.seen = Seen(START.get(place, "REQ"), guest_epoch=place != "init")
        self.has_request = place in ("hostmsg", "outbox", "rx", "req", "completing")
        self.paused = False
        self.restored = False

    def happens(self, what: str) -> None:
        status, after, epochs, counted = TABLE[self.seen.state][what]
        self.seen.state = after
        self.seen.host_epoch += "h" in epochs
        self.seen.guest_epoch += "g" in epochs
        if counted:
            self.seen.counted[counted] += 1
        if status is not None and what != "restore":  # its requester is in the other process
            assert self.seen.answer is None
            self.seen.answer = status
        self.restored |= what == "restore"


class Real:
    """A service in a place, and what happens to it."""

    def __init__(self, place: str) -> None:
        self.bench, self.runtime = one_task()
        self.service = UtilityService(self.runtime, "kvp", 1)
        self.lives = 1
        self.request: tuple[int, int] = (0, 1)
        self.ticket: Ticket = _NO_TICKET
        if place != "init":
            self.service.register(1)
            self.send()
        if place in ("hostmsg", "outbox", "rx", "req", "completing"):
            self.ticket = self.service.ask(b"first", TIMEOUT)
        if place in ("outbox", "rx", "req", "completing"):
            message = self.service.begin_send()
            assert message is not None
            self.service.end_send(message, sent=place != "outbox")
        if place == "dying":
            self.service.close()

    @property
    def lock(self) -> OneLock:
        return self.bench.locks[f"{self.service.name}.transactions"]

    def send(self) -> list[bytes]:
        """Carry all that is in the outbox to the guest."""
        found = []
        while (message := self.service.begin_send()) is not None:
            self.service.end_send(message, sent=True)
            found.append(message.data)
        return found

    def reply(self, *, then: Then = None) -> None:
        """Reply; `then` comes first although the reply has begun."""
        self.lock.before = then
        self.service.complete(*self.request, Answer(Status.OK, b"first"))
        self.lock.before = None

    def expire(self, *, then: Then = None) -> None:
        self.lock.before = then
        self.service.expire(self.bench.time)
        self.lock.before = None

    def begin(self, event: str) -> None:
        if event == "hibernate":
            self.service.hibernate()
        else:
            assert self.service.pause()
        if event == "restore":
            self.record = self.service.save()

    def end(self, event: str) -> None:
        if event == "hibernate":
            self.service.back()
        elif event == "pause":
            self.service.resume()
        else:
            self.lives += 1
            self.service = UtilityService(self.runtime, f"kvp.{self.lives}", 1)
            self.service.restore(self.record)
            self.service.resume()

    def happens(self, event: str) -> None:
        self.begin(event)
        self.end(event)

    def seen(self) -> Seen:
        host, guest = self.service.epochs
        counted = {STALE: self.service.stale, DROPPED: self.service.dropped}
        answer = None if self.ticket.answer is None else self.ticket.answer.status
        return Seen(self.service.state.name, answer, host, guest, counted)


def run(place: str, event: str, reply: str, timer: str) -> tuple[Model, Real]:
    """Do it to both, and compare after each step."""
    model, real = Model(place), Real(place)

    def same() -> None:
        seen = real.seen()
        if model.restored:  # the process that took the snapshot has its own counts
            model.seen.counted, model.restored = {STALE: 0, DROPPED: 0}, False
        assert seen == model.seen

    def happens(what: str, act: Callable[[], object]) -> None:
        act()
        model.happens(what)
        same()

    same()
    if timer == "fired":
        real.bench.time += TIMEOUT
        happens("timeout", real.expire)
    if reply == "before" and place != "completing":
        happens("reply", real.reply)
    began = False

    def begin() -> None:
        nonlocal began
        began = True
        real.begin(event)

    if place == "completing" and reply != "never":
        # The reply has begun, or, with `before`, the event has and the reply comes first.
        if reply == "before":
            real.lock.before = real.reply
            begin()
            model.happens("reply")
        else:
            real.reply(then=begin)
    elif timer == "running":
        real.bench.time += TIMEOUT
        real.expire(then=begin)
    if not began:
        begin()
    late = place == "completing" and reply in ("during", "after")
    if event == "hibernate":
        model.happens("hibernate")
        if late:
            model.happens("reply")
        elif timer == "running" and place != "completing":
            model.happens("timeout")
    elif event == "pause":
        model.happens("pause")
        if late:
            model.happens("reply")
    elif late:
        model.happens("reply")  # the process that took the snapshot has it still
    same()
    if timer == "due meanwhile":
        real.bench.time += 2 * TIMEOUT
        real.expire()  # its time stands still, or it has failed: nothing happens
        same()
    if reply == "during" and place != "completing":
        happens("reply", real.reply)
    real.end(event)
    if event == "restore":
        model.happens("restore")
    same()
    if reply == "after" and place != "completing":
        happens("reply", real.reply)
    if timer == "running" and place == "completing":
        real.bench.time += TIMEOUT
        happens("timeout", real.expire)
    return model, real


def ask_later(model: Model, real: Real, later: str) -> None:
    """Ask again: the answer is the request's own, and the service is READY again."""
    body = b"first" if later == "same" else b"second"
    ticket = real.service.ask(body, 10 * TIMEOUT)
    if model.seen.state == "INIT":
        real.service.register(1)
        model.seen.state = "READY"
    for data in real.send():
        message = decode(data)
        if message.kind is Kind.REQUEST and message.body == body:
            numbers = (message.epoch, message.id)
            assert numbers == real.request or message.epoch >= real.request[0]
            if numbers != real.request:
                real.service.complete(*real.request, Answer(Status.OK, b"late"))
                assert ticket.answer is None, "a late reply is taken for another request's"
            real.service.complete(*numbers, Answer(Status.OK, message.body))
    if model.seen.state in ("HOSTMSG", "REQ"):  # the first one is still under way
        real.service.complete(*real.request, Answer(Status.OK, b"first"))
        for data in real.send():
            message = decode(data)
            if message.kind is Kind.REQUEST and message.body == body:
                real.service.complete(message.epoch, message.id, Answer(Status.OK, body))
    assert ticket.answer == Answer(Status.OK, body)
    assert real.service.state is State.READY


CELLS = [*product(PLACES, EVENTS, REPLIES, TIMERS, LATER)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("event", EVENTS)
def test_what_happens_is_what_the_table_says(place: str, event: str) -> None:
    count = 0
    for reply, timer, later in product(REPLIES, TIMERS, LATER):
        try:
            model, real = run(place, event, reply, timer)
            if later != "no":
                ask_later(model, real, later)
            deadline = real.service.expire()
            assert deadline is None or model.seen.state in ("HOSTMSG", "REQ")
        except BaseException as exc:
            exc.add_note(f"reply {reply}, timer {timer}, later {later}")
            raise
        count += 1
    assert count == 48
    assert len(CELLS) == 48 * len(PLACES) * len(EVENTS)


@pytest.mark.parametrize("what", [*EVENTS, "reply", "timeout", "gone"])
def test_nothing_happens_to_a_service_that_is_closed(what: str) -> None:
    real, model = Real("dying"), Model("dying")
    acts: dict[str, Callable[[], object]] = {
        "reply": real.reply,
        "timeout": real.expire,
        "gone": real.service.daemon_gone,
        "hibernate": real.service.hibernate,
        "pause": real.service.pause,
        "restore": lambda: real.happens("restore"),
    }
    acts[what]()
    model.happens(what)
    assert real.seen() == model.seen
    with pytest.raises(ServiceClosedError):
        real.service.back()
    assert real.service.ask(b"", TIMEOUT).answer == Answer(Status.CLOSED)


@pytest.mark.parametrize("place", ["hostmsg", "outbox", "rx", "req"])
def test_a_daemon_that_goes_fails_its_request(place: str) -> None:
    real, model = Real(place), Model(place)
    real.service.daemon_gone()
    model.happens("gone")
    assert real.seen() == model.seen
    assert [decode(each).kind for each in real.send()] == []
    real.reply()
    model.happens("reply")
    assert real.seen() == model.seen


@pytest.mark.parametrize("place", ["hostmsg", "outbox", "rx"])
@pytest.mark.parametrize("event", ["hibernate", "restore", "timeout"])
def test_what_is_not_in_rx_is_withdrawn(place: str, event: str) -> None:
    real = Real(place)
    if event == "timeout":
        real.bench.time += TIMEOUT
        real.expire()
    else:
        real.begin(event)
        real.end(event)
    assert [decode(each).kind for each in real.send() if decode(each).kind is Kind.REQUEST] == []


@pytest.mark.parametrize("place", ["hostmsg", "rx"])
def test_a_pause_leaves_the_time_that_was_left(place: str) -> None:
    real = Real(place)
    real.bench.time += TIMEOUT - 10
    for _ in range(3):
        real.begin("pause")
        real.bench.time += 50 * TIMEOUT
        real.end("pause")
    assert real.service.expire(real.bench.time) == real.bench.time + 10
    real.bench.time += 10
    real.expire()
    assert real.ticket.answer == Answer(Status.TIMED_OUT)


# The guest's requests.


def guest_asks(real: Real, body: bytes = b"g") -> tuple[int, int]:
    number = (real.service.epochs[1], 7)
    real.service.asked(*number, body, TIMEOUT)
    return number


def answers(real: Real) -> list[tuple[int, int, int, bytes]]:
    found = [decode(each) for each in real.send()]
    return [(m.epoch, m.id, m.flag, m.body) for m in found if m.kind is Kind.REPLY]


@pytest.mark.parametrize("taken", [False, True])
def test_a_guests_request_stays_over_a_pause_and_a_restore(taken: bool) -> None:
    for event in ("pause", "restore"):
        real = Real("ready")
        number = guest_asks(real)
        real.bench.time += TIMEOUT - 10
        if taken:
            assert real.service.take_asked() == (*number, b"g")
        real.begin(event)
        real.bench.time += 5 * TIMEOUT
        assert real.service.take_asked() is None, "nothing is begun in a pause"
        real.end(event)
        if taken and event == "pause":
            real.service.retake_asked()  # its daemon has ended
        assert real.service.take_asked() == (*number, b"g")
        assert real.service.expire(real.bench.time) == real.bench.time + 10
        assert real.service.complete(*number, Answer(Status.OK, b"v"), Direction.GUEST)
        assert answers(real) == [(*number, Status.OK, b"v")]
        assert not real.service.complete(*number, Answer(Status.OK, b"w"), Direction.GUEST)
        assert answers(real) == []


def test_a_guests_request_ends_with_its_hibernation() -> None:
    real = Real("ready")
    number = guest_asks(real)
    real.begin("hibernate")
    assert not real.service.complete(*number, Answer(Status.OK), Direction.GUEST)
    real.end("hibernate")
    real.service.register(1)
    assert not real.service.complete(*number, Answer(Status.OK), Direction.GUEST)
    assert answers(real) == []
    real.service.asked(*number, b"old", TIMEOUT)
    assert real.service.take_asked() is None, "a request from before the hibernation"


def test_an_answer_that_is_not_in_rx_is_withdrawn_by_a_hibernation() -> None:
    real = Real("ready")
    number = guest_asks(real)
    assert real.service.complete(*number, Answer(Status.OK), Direction.GUEST)
    real.happens("hibernate")
    assert real.send() == []


def test_a_guests_request_has_a_deadline_and_is_the_only_one() -> None:
    real = Real("ready")
    number = guest_asks(real)
    real.service.asked(number[0], 8, b"another", TIMEOUT)
    assert answers(real) == [(number[0], 8, Status.BUSY, b"")]
    real.bench.time += TIMEOUT
    real.expire()
    assert answers(real) == [(*number, Status.TIMED_OUT, b"")]
    assert not real.service.complete(*number, Answer(Status.OK), Direction.GUEST)


# What else may come.


def test_a_reply_sent_twice_is_stale_and_told() -> None:
    real = Real("req")
    for _ in range(2):
        real.reply()
    assert real.ticket.answer == Answer(Status.OK, b"first")
    assert [decode(each).kind for each in real.send()] == [Kind.STALE]
    assert real.service.stale == 1


def test_hibernating_twice_and_while_coming_back() -> None:
    real = Real("req")
    real.begin("hibernate")
    real.begin("hibernate")
    real.end("hibernate")
    real.begin("hibernate")
    real.service.register(1)
    real.end("hibernate")
    assert real.ticket.answer == Answer(Status.HIBERNATED)
    ask_later(Model("ready"), real, "new")


def test_what_was_asked_during_a_hibernation_is_served_after_it() -> None:
    real = Real("ready")
    real.begin("hibernate")
    ticket = real.service.ask(b"second", TIMEOUT)
    assert real.send() == []
    late = real.service.ask(b"third", 10)
    real.bench.time += 10
    real.expire()
    assert late.answer == Answer(Status.TIMED_OUT)
    real.service.register(1)
    kinds = [decode(each) for each in real.send()]
    assert [each.kind for each in kinds] == [Kind.ACCEPT, Kind.REQUEST]
    real.service.complete(kinds[1].epoch, kinds[1].id, Answer(Status.OK))
    assert ticket.answer == Answer(Status.OK)


def test_a_daemon_that_registers_again_has_another_epoch() -> None:
    real = Real("req")
    before = real.service.epochs
    real.service.register(1)
    assert real.ticket.answer == Answer(Status.DAEMON_GONE)
    assert real.service.epochs == (before[0], before[1] + 1)
    real.reply()
    assert real.service.stale == 1


def test_one_snapshot_is_restored_twice() -> None:
    real = Real("req")
    real.begin("restore")
    copies = []
    for number in range(2):
        copy = UtilityService(real.runtime, f"copy.{number}", 1)
        assert copy.restore(real.record) == 1
        copy.resume()
        copies.append(copy)
    for copy in copies:
        assert (copy.state, copy.epochs) == (State.READY, (1, 1))
        assert not copy.complete(*real.request, Answer(Status.OK))
        assert copy.stale == 1


def test_a_restore_that_is_refused_changes_nothing() -> None:
    real = Real("req")
    real.begin("restore")
    good = real.record
    for change in (
        {"v": 2},
        {"service": 2},
        {"epoch": -1},
        {"guest_epoch": 1 << 32},
        {"version": 256},
        {"registered": False},
        {"requests": -1},
        {"outbox": (OutgoingRecord(b""),) * 20},
        {"open": False, "asked": GuestAskedRecord(1, 1, b"", 1)},
        {"asked": GuestAskedRecord(1, 1, b"", -1)},
    ):
        fresh = UtilityService(real.runtime, "fresh", 1)
        before = fresh.key()
        with pytest.raises(UserError):
            fresh.restore(msgspec.structs.replace(good, **change))
        assert fresh.key() == before
    with pytest.raises(UserError, match="in use"):
        real.service.restore(good)
    assert real.ticket.answer is None
    real.service.resume()
    real.reply()
    assert real.ticket.answer == Answer(Status.OK, b"first")


def test_a_record_survives_its_bytes() -> None:
    real = Real("outbox")
    guest_asks(real)
    real.begin("restore")
    data = msgspec.msgpack.encode(real.record)
    assert msgspec.msgpack.decode(data, type=ServiceRecord) == real.record
    assert real.record.asked is not None
    assert real.record.asked.left == TIMEOUT


def test_a_guest_that_reads_nothing_fills_no_memory() -> None:
    real = Real("ready")
    for number in range(1000):
        real.reply()
        real.service.asked(real.service.epochs[1], number, b"", TIMEOUT)
    assert len(real.send()) <= 17
