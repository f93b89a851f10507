"""Every parser of bytes that somebody else has made, with valid inputs to change."""

from __future__ import annotations

import argparse
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NoReturn

from parser_seeds import (
    BASE,
    calls,
    command_lines,
    frames,
    images,
    indices,
    json_of,
    manifests,
    packed,
    samples,
    tokens,
    trees,
)

from hfsched import client
from hfsched.abi import generations
from hfsched.abi.dialect import describe, find
from hfsched.abi.dialects import DEFAULT
from hfsched.cli.addressing import address
from hfsched.cli.parser import Parser as CommandLine
from hfsched.cli.run import _spec, add_parser
from hfsched.cli.splitter import Splitter
from hfsched.control import command_client, commands, wire
from hfsched.errors import HfschedError
from hfsched.explore import registry, token
from hfsched.explore.campaign import worker
from hfsched.mailbox.ports import Ports, frame
from hfsched.memory import fdt
from hfsched.memory.image import boot_problem, looks_like, parse_image, place, raw_image
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.runtime.threads.spawner import decode_job
from hfsched.snapshot import index
from hfsched.snapshot.codec import FRAME_PAGES, Decoder
from hfsched.swap.pages.entries import Entry
from hfsched.swap.protocol import childmessages, messages
from hfsched.text import one_line, printable, printable_bytes
from hfsched.times import seconds
from hfsched.vcpu import arm64_names, registers
from hfsched.vcpu.kvm import failure
from hfsched.vcpu.unicorn import exceptions, sysregs
from hfsched.vmm import manifest, sizes

__all__ = ["Parser", "parsers"]

Refusals = tuple[type[BaseException], ...]


@dataclass(frozen=True)
class Parser:
    """`call` parses or raises one of `refuses`; `size` is how long inputs at random are."""

    name: str
    call: Callable[[bytes], object]
    seeds: tuple[bytes, ...] = ()
    size: int = 64
    refuses: Refusals = (HfschedError,)
    share: float = 1.0  # of the inputs, relative to others


class RefusedError(HfschedError):
    """What a parser refuses by returning None."""


def _some(value: object) -> object:
    if value is None:
        raise RefusedError
    return value


# Parsers that take more than bytes.


def _image(ram: Ram) -> Callable[[bytes], object]:
    def parse(data: bytes) -> object:
        looks_like(data)
        image = parse_image("fuzzed", data)
        boot_problem(image)
        return place(image, ram, BASE)

    return parse


def _raw_image(ram: Ram) -> Callable[[bytes], object]:
    return lambda data: place(raw_image("fuzzed", data, "aarch64"), ram, BASE)


def _device_tree(ram: Ram) -> Callable[[bytes], object]:
    return lambda data: fdt.place_fdt(fdt.with_memory(data, BASE, ram.size), ram, BASE)


def _message(data: bytes) -> object:
    connection = client.Connection.__new__(client.Connection)
    connection.reason, connection.machine = "", "m"
    return connection._message(data)


