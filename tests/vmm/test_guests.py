"""What a VM boots: a file before a bundled guest, and Python where it is named."""

from __future__ import annotations

import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hfsched.errors import ConfigError, ImageError, UserError
from hfsched.memory.image import parse_image, place
from hfsched.memory.ram import Ram
from hfsched.programs.bundled import PROGRAMS
from hfsched.vcpu.kvm import device
from hfsched.vmm.build import place_memory
from hfsched.vmm.guests import GuestCode, bundled_images, guest_includes, resolve
from hfsched.vmm.manifest import MachineSpec, VmSpec

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "hello_guest.c"

with_images = pytest.mark.skipif(
    "echo.bin" not in bundled_images(), reason="the bundled guests are not built: script/guests"
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def raw_image() -> bytes:
    """Return an arm64 Linux image of one page."""
    header = struct.pack("<IIQQQQQQ4sI", 0x1400_0010, 0, 0, 0x1000, 0, 0, 0, 0, b"ARMd", 0)
    return header.ljust(0x1000, b"\0")


@with_images
@pytest.mark.parametrize("architecture", ["aarch64", "x86_64"])
@pytest.mark.parametrize("suffix", ["bin", "elf"])
def test_every_bundled_image_would_boot(architecture: str, suffix: str) -> None:
    names = [
        f"{name}.{suffix}"
        for name in ("cpus", "echo", "hostile", "relay", "smp", "stress", "trusty")
    ]
    assert {f"{architecture}/{name}" for name in names} <= bundled_images().keys()
    for name in names:
        assert resolve("vm", f"{architecture}/{name}", "auto").machine == architecture


@with_images
@pytest.mark.parametrize("name", ["echo.bin", "echo.elf"])
def test_a_bare_name_is_the_arm64_image_but_for_kvm(name: str) -> None:
    assert resolve("vm", name, "auto").machine == "aarch64"
    assert resolve("vm", name, "unicorn").machine == "aarch64"
    if device.MACHINE in ("aarch64", "x86_64"):
        assert resolve("vm", name, "kvm").machine == device.MACHINE


@pytest.mark.parametrize("name", ["absent.bin", "x86_64/absent.bin"])
def test_no_such_bundled_image(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        resolve("vm", name, "auto")
    message = str(caught.value)
    assert message.startswith(f"vm vm: image {name}: no such file, and no bundled guest (")
    if "echo.bin" in bundled_images():
        assert message.endswith(
            "(bundled: block.bin, cpus.bin, echo.bin, hostile.bin, probe.bin, relay.bin, smp.bin, stress.bin, trusty.bin, utility.bin, each also"
            " as aarch64/... and x86_64/...)"
        )


@with_images
def test_a_file_here_comes_before_a_bundled_image() -> None:
    Path("echo.bin").write_bytes(raw_image())
    code = resolve("vm", "echo.bin", "auto")
    assert code.image is not None
    assert code.image.memory_size == 0x1000


@with_images
def test_a_bundled_image_has_no_folder() -> None:
    with pytest.raises(ImageError, match=r"^vm vm: x/echo\.bin: cannot be read: No such file"):
        resolve("vm", "./x/echo.bin", "auto")


def test_a_module_beside_that_python_does_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))]
    )
    Path("parts").mkdir()
    Path("parts/hello.py").write_text("def guest(cpu): yield")
    Path("alone.py").write_text("import absent.part")
    for image, file in (
        ("parts.hello:guest", "parts/hello.py:guest"),
        ("alone:guest", "alone.py:guest"),
    ):
        with pytest.raises(ConfigError) as caught:
            resolve("vm", image, "auto")
        module = image.partition(":")[0]
        why = f"no module {module!r} on Python's path: for the file write {file}"
        assert str(caught.value) == f"vm vm: script guest {image}: {why}"
    monkeypatch.syspath_prepend(Path.cwd())
    with pytest.raises(
        ConfigError, match=r"ModuleNotFoundError: No module named 'absent' \(alone.py:1\)$"
    ):
        resolve("vm", "alone:guest", "auto")


def test_an_image_with_a_colon_in_its_name() -> None:
    Path("odd:name").write_bytes(raw_image())
    assert resolve("vm", "odd:name", "auto").machine == "aarch64"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_bundled_program_by_its_name(name: str) -> None:
    code = resolve("vm", name, "script")
    assert code.program is PROGRAMS[name]
    assert code.machine == "script"


def test_a_function_of_a_module() -> None:
    code = resolve("vm", "hfsched.programs.bundled:relay", "auto")
    assert code.program is PROGRAMS["relay"]


def test_a_function_of_a_file_and_the_one_called_guest() -> None:
    Path("mine.py").write_text("def guest(cpu): yield 'guest'\ndef other(cpu): yield 'other'\n")
    names = [resolve("vm", image, "auto").program for image in ("mine.py", "mine.py:other")]
    assert [getattr(program, "__name__", "") for program in names] == ["guest", "other"]


