"""The guest images: what is built, and that it is what the README promises.

No engine is needed: everything is read from the files.
"""

import importlib.util
import os
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from hfsched.memory.image import boot_problem, read_image

ROOT = Path(__file__).resolve().parents[2]
GUESTS = [
    "block",
    "cpus",
    "echo",
    "hostile",
    "probe",
    "relay",
    "smp",
    "stress",
    "trusty",
    "utility",
]
PAGE = 4096


@dataclass(frozen=True)
class Architecture:
    name: str
    elf_machine: str
    relative: int
    magic: bytes


AARCH64 = Architecture("aarch64", "EM_AARCH64", 1027, b"ARM\x64")
X86_64 = Architecture("x86_64", "EM_X86_64", 8, b"HFX\x64")

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None,
    reason="the guests' compiler is not installed (pip install ziglang==0.13.0.post1)",
)


def load_build_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("guests_build", ROOT / "guests" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


guests_build = load_build_module()


@pytest.fixture(scope="module")
def output() -> Path:
    """Where all guests are built: by `script/guests`, or now."""
    directory = ROOT / "guests" / "build"
    guests_build.build(directory)
    return directory


@dataclass(frozen=True)
class Built:
    """What was built in an empty directory, and said."""

    output: Path
    made: list[Path]
    told: list[str]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory, architecture: Architecture) -> Built:
    """The guest `echo` for one architecture."""
    output, told = tmp_path_factory.mktemp("guests"), list[str]()
    made = guests_build.build(
        output, architecture=architecture.name, guests=["echo"], report=told.append
    )
    return Built(output, made, told)


@pytest.fixture(
    scope="module", params=[AARCH64, X86_64], ids=lambda architecture: architecture.name
)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    found = request.param
    assert isinstance(found, Architecture)
    return found


@pytest.fixture
def images(output: Path, architecture: Architecture) -> Path:
    return output / architecture.name


def relocate(image: bytes, elf: ELFFile, base: int) -> bytes:
    """What the image makes of itself at base, as far as relocation goes."""
    moved = bytearray(image)
    section = elf.get_section_by_name(".rela.dyn")
    assert isinstance(section, RelocationSection)
    for entry in section.iter_relocations():
        struct.pack_into("<Q", moved, entry["r_offset"], base + entry["r_addend"])
    return bytes(moved)


def test_every_directory_with_a_main_is_a_guest() -> None:
    assert guests_build.guest_names() == GUESTS


@needs_compiler
def test_every_guest_has_both_files(images: Path) -> None:
    assert sorted(path.name for path in images.glob("*.elf")) == [f"{n}.elf" for n in GUESTS]
    assert sorted(path.name for path in images.glob("*.bin")) == [f"{n}.bin" for n in GUESTS]


@needs_compiler
@pytest.mark.parametrize("name", GUESTS)
def test_header(images: Path, architecture: Architecture, name: str) -> None:
    image = (images / f"{name}.bin").read_bytes()
    with (images / f"{name}.elf").open("rb") as file:
        segments = [s for s in ELFFile(file).iter_segments() if s["p_type"] == "PT_LOAD"]
        end = max(s["p_vaddr"] + s["p_memsz"] for s in segments)
    code, _, text_offset, size, flags = struct.unpack_from("<IIQQQ", image)
    if architecture is AARCH64:
        assert code >> 26 == 0b000101, "an unconditional branch"
    else:
        assert image[0] == 0xE9, "a jump"
        assert struct.unpack_from("<i", image, 1)[0] + 5 >= 64, "over the header"
    assert image[56:60] == architecture.magic
    assert text_offset == 0
    assert flags == 0b1010, "little-endian, 4 KiB pages, anywhere"
    assert size == end
    assert size % PAGE == 0
    assert len(image) < size <= 1 << 20, "leaves .bss out, and fits the smallest VM"


@needs_compiler
@pytest.mark.parametrize("name", GUESTS)
def test_elf_and_flat_image_agree(images: Path, architecture: Architecture, name: str) -> None:
    image = (images / f"{name}.bin").read_bytes()
    covered = bytearray(len(image))
    with (images / f"{name}.elf").open("rb") as file:
        elf = ELFFile(file)
        assert (elf.elfclass, elf["e_type"]) == (64, "ET_DYN")
        assert elf["e_machine"] == architecture.elf_machine
        assert elf["e_entry"] == 0
        for segment in elf.iter_segments():
            if segment["p_type"] != "PT_LOAD":
                continue
            start, data = segment["p_vaddr"], segment.data()
            assert start % PAGE == 0
            assert image[start : start + len(data)] == data
            covered[start : start + len(data)] = b"\x01" * len(data)
    assert all(byte == 0 for byte, mark in zip(image, covered, strict=True) if not mark)


@needs_compiler
@pytest.mark.parametrize("name", GUESTS)
def test_runs_at_any_address(images: Path, architecture: Architecture, name: str) -> None:
    """Every relocation is RELATIVE, to somewhere in the image, in memory that may be written."""
    image = (images / f"{name}.bin").read_bytes()
    with (images / f"{name}.elf").open("rb") as file:
        elf = ELFFile(file)
        assert not any(s["p_type"] == "PT_INTERP" for s in elf.iter_segments())
        section = elf.get_section_by_name(".rela.dyn")
        assert isinstance(section, RelocationSection)
        size = struct.unpack_from("<Q", image, 16)[0]
        for entry in section.iter_relocations():
            assert entry["r_info_type"] == architecture.relative
            assert entry["r_offset"] % 8 == 0
            assert entry["r_addend"] <= size
            assert struct.unpack_from("<Q", image, entry["r_offset"])[0] in (0, entry["r_addend"])
        assert section.num_relocations() > 0 or relocate(image, elf, PAGE) == image


