"""All services between a host and a guest, in random interleavings of their tasks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import msgspec
import pytest

from hfsched.errors import UserError
from hfsched.explore.execution import execute
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.scenarios.servicesguest import Rx, Way
from hfsched.services.bodies import FileOp, FileRequest, ShutdownRequest, pack
from hfsched.services.daemons import Daemon, FileReceiver, Freezer, KeyValues, Simple, serve
from hfsched.services.host import TIMEOUT, GuestServices, GuestServicesRecord, ServiceError
from hfsched.services.supervisor import PAUSE_MAX, supervise
from hfsched.services.transaction import Status
from hfsched.services.utility import Utility
from hfsched.services.wire import ServiceId


class Disk:
    """Files of a guest; `full` makes writes fail."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.part: tuple[str, bytearray] | None = None
        self.full = False

    def begin(self, name: str, mode: int, size: int) -> bool:
        self.part = (name, bytearray())
        return True

    def write(self, offset: int, data: bytes) -> bool:
        assert self.part is not None
        assert offset == len(self.part[1])
        self.part[1].extend(data)
        return not self.full

    def commit(self) -> bool:
        assert self.part is not None
        self.files[self.part[0]] = bytes(self.part[1])
        self.part = None
        return True

    def remove(self) -> None:
        self.part = None