def test_two_files_of_one_name_are_two_modules() -> None:
    programs = []
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "same.py").write_text(f"def guest(cpu):\n    {folder!r}\n")
        programs.append(resolve("vm", f"{folder}/same.py", "auto").program)
    assert [getattr(program, "__doc__", "") for program in programs] == ["a", "b"]


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("absent.py", "No such file or directory"),
        ("absent:fn", "no module 'absent': write FILE.py:fn, or put its folder in PYTHONPATH"),
        ("json:absent", "no function 'absent'"),
        ("hfsched.programs.bundled:PROGRAMS", "no function 'PROGRAMS'"),
    ],
)
def test_python_that_is_not_there(image: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("box", image, "auto")
    message = str(caught.value)
    assert message.startswith(f"vm box: script guest {image}: ")
    assert why in message
    assert "\n" not in message


def test_an_image_that_would_not_boot_is_refused_with_its_reason() -> None:
    Path("data").write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(ImageError, match=r"^vm vm: data: "):
        resolve("vm", "data", "auto")


# Where its memory lies: as Hafnium places secondaries, top-down below the end of memory.

MIB = 1 << 20
TOP = 0x8000_0000


def flat(size: int, text_offset: int = 0) -> tuple[int, GuestCode]:
    """Return so much memory, and an image with the standard header."""
    data = bytearray(raw_image())
    data[8:16] = text_offset.to_bytes(8, "little")
    return size, GuestCode(parse_image("kernel", bytes(data)), None)


@pytest.mark.parametrize(
    ("vms", "bases"),
    [
        ([flat(MIB)], [0x7FF0_0000]),
        ([flat(MIB), flat(MIB), flat(MIB)], [0x7FF0_0000, 0x7FE0_0000, 0x7FD0_0000]),
        ([flat(16 * MIB), flat(MIB)], [TOP - 16 * MIB, TOP - 17 * MIB]),
        ([flat(MIB, 0x1000), flat(16 * MIB, 0x1000)], [TOP - MIB, TOP - 17 * MIB]),
        ([(MIB, GuestCode(None, PROGRAMS["echo"])), flat(MIB)], [TOP - MIB, TOP - 2 * MIB]),
        ([flat(3 * MIB), flat(4096)], [TOP - 3 * MIB, TOP - 3 * MIB - 4096]),
        ([flat(MIB), flat(16 * MIB)], [TOP - MIB, TOP - 18 * MIB]),  # Linux: at 2 MiB
    ],
)
def test_memory_lies_where_hafnium_puts_it(
    vms: list[tuple[int, GuestCode]], bases: list[int]
) -> None:
    spec = MachineSpec(
        vm=[VmSpec(image="x", name=f"v{i}", memory=vms[i][0]) for i in range(len(vms))]
    )
    assert [hex(base) for base in place_memory(spec, [code for _, code in vms])] == [
        hex(base) for base in bases
    ]


# Any file as it is.

LOOP = b"\x00\x00\x00\x14"  # b .


def test_a_raw_image_is_loaded_as_it_is_and_entered_at_its_first_byte(tmp_path: Path) -> None:
    file = tmp_path / "loop"
    file.write_bytes(LOOP)
    with pytest.raises(ImageError, match=r"to boot it as it is, from its first byte: --raw-image"):
        resolve("vm", str(file), "auto")
    code = resolve("vm", str(file), "auto", raw=True)
    assert code.machine == "aarch64"
    assert code.image is not None
    ram = Ram("vm", 0x1000)
    assert place(code.image, ram, 0x4000_0000) == 0x4000_0000
    assert ram.read(0, 8) == LOOP + bytes(4)
    assert resolve("vm", str(file), "kvm", raw=True).machine == device.MACHINE


def test_a_raw_image_may_have_a_format(tmp_path: Path) -> None:
    file = tmp_path / "elf"
    file.write_bytes(b"\x7fELF" + bytes(8))
    code = resolve("vm", str(file), "auto", raw=True)
    assert code.image is not None
    assert bytes(code.image.segments[0].data) == b"\x7fELF" + bytes(8)


def test_what_cannot_be_a_raw_image(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ImageError, match=f"^vm vm: {empty}: an empty file$"):
        resolve("vm", str(empty), "auto", raw=True)
    with pytest.raises(ConfigError, match="engine script cannot run a raw image"):
        resolve("vm", str(empty), "script", raw=True)


# Guests of one's own.


@pytest.mark.skipif(find_spec("ziglang") is None, reason="no package ziglang")
def test_guests_in_c_find_their_header(tmp_path: Path) -> None:
    source = tmp_path / "guest.c"
    text = '#include "hypercalls.h"\n#include "services.c"\nvoid f(void) { ffa_yield(); }\n'
    source.write_text(text)
    for architecture in ("aarch64", "x86_64"):
        includes = [f"-I{folder}" for folder in guest_includes(architecture)]
        target = ["-target", f"{architecture}-freestanding-none"]
        command = [sys.executable, "-m", "ziglang", "cc", *target, *includes, "-ffreestanding"]
        subprocess.run([*command, "-c", "-o", str(tmp_path / "o"), str(source)], check=True)


@pytest.mark.skipif(find_spec("ziglang") is None, reason="no package ziglang")
def test_the_example_of_a_guest_answers(tmp_path: Path) -> None:
    pytest.importorskip("unicorn", reason="no package unicorn")
    includes = [f"-I{folder}" for folder in guest_includes("aarch64")]
    flags = ["-O1", "-ffreestanding", "-mgeneral-regs-only", "-mstrict-align", "-nostdlib"]
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-freestanding-none"]
    link = ["-Wl,--image-base=0x60000000", "-o", "hello.elf"]
    subprocess.run([*command, *flags, *includes, *link, str(EXAMPLE)], check=True)
    run = [sys.executable, "-m", "hfsched", "run", "hello.elf", "--linger", "60"]
    done = subprocess.run(run, input=b"hi\n", capture_output=True, check=True)
    assert done.stdout.splitlines() == [b"[hello] hello: up", b"hello: hi"]


def test_an_architecture_without_guests() -> None:
    with pytest.raises(UserError, match="'mips' is no architecture of guests: aarch64, x86_64"):
        guest_includes("mips")