@needs_compiler
@pytest.mark.parametrize("name", GUESTS)
def test_no_symbol_is_undefined(images: Path, name: str) -> None:
    with (images / f"{name}.elf").open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        symbols = list(table.iter_symbols())
    undefined = [s.name for s in symbols if s.name and s["st_shndx"] == "SHN_UNDEF"]
    assert undefined == []
    assert {"guest_main", "image_start", "vectors"} <= {s.name for s in symbols}


@needs_compiler
@pytest.mark.parametrize("name", GUESTS)
def test_the_image_parser_takes_both_files(
    images: Path, architecture: Architecture, name: str
) -> None:
    for suffix in ("bin", "elf"):
        image = read_image(images / f"{name}.{suffix}")
        assert (image.machine, image.fixed_base, image.entry) == (architecture.name, None, 0)
        assert boot_problem(image) is None


@needs_compiler
def test_second_build_does_nothing(output: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    told: list[str] = []
    made = guests_build.build(output, report=told.append)
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/*")} == before
    assert made == [
        output / architecture / f"{name}.{suffix}"
        for architecture in ("aarch64", "x86_64")
        for name in GUESTS
        for suffix in ("elf", "bin")
    ]


@needs_compiler
def test_builds_only_what_is_asked_for(echo: Built, architecture: Architecture) -> None:
    place = echo.output / architecture.name
    assert echo.made == [place / "echo.elf", place / "echo.bin"]
    assert sorted(path.name for path in echo.output.glob("*/*.bin")) == ["echo.bin"]
    assert f"{architecture.name}: compile echo/main.c" in echo.told
    assert not any("trusty" in line for line in echo.told)


@needs_compiler
def test_x86_flags_keep_to_the_first_processors(tmp_path: Path) -> None:
    """No floating point, no SSE, no POPCNT; a function without calls makes room on the stack."""
    source, assembly = tmp_path / "flags.c", tmp_path / "flags.s"
    flags = [*guests_build.ARCHITECTURES["x86_64"], *guests_build.COMMON_FLAGS]
    compiler = guests_build._Compiler(tmp_path / "cache")

    def compiled(text: str) -> str:
        source.write_text(text)
        compiler.run("cc", *flags, "-S", "-o", str(assembly), str(source))
        return assembly.read_text()

    # A call of what is not there, so that it cannot be linked.
    assert "__adddf3" in compiled("double twice(double x) { return x + x; }")
    copy = "struct s { long a[4]; }; void copy(struct s *to, struct s *from) { *to = *from; }"
    assert "xmm" not in compiled(copy)
    fence = "int n; void fence(void) { __atomic_store_n(&n, 1, __ATOMIC_SEQ_CST); }"
    assert "xchg" in compiled(fence)
    leaf = "int leaf(int i) { volatile int a[4] = {1, 2, 3, 4}; return a[i]; }"
    assert re.search(r"-\d+\(%rsp\)", compiled(leaf)) is None, "nothing below the stack pointer"
    assert "popcnt" not in compiled("int ones(int n) { return __builtin_popcount(n); }")


@needs_compiler
def test_two_builds_are_the_same_bytes(
    images: Path, echo: Built, architecture: Architecture
) -> None:
    again = echo.output / architecture.name / "echo.bin"
    assert again.read_bytes() == (images / "echo.bin").read_bytes()


@needs_compiler
def test_rebuilds_what_a_touched_object_feeds(echo: Built, architecture: Architecture) -> None:
    name = architecture.name
    (echo.output / name / "obj" / "echo" / "main.c.o").unlink()
    told: list[str] = []
    guests_build.build(echo.output, architecture=name, guests=["echo"], report=told.append)
    assert told == [f"{name}: compile echo/main.c", f"{name}: link echo"]


@needs_compiler
def test_unknown_guest_is_named() -> None:
    with pytest.raises(guests_build.BuildError, match="no such guest: nobody"):
        guests_build.build(Path("unused"), guests=["nobody"])


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(guests_build.BuildError, match=r"'riscv64'; known: aarch64, x86_64"):
        guests_build.build(Path("unused"), architecture="riscv64")


def test_missing_compiler_is_one_clear_line(tmp_path: Path) -> None:
    """An interpreter that sees no site-packages has no compiler."""
    result = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "guests" / "build.py", "--output", tmp_path],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert "pip install ziglang" in result.stderr
    assert result.stderr.count("\n") == 1


def test_flatten_puts_segments_at_their_addresses() -> None:
    header = bytearray(64 + 2 * 56)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, 2)
    struct.pack_into("<IIQQQQQQ", header, 64, 1, 5, 176, 0x1000, 0, 3, 3, 0x1000)
    struct.pack_into("<IIQQQQQQ", header, 120, 1, 6, 179, 0x1008, 0, 2, 64, 0x1000)
    assert guests_build.flatten(bytes(header) + b"abcde") == b"abc\0\0\0\0\0de"


def test_flatten_refuses_what_is_no_elf() -> None:
    with pytest.raises(guests_build.BuildError, match="not a little-endian ELF64 file"):
        guests_build.flatten(b"MZ")
