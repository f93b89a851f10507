"""What VMs with the same guest share while they are made, and what each has for itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.memory.image import place, read_image
from hfsched.memory.imagetypes import Image, Segment
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vmm import build, guests
from hfsched.vmm.guests import GuestCode, bundled_images
from hfsched.vmm.manifest import MachineSpec, VmSpec

GUEST = """
from hfsched.vcpu.script import Wfi
seen = []

def guest(cpu):
    seen.append(cpu)
    yield Wfi()
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def builder(stack: ExitStack) -> build.Builder:
    return build.Builder(ThreadRuntime(), stack, lambda _text: None)


def named(image: str, count: int) -> MachineSpec:
    return MachineSpec(vm=[VmSpec(name=f"v{i}", image=image, memory=1 << 18) for i in range(count)])


def test_an_image_is_read_once_for_all_its_vms(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    resolve = guests.resolve

    def counted(vm: str, image: str, engine: str, *, raw: bool = False) -> GuestCode:
        read.append(vm)
        return resolve(vm, image, engine, raw=raw)

    monkeypatch.setattr(build, "resolve", counted)
    spec = named("aarch64/echo.bin", 4)
    spec.vm[2].format = "raw"  # the same file, as something else
    spec.engine = "unicorn"
    builder(stack).build(spec)
    assert read == ["v0", "v2"]


def test_each_vm_has_a_python_guests_variables_for_itself(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "guest.py").write_text(GUEST)
    found: list[GuestCode] = []
    resolve = guests.resolve

    def kept(vm: str, image: str, engine: str, *, raw: bool = False) -> GuestCode:
        found.append(resolve(vm, image, engine, raw=raw))
        return found[-1]

    monkeypatch.setattr(build, "resolve", kept)
    builder(stack).build(named(str(tmp_path / "guest.py"), 2))
    one, other = (code.program.__globals__["seen"] for code in found)  # type: ignore[union-attr]
    assert one is not other


def test_a_new_vms_zeros_take_no_memory(stack: ExitStack) -> None:
    image = read_image(bundled_images()["aarch64/echo.bin"])
    made = builder(stack)
    spec = named("aarch64/echo.bin", 1)
    spec.engine = "unicorn"
    made.build(spec)
    taken = os.fstat(made.rams["v0"].fd).st_blocks * 512
    pages = -(-len(image.segments[0].data) // PAGE_SIZE)
    assert taken == pages * PAGE_SIZE < image.memory_size


@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(1, 3000), st.integers(0, 3000))))
def test_a_fresh_ram_gets_the_same_contents(parts: list[tuple[int, int, int]]) -> None:
    segments, at = [], 0
    for gap, size, zeros in parts:
        data = bytes(index % 255 + 1 for index in range(size))
        segments.append(Segment(at + gap, memoryview(data), size + zeros, "rwx"))
        at += gap + size + zeros
    segments = segments or [Segment(0, memoryview(b"\1" * 4), 4, "rwx")]
    image = Image("made", "raw", "x86_64", tuple(segments), segments[0].address, None, at, 4096)
    size = -(-max(at, 1) // PAGE_SIZE) * PAGE_SIZE
    contents = []
    for fresh in (False, True):
        ram = Ram("made", size)
        place(image, ram, 0x1000, fresh=fresh)
        contents.append(ram.read(0, size))
        ram.close()
    assert contents[0] == contents[1]