def _lines(data: bytes) -> object:
    splitter = Splitter(20)
    found = [*splitter.feed(data[: len(data) // 2]), *splitter.feed(data[len(data) // 2 :])]
    return [address(line, "a", ["a", "b", "trusty"]) for line, _ in (*found, *splitter.end())]


def _port_message(ports: Ports) -> Callable[[bytes], object]:
    def put(data: bytes) -> object:
        port = ports.open(1, 5)
        try:
            ports._vms[1].unclaimed.clear()
            return ports.put(1, data)
        finally:
            ports.close(port)

    return put


def _scenario(data: bytes) -> object:
    text = os.fsdecode(data)
    registry._split(text)
    path, colons, _ = text.partition("::")
    if colons and not path.endswith(".py"):  # would import the module that it names
        raise RefusedError
    return registry.find(text)


class _CommandLine(CommandLine):
    def error(self, message: str) -> NoReturn:
        """Refuse it without printing."""
        raise RefusedError(printable(message))


def _command_line() -> Callable[[bytes], object]:
    parser: argparse.ArgumentParser = _CommandLine(prog="hfsched")
    add_parser(parser.add_subparsers())

    def parse(data: bytes) -> object:
        words = [os.fsdecode(word) for word in data.split(b"\n")]
        return _spec(parser.parse_args(["run", *words]))

    return parse


def _exception(data: bytes) -> object:
    esr, far, pstate = struct.unpack("<IQQ", data[:20].ljust(20, b"\0"))
    exceptions.describe(esr, far)
    exceptions.is_write(esr)
    exceptions.abort_syndrome(esr)
    exceptions.entry(pstate, far, injected=bool(pstate >> 63))
    access = exceptions.decode_access(esr)
    return None if access is None else exceptions.sign_extend(access, far)


def _trap(data: bytes) -> object:
    access = sysregs.decode_trap(int.from_bytes(data[:4], "little"))
    sysregs.id_mask(access.key)
    return (access.is_id, access.is_tlb, access.is_broadcast, access.is_cache, access.is_code)


def _hypercall(data: bytes) -> object:
    regs = struct.unpack("<18Q", data[:144].ljust(144, b"\0"))
    show = lambda _name, value: hex(value)  # noqa: E731
    DEFAULT.answer(regs, show)
    DEFAULT.features(regs[1] & 0xFFFF_FFFF)
    DEFAULT.version(regs[1] & 0xFFFF_FFFF)
    number = find(DEFAULT.calls, regs[0])
    if number is None:
        return generations.unknown_function(DEFAULT, regs[0], smc=bool(regs[1] & 1))
    call = DEFAULT.calls[number]
    return describe(call, regs[: call.registers], show)


def _registers(data: bytes) -> object:
    names = [*registers.ARM64, "none", "sp"]
    value = registers.decode(data[2:])
    stored = registers.encode({names[sum(data[:2]) % len(names)]: value}, registers.ARM64)
    return registers.split_sp(stored, 5)


def _signed_index(data: bytes) -> object:
    """Check an index whose hash is right, so that what follows is reached."""
    digest = index._digest(len(data), index.VERSION, data)
    head = index._HEAD.pack(index.MAGIC, index.VERSION, len(data), digest)
    return index.decode_index("fuzzed", head + data)


def _frame(data: bytes) -> object:
    kind, pages, stored = data[0] % 4, data[1] % FRAME_PAGES + 1, data[2:]
    return Decoder("fuzzed").decode(0, kind, stored, zlib.crc32(stored), pages * PAGE_SIZE)


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(os.fsdecode(data))


def parsers() -> list[Parser]:
    """Return all of them."""
    ram = Ram("parsers", 1 << 18)
    ports = Ports(ThreadRuntime())
    ports.add(1, raw=False)
    swap = (messages.MonitorRequest, messages.MonitorAnswer)
    child = (childmessages.ChildRequest, childmessages.ChildAnswer)
    hello = ({"v": 1, "vm": "a", "port": 1, "local": 2}, {"v": 1, "ask": "a"})
    welcome = (
        {"ok": True, "machine": "m", "vm": "a", "host_port": 1, "payload_max": 64},
        {"error": "e", "code": "c"},
    )
    event = {"event": "swap", "state": "pending"}
    value = ValueError
    return [
        Parser("image", _image(ram), images(), 200),
        Parser("raw image", _raw_image(ram), (b"\0" * 64,)),
        Parser("device tree", _device_tree(ram), trees(), 200, share=0.3),
        Parser("manifest", lambda data: manifest.parse("fuzzed", data), manifests(), share=0.3),
        Parser(
            "path of a manifest",
            _text(lambda text: manifest._beside(Path("/m.toml"), text)),
            (b"~", b"~root/x", b"echo.bin", b"guest.py:f", b"~nobody:x"),
            share=0.1,
        ),
        Parser("hello", wire.parse_hello, json_of(hello)),
        Parser("answer to hello", wire.parse_welcome, json_of(welcome)),
        Parser(
            "port packet", _message, (wire.DATA + b"x", wire.REFUSED + b"x", wire.CLOSING + b"x")
        ),
        Parser("port message", _port_message(ports), (frame(1, 5, b"x"), frame(5, 1 << 33, b"y"))),
        Parser("control request", commands.decode_request, json_of(samples(commands.Request))),
        Parser("control answer", commands.decode_answer, json_of(samples(commands.Answer))),
        Parser("event", lambda data: command_client._event(Path("m"), data), json_of([event])),
        Parser("swap request", messages.decode_request, packed(swap[0])),
        Parser("swap answer", messages.decode_answer, packed(swap[1])),
        Parser("number of a swap message", messages.number_of, packed(swap[0])),
        Parser("child request", childmessages.decode_request, packed(child[0])),
        Parser("child answer", childmessages.decode_answer, packed(child[1])),
        Parser(
            "page table entry",
            lambda data: Entry.decode(int.from_bytes(data[:8], "little")),
            refuses=(value,),
            size=8,
        ),
        Parser("job of a process", decode_job, json_of([["a", "m:f", 2, False]]), refuses=(value,)),
        Parser(
            "message of a worker",
            lambda data: worker.read_message(BytesIO(data)),
            (b"\1\0\0\0x",),
            refuses=(value,),
        ),
        Parser("snapshot index", lambda data: index.decode_index("fuzzed", data), indices(), 200),
        Parser(
            "signed snapshot index",
            _signed_index,
            tuple(each[index.HEAD_SIZE :] for each in indices()),
            200,
        ),
        Parser("snapshot frame", lambda data: _frame(data.ljust(2, b"\0")), frames(), 200),
        Parser("input lines", _lines, (b"@a hi\n@@x\n", b"hello\r\n@b\tx", b"@none x\n")),
        Parser(
            "size",
            _text(lambda text: sizes.parse_size("size", text)),
            (b"16MiB", b"0x1000", b"1.5 GiB", b"4096"),
        ),
        Parser("vCPUs", _text(lambda text: sizes.parse_vcpus("vcpus", text)), (b"1", b"32")),
        Parser(
            "idle time",
            _text(lambda text: sizes.parse_idle("idle", text)),
            (b"500ms", b"30s", b"1.5h"),
        ),
        Parser("time", _text(lambda text: _some(seconds(text))), (b"500ms", b"30s", b"2m")),
        Parser("fuzz token", _text(token.decode), tokens()),
        Parser(
            "scenario",
            _scenario,
            (
                b"mailbox",
                b"swap+none,vms=2",
                b"programs,program=wepW_iW-0nI;0312;S",
                b"images",
                b"no/file.py::X",
            ),
            share=0.3,
        ),
        Parser(
            "command line",
            _command_line(),
            command_lines(),
            refuses=(HfschedError, SystemExit),
            share=0.03,
        ),
        Parser("syndrome", _exception, (struct.pack("<IQQ", 0x93C08046, 0x1000, 5),), 20),
        Parser("trapped register", _trap, (struct.pack("<I", 0x6230_0000),), 4),
        Parser(
            "timer instructions", sysregs.timer_instructions, (bytes.fromhex("40e03bd5") * 4,), 256
        ),
        Parser(
            "A64 instruction",
            lambda data: arm64_names.instruction_text(int.from_bytes(data[:4], "little")),
            (bytes.fromhex("40e03bd5"),),
            4,
        ),
        Parser("x86-64 instruction", failure._divides, (b"\x48\xf7\xf1",), 8),
        Parser("hypercall", _hypercall, calls(), 144),
        Parser("registers", _registers, (b"\0\1" + b"x" * 8, b"\0\1" + b"x" * 16), 20, share=0.5),
        Parser(
            "printable text",
            lambda data: one_line(printable_bytes(data), 20),
            (b"\x1b[31m", "ü\t".encode()),
        ),
    ]
