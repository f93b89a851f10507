"""Attributes that are not one object's own: of classes, of dicts that are replaced, behind proxies.

Each function takes the runtime and whether it is correct: the correct twin writes before it announces that.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

from programs_publication import announced

from hfsched.explore.runtime import ExploreRuntime


class Box:
    def __init__(self) -> None:
        self.n = 0


def dict_that_objects_share(runtime: ExploreRuntime, correct: bool) -> None:
    shared = {"n": 0}

    class Borg:
        n: int

        def __init__(self) -> None:
            self.__dict__ = shared

    def act() -> None:
        Borg().n += 1

    announced(runtime, correct, act, act)


def dict_shared_at_start(runtime: ExploreRuntime, correct: bool) -> None:
    first: Any = Box()
    second: Any = Box()
    second.__dict__ = first.__dict__
    announced(runtime, correct, lambda: setattr(first, "n", 1), lambda: second.n)


def dict_used_as_a_dict(runtime: ExploreRuntime, correct: bool) -> None:
    shared = {"n": 0}
    box = Box()
    box.__dict__ = shared

    def write() -> None:
        shared["n"] = 1

    announced(runtime, correct, write, lambda: box.n)


def dict_replaced(runtime: ExploreRuntime, correct: bool) -> None:
    box = Box()

    def write() -> None:
        box.__dict__ = {"n": 2}

    announced(runtime, correct, write, lambda: box.n)


class Closed:
    def send(self) -> None: ...


class Open:
    def send(self) -> None: ...


def class_replaced(runtime: ExploreRuntime, correct: bool) -> None:
    port: Any = Closed()

    def write() -> None:
        port.__class__ = Open

    announced(runtime, correct, write, lambda: isinstance(port, Open))


def class_of_a_call(runtime: ExploreRuntime, correct: bool) -> None:
    port: Any = Closed()

    def write() -> None:
        port.__class__ = Open

    announced(runtime, correct, write, lambda: port.send() or 1)


def method_replaced(runtime: ExploreRuntime, correct: bool) -> None:
    class Handler:
        def handle(self) -> int:
            return 1

    handler: Any = Handler()
    kind: Any = Handler

    def write() -> None:
        kind.handle = lambda _self: 2

    announced(runtime, correct, write, lambda: handler.handle() or 1)


def method_replaced_by_setattr(runtime: ExploreRuntime, correct: bool) -> None:
    class Handler:
        def finish(self) -> int:
            return 1

    handler = Handler()

    def write() -> None:
        setattr(Handler, "finish", lambda _self: 2)  # noqa: B010

    announced(runtime, correct, write, lambda: handler.finish() or 1)


def property_replaced(runtime: ExploreRuntime, correct: bool) -> None:
    class Handler:
        @property
        def level(self) -> int:
            return 1

    handler = Handler()
    kind: Any = Handler

    def write() -> None:
        kind.level = property(lambda _self: 2)

    announced(runtime, correct, write, lambda: handler.level)


def method_of_one_object(runtime: ExploreRuntime, correct: bool) -> None:
    class Handler:
        def work(self) -> int:
            return 1

    handler: Any = Handler()

    def write() -> None:
        handler.work = lambda: 2

    announced(runtime, correct, write, lambda: handler.work() or 1)


def class_as_attribute(runtime: ExploreRuntime, correct: bool) -> None:
    class Codec:
        maker: Any = Open

    def write() -> None:
        Codec.maker = Closed

    announced(runtime, correct, write, lambda: Codec.maker() or 1)


def attribute_new_in_class(runtime: ExploreRuntime, correct: bool) -> None:
    class Base: ...

    class Derived(Base): ...

    base: Any = Base

    def write() -> None:
        base.late = 1

    own: Any = Derived()
    announced(runtime, correct, write, lambda: getattr(own, "late", 0))


def attribute_new_between(runtime: ExploreRuntime, correct: bool) -> None:
    class Base:
        bound = 1

    class Derived(Base): ...

    def write() -> None:
        Derived.bound = 2

    announced(runtime, correct, write, lambda: Derived.bound)


def attribute_new_between_for_objects(runtime: ExploreRuntime, correct: bool) -> None:
    class Base:
        bound = 1

    class Derived(Base): ...

    own = Derived()

    def write() -> None:
        Derived.bound = 2

    announced(runtime, correct, write, lambda: own.bound)


def attribute_of_metaclass(runtime: ExploreRuntime, correct: bool) -> None:
    class Meta(type):
        bound = 1

    class Kind(metaclass=Meta): ...

    def write() -> None:
        Meta.bound = 2

    announced(runtime, correct, write, lambda: Kind.bound)


def attribute_by_super(runtime: ExploreRuntime, correct: bool) -> None:
    class Base:
        bound = 1

    class Derived(Base):
        def get(self) -> int:
            return super().bound

    own = Derived()

    def write() -> None:
        Base.bound = 2

    announced(runtime, correct, write, own.get)


def namespace_of_class(runtime: ExploreRuntime, correct: bool) -> None:
    class Kind:
        bound = 0

    def write() -> None:
        Kind.bound = 2

    announced(runtime, correct, write, lambda: vars(Kind)["bound"] + Kind.__dict__["bound"])


def namespace_by_get(runtime: ExploreRuntime, correct: bool) -> None:
    class Kind:
        __slots__ = ()
        bound = 0

    def write() -> None:
        Kind.bound = 2

    announced(runtime, correct, write, lambda: Kind.__dict__.get("bound"))


class Slots:
    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


def slot_by_its_descriptor(runtime: ExploreRuntime, correct: bool) -> None:
    own = Slots()
    descriptor: Any = Slots.__dict__["n"]
    put, get = descriptor.__set__, descriptor.__get__

    def act() -> None:
        put(own, get(own) + 1)

    announced(runtime, correct, act, act)


def weak_proxy(runtime: ExploreRuntime, correct: bool) -> None:
    box = Box()
    proxy = weakref.proxy(box)

    def write() -> None:
        box.n += 1

    def read() -> None:
        proxy.n += 1
        assert box

    announced(runtime, correct, write, read)


def weak_proxy_of_a_list(runtime: ExploreRuntime, correct: bool) -> None:
    class Log(list[int]): ...

    log = Log([1])
    proxy = weakref.proxy(log)

    def write() -> None:
        proxy[0] = 2

    announced(runtime, correct, write, lambda: (log[0], len(proxy), 1 in proxy))


def method_that_assigns(runtime: ExploreRuntime, correct: bool) -> None:
    """The class's own code does the access, in a task that holds no lock."""

    class Status:
        n: int

        def __init__(self) -> None:
            object.__setattr__(self, "n", 0)

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)

        def __getattribute__(self, name: str) -> Any:
            return object.__getattribute__(self, name)

        def __delattr__(self, name: str) -> None:
            object.__delattr__(self, name)

    own = Status()

    def write() -> None:
        own.n = 1
        del own.n

    announced(runtime, correct, write, lambda: hasattr(own, "n"))


def deleted_attribute(runtime: ExploreRuntime, correct: bool) -> None:
    box = Box()

    def write() -> None:
        del box.n

    def read() -> None:
        with contextlib.suppress(AttributeError):
            assert box.n == 0

    announced(runtime, correct, write, read)


PROGRAMS: list[Callable[[ExploreRuntime, bool], None]] = [
    dict_that_objects_share,
    dict_shared_at_start,
    dict_used_as_a_dict,
    dict_replaced,
    class_replaced,
    class_of_a_call,
    method_replaced,
    method_replaced_by_setattr,
    property_replaced,
    method_of_one_object,
    class_as_attribute,
    attribute_new_in_class,
    attribute_new_between,
    attribute_new_between_for_objects,
    attribute_of_metaclass,
    attribute_by_super,
    namespace_of_class,
    namespace_by_get,
    slot_by_its_descriptor,
    weak_proxy,
    weak_proxy_of_a_list,
    method_that_assigns,
    deleted_attribute,
]