class Pair:
    """A host's services and a guest's, and what the guest has done."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        self.runtime = runtime
        self.disk = Disk()
        self.frozen: list[bool] = []
        self.times: list[int] = []
        self.ends: list[ShutdownRequest] = []
        self.freezer = Freezer(self.freeze)
        simple = Simple(self.set_time, self.shut_down)
        daemons: dict[ServiceId, Daemon] = {
            ServiceId.KVP: KeyValues({"os": b"test"}),
            ServiceId.FREEZE: self.freezer,
            ServiceId.FILE: FileReceiver(self.disk),
            ServiceId.HEARTBEAT: simple,
            ServiceId.TIME: simple,
            ServiceId.SHUTDOWN: simple,
        }
        self.utility = Utility(daemons)
        self.rx = Rx(runtime)
        self.host = GuestServices(runtime, "g", Way(runtime, self.rx, 0))
        self.done: list[str] = []

    def settle_copies(self) -> None:
        """Wait until what was begun before is done: requests of a service keep their order."""
        number, body = pack(FileRequest(FileOp.CANCEL, 999))
        assert self.host.services[number].ask(body, 1).wait().ok

    def freeze(self, on: bool) -> bool:
        self.frozen.append(on)
        return True

    def set_time(self, ns: int) -> bool:
        self.times.append(ns)
        return True

    def shut_down(self, request: ShutdownRequest) -> bool:
        self.ends.append(request)
        return True

    def guest(self) -> None:
        for data in self.utility.start():
            self.host.deliver(data)
        while True:
            for data in self.utility.receive(self.rx.take(), 0):
                self.host.deliver(data)


def run(
    body: Callable[[Pair], None], seed: int, check: Callable[[Pair], None], *, mute: bool = False
) -> None:
    """Run `body` as a program of the host beside a guest, in one random interleaving.

    A `mute` guest sends nothing, and deadlines pass.
    """

    class Story:
        name = "story"

        def build(self, runtime: ExploreRuntime) -> World:
            pair = Pair(runtime)

            def program() -> None:
                pair.host.start()
                body(pair)
                pair.host.close()
                pair.done.append("program")

            if not mute:
                runtime.spawn("guest", pair.guest)
            runtime.spawn("program", program)

            def end() -> None:
                assert pair.done == ["program"]
                check(pair)

            return World(end, timers=mute)

    walk = RandomWalk(seed)
    walk.begin()
    outcome = execute(Story(), walk)
    if outcome.failure is not None:
        raise outcome.failure


SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_host_can_ask_for(seed: int) -> None:
    data = bytes(range(256)) * 40

    def body(pair: Pair) -> None:
        host = pair.host
        assert host.get("os") == b"test"
        host.put("role", b"db")
        assert host.get("role") == b"db"
        with pytest.raises(ServiceError, match="get none: not found"):
            host.get("none")
        host.ping(7)
        host.set_time(1_700_000_000)
        host.freeze(5000)
        host.thaw()
        host.copy("file", len(data), [data[:5000], data[5000:]])
        with pytest.raises(ServiceError, match="not what was sent"):
            host.copy("short", len(data) + 1, [data])
        pair.disk.full = True
        with pytest.raises(ServiceError, match="cannot write"):
            host.copy("full", len(data), [data])
        host.ping()
        host.shut_down()

    def check(pair: Pair) -> None:
        assert pair.disk.files == {"file": data}
        assert pair.disk.part is None
        assert pair.frozen == [True, False]
        assert pair.times == [1_700_000_000]
        assert len(pair.ends) == 1

    run(body, seed, check)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restored_copy_is_thawed_and_has_no_half_a_file(seed: int) -> None:
    def body(pair: Pair) -> None:
        pair.host.freeze(60_000)
        chunks = iter([b"ab", b"cd"])

        def stops_half_way() -> None:
            def some() -> Iterator[bytes]:
                yield next(chunks)
                assert pair.host.pause(None)
                raise KeyError

            with pytest.raises(KeyError):
                pair.host.copy("file", 4, some())

        taken: list[GuestServicesRecord] = []
        save = pair.host.save
        pause = pair.host.pause

        def pause_and_save(deadline: int | None) -> bool:
            paused = pause(deadline)
            taken.append(save())
            return paused

        pair.host.pause = pause_and_save  # type: ignore[method-assign]
        stops_half_way()
        record = msgspec.msgpack.decode(msgspec.msgpack.encode(taken[0]), type=GuestServicesRecord)
        assert record.frozen
        assert record.transfer == 1
        # The process that took it ends here; another one goes on with the same guest.
        pair.host.close()
        pair.rx.room.set()
        pair.host = GuestServices(pair.runtime, "restored", Way(pair.runtime, pair.rx, 1))
        pair.host.restore(record)
        pair.host.start()
        pair.host.resume()
        pair.settle_copies()
        pair.host.freeze(5)  # after the thaw that the restore has begun

    def check(pair: Pair) -> None:
        assert pair.frozen == [True, False, True]
        assert pair.disk.files == {}
        assert pair.disk.part is None

    run(body, seed, check)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_copy_that_the_host_gives_up_leaves_no_part(seed: int) -> None:
    def body(pair: Pair) -> None:
        def fails() -> Iterator[bytes]:
            yield b"ab"
            raise OSError("the file's disk")

        with pytest.raises(OSError, match="disk"):
            pair.host.copy("file", 4, fails())
        pair.settle_copies()
        assert pair.disk.part is None
        pair.host.copy("file", 2, [b"cd"])

    def check(pair: Pair) -> None:
        assert pair.disk.files == {"file": b"cd"}

    run(body, seed, check)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_guest_that_says_nothing_costs_the_time_out_each_time(seed: int) -> None:
    def body(pair: Pair) -> None:
        for count in (1, 2):
            with pytest.raises(ServiceError, match="get os: timed out"):
                pair.host.get("os")
            assert pair.runtime.now() == count * TIMEOUT

    run(body, seed, lambda _pair: None, mute=True)


def test_a_record_of_other_services_is_refused() -> None:
    def body(pair: Pair) -> None:
        pair.host.pause(None)
        record = pair.host.save()
        other = GuestServices(pair.runtime, "other", Way(pair.runtime, pair.rx, 1))
        for change in ({"v": 2}, {"services": record.services[1:]}):
            with pytest.raises(UserError):
                other.restore(msgspec.structs.replace(record, **change))
        pair.host.resume()

    run(body, 0, lambda _pair: None)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_guest_that_hibernates_cancels_a_copy_on_both_sides(seed: int) -> None:
    def body(pair: Pair) -> None:
        def hibernates() -> Iterator[bytes]:
            yield b"ab"
            assert pair.disk.part is not None
            for data in [*pair.utility.hibernate(), *pair.utility.start()]:
                pair.host.deliver(data)
            assert pair.disk.part is None
            yield b"cd"

        with pytest.raises(ServiceError, match="copy file: not found"):
            pair.host.copy("file", 4, hibernates())
        pair.host.ping()

    def check(pair: Pair) -> None:
        assert pair.disk.files == {}

    run(body, seed, check)


def test_a_guest_thaws_by_itself() -> None:
    done: list[bool] = []

    def act(on: bool) -> bool:
        done.append(on)
        return True

    freezer = Freezer(act)
    body = bytes([1, 0, 0, 0]) + (20).to_bytes(4, "little")
    assert serve(freezer, ServiceId.FREEZE, body, 100).ok
    freezer.tick(100 + 20_000_000 - 1)
    assert done == [True]
    assert freezer.due == 100 + 20_000_000
    freezer.tick(freezer.due)
    assert done == [True, False]
    freezer.tick(1 << 60)
    assert done == [True, False]
    assert not serve(Freezer(lambda _on: False), ServiceId.FREEZE, body, 0).ok


def test_data_out_of_order_removes_the_part() -> None:
    disk = Disk()
    receiver = FileReceiver(disk)
    assert receiver.serve(FileRequest(FileOp.BEGIN, 1, 4, name="f"), 0).ok
    assert receiver.serve(FileRequest(FileOp.DATA, 1, 2, data=b"cd"), 0).status is Status.FAILED
    assert disk.part is None
    assert receiver.serve(FileRequest(FileOp.END, 1), 0).status is Status.NOT_FOUND
    assert receiver.serve(FileRequest(FileOp.CANCEL, 1), 0).ok


def test_a_file_that_is_not_what_was_sent_is_removed() -> None:
    disk = Disk()
    receiver = FileReceiver(disk)
    for crc, whole in ((zlib.crc32(b"abc"), False), (zlib.crc32(b"abcd"), True)):
        assert receiver.serve(FileRequest(FileOp.BEGIN, 1, 4, name="f"), 0).ok
        assert receiver.serve(FileRequest(FileOp.DATA, 1, 0, data=b"abcd"), 0).ok
        assert receiver.serve(FileRequest(FileOp.END, 1, crc), 0).ok == whole
        assert disk.part is None
        assert ("f" in disk.files) == whole


def test_keys_are_listed_in_pieces_and_bounded() -> None:
    store = KeyValues({f"{number:04}" * 100: b"" for number in range(30)}, entries_max=30)
    found: list[str] = []
    while True:
        key = (found[-1] if found else "").encode()
        body = bytes([4, 0]) + len(key).to_bytes(2, "little") + bytes(4) + key
        answer = serve(store, ServiceId.KVP, body, 0)
        assert answer.ok
        if not answer.body:
            break
        found += answer.body.decode().split("\0")[:-1]
    assert found == sorted(store.values)
    more = bytes([2, 0, 1, 0, 0, 0, 0, 0]) + b"k"
    assert serve(store, ServiceId.KVP, more, 0).status is Status.FAILED


def test_a_daemon_is_started_again_with_a_growing_pause() -> None:
    class Story:
        name = "story"

        def build(self, runtime: ExploreRuntime) -> World:
            closing = runtime.event("closing")
            starts: list[int] = []
            ends: list[BaseException | None] = []

            def daemon() -> None:
                starts.append(runtime.now())
                if len(starts) == 12:
                    closing.set()
                if len(starts) % 2:
                    raise ValueError("a daemon's mistake")

            runtime.spawn(
                "daemon", partial(supervise, runtime, daemon, lambda: None, closing, ends.append)
            )

            def check() -> None:
                pauses = [(b - a) // 100_000_000 for a, b in pairwise(starts)]
                most = PAUSE_MAX // 100_000_000
                assert [type(each) for each in ends] == [ValueError, type(None)] * 6
                assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, most, most]

            return World(check)

    walk = RandomWalk(0)
    walk.begin()
    outcome = execute(Story(), walk)
    if outcome.failure is not None:
        raise outcome.failure
