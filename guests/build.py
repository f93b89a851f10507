"""Build the guest images.

Every directory beside this file that holds a ``main.c`` is a guest. It is compiled together with
``common/`` and ``arch/ARCHITECTURE/`` by the C compiler of the PyPI package *ziglang*, linked as a
position-independent ELF file, and flattened into the image that a hypervisor loads::

    OUTPUT/ARCHITECTURE/NAME.elf
    OUTPUT/ARCHITECTURE/NAME.bin

Objects are rebuilt when a source, a header it includes, or a flag is newer; nothing else is.

Use it as a program (``script/guests``) or as a module: :func:`build`.
"""

import argparse
import os
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = ["BuildError", "build", "flatten", "guest_names"]

HERE = Path(__file__).resolve().parent

COMMON_FLAGS = [
    "-std=c17", "-O2", "-g0", "-ffreestanding", "-fPIE", "-fvisibility=hidden",
    "-fno-sanitize=all", "-fno-stack-protector", "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables", "-ffunction-sections", "-fdata-sections",
    "-Wall", "-Wextra", "-Werror",
]  # fmt: skip

# No floating point, so that no vCPU has any to keep. On arm64 no unaligned access, since images
# start with the MMU off; Armv8.0 has no SVE and no LSE atomics. On x86-64 nothing later than the
# first processors had, for engines that emulate it, and no red zone: interrupts are taken on the
# stack in use.
ARCHITECTURES = {
    "aarch64": [
        "-target", "aarch64-freestanding-none", "-mcpu=generic+v8a+el3", "-mgeneral-regs-only",
        "-mstrict-align",
    ],
    "x86_64": [
        "-target", "x86_64-freestanding-none", "-mcpu=x86_64-x87-mmx-sse-sse2-fxsr+soft_float",
        "-mgeneral-regs-only", "-mno-red-zone",
    ],
}  # fmt: skip

LINK_FLAGS = [
    "-pie", "--no-dynamic-linker", "-z", "text", "-z", "max-page-size=4096", "--gc-sections",
    "--build-id=none", "--hash-style=gnu", "--fatal-warnings",
]  # fmt: skip

PT_LOAD = 1


class BuildError(Exception):
    """The images cannot be built; the message says why and what to do."""


@dataclass(frozen=True)
class Object:
    """One object file and what it is made from."""

    source: Path
    path: Path

    @property
    def dependencies(self) -> Path:
        """The make-style list of what the compiler read."""
        return self.path.with_suffix(".d")


def guest_names(root: Path = HERE) -> list[str]:
    """Names of the guests: the directories that hold a ``main.c``."""
    return sorted(path.parent.name for path in root.glob("*/main.c"))


def flatten(elf: bytes) -> bytes:
    """Return the flat image of a little-endian ELF64 file: its PT_LOAD segments by address.

    The lowest address is the image's first byte. Memory that no file bytes fill (.bss) is left
    out at the end and zero in between.
    """
    if elf[:6] != b"\x7fELF\x02\x01":
        msg = "not a little-endian ELF64 file"
        raise BuildError(msg)
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    segments = []
    for index in range(count):
        kind, _, start, address, _, length = struct.unpack_from(
            "<IIQQQQ", elf, offset + index * size
        )
        if kind == PT_LOAD and length:
            segments.append((address, elf[start : start + length]))
    if not segments:
        msg = "the ELF file has nothing to load"
        raise BuildError(msg)
    base = min(address for address, _ in segments)
    image = bytearray(max(address + len(data) for address, data in segments) - base)
    for address, data in segments:
        image[address - base : address - base + len(data)] = data
    return bytes(image)


def build(
    output_dir: Path,
    *,
    architecture: str | None = None,
    guests: Iterable[str] | None = None,
    jobs: int = 2,
    report: Callable[[str], None] | None = None,
) -> list[Path]:
    """Build guests into ``output_dir/ARCHITECTURE`` and return the images made or found current.

    ``architecture`` is the one to build for (every one when None), ``guests`` names those to build
    (all when None), ``jobs`` bounds the compilers that run at once, and ``report`` is told one line
    for each file made. Raises :class:`BuildError`.
    """
    if architecture is not None and architecture not in ARCHITECTURES:
        msg = f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}"
        raise BuildError(msg)
    if find_spec("ziglang") is None:
        msg = f"no C compiler: {sys.executable} -m pip install ziglang==0.13.0.post1"
        raise BuildError(msg)
    names = guest_names() if guests is None else list(guests)
    unknown = sorted(set(names) - set(guest_names()))
    if unknown:
        msg = f"no such guest: {', '.join(unknown)}; there are {', '.join(guest_names())}"
        raise BuildError(msg)
    report = report or (lambda _line: None)
    compiler = _Compiler(output_dir.resolve() / ".cache")
    images = []
    for each in [architecture] if architecture else ARCHITECTURES:
        images += _Build(compiler, output_dir, each, jobs, report).run(names)
    return images


class _Compiler:
    """zig, which is clang and lld; what it keeps of its own is in ``cache``."""

    def __init__(self, cache: Path) -> None:
        self._environment = dict(
            os.environ, ZIG_GLOBAL_CACHE_DIR=str(cache), ZIG_LOCAL_CACHE_DIR=str(cache)
        )
        self.version = self.run("version").strip()

    def run(self, *arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "ziglang", *arguments],
            env=self._environment, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if result.returncode:
            raise BuildError(f"{result.stdout.strip()}\nfailed: zig {shlex.join(arguments)}")
        return result.stdout


class _Build:
    def __init__(
        self,
        compiler: _Compiler,
        output_dir: Path,
        architecture: str,
        jobs: int,
        report: Callable[[str], None],
    ) -> None:
        self._compiler = compiler
        self._architecture = architecture
        self._arch_dir = HERE / "arch" / architecture
        self._out = output_dir.resolve() / architecture
        self._jobs = jobs
        self._report = report
        self._flags = [
            *ARCHITECTURES[architecture], *COMMON_FLAGS,
            "-I", str(HERE / "common"), "-I", str(self._arch_dir),
        ]  # fmt: skip

    def run(self, names: Sequence[str]) -> list[Path]:
        self._out.mkdir(parents=True, exist_ok=True)
        self._discard_other_flags()
        shared = self._objects(self._arch_dir) + self._objects(HERE / "common")
        own = {name: self._objects(HERE / name) for name in names}
        every = shared + [item for items in own.values() for item in items]
        stale = [item for item in every if self._is_stale(item)]
        for item in stale:
            self._say(f"compile {item.source.relative_to(HERE)}")
        with ThreadPoolExecutor(self._jobs) as pool:
            list(pool.map(self._compile, stale))
        return [image for name in names for image in self._link(name, shared + own[name])]

    def _objects(self, directory: Path) -> list[Object]:
        found = sorted([*directory.glob("*.c"), *directory.glob("*.S")])
        place = self._out / "obj" / directory.name
        return [Object(source, place / f"{source.name}.o") for source in found]

    def _discard_other_flags(self) -> None:
        """Forget every object that other flags, or another compiler, made."""
        wanted = shlex.join([self._compiler.version, *self._flags, *LINK_FLAGS])
        stamp = self._out / "flags"
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        for path in [*self._out.glob("obj/*/*.o"), *self._out.glob("*.elf")]:
            path.unlink()
        stamp.write_text(wanted)

    def _is_stale(self, item: Object) -> bool:
        if not item.path.is_file() or not item.dependencies.is_file():
            return True
        made = item.path.stat().st_mtime_ns
        # "object: source header \ header": paths with blanks are escaped as in a shell.
        _, _, listed = item.dependencies.read_text().partition(": ")
        inputs = [item.source, *(Path(word) for word in shlex.split(listed.replace("\\\n", " ")))]
        return any(not path.is_file() or path.stat().st_mtime_ns > made for path in inputs)

    def _compile(self, item: Object) -> None:
        item.path.parent.mkdir(parents=True, exist_ok=True)
        self._compiler.run(
            "cc", *self._flags, "-MMD", "-MF", str(item.dependencies),
            "-c", str(item.source), "-o", str(item.path),
        )  # fmt: skip

    def _link(self, name: str, objects: Sequence[Object]) -> list[Path]:
        elf, image = self._out / f"{name}.elf", self._out / f"{name}.bin"
        script = HERE / "common" / "image.ld"
        inputs = [script, *(item.path for item in objects)]
        if not _is_newer(elf, inputs):
            self._say(f"link {name}")
            arguments = [*LINK_FLAGS, "-T", str(script), "-o", str(elf)]
            self._compiler.run("ld.lld", *arguments, *(str(item.path) for item in objects))
        if not _is_newer(image, [elf]):
            # Renamed when complete: half an image is never loaded.
            partial = image.with_suffix(".part")
            partial.write_bytes(flatten(elf.read_bytes()))
            partial.replace(image)
        return [elf, image]

    def _say(self, what: str) -> None:
        self._report(f"{self._architecture}: {what}")


def _is_newer(path: Path, inputs: Iterable[Path]) -> bool:
    """Whether the file exists and nothing it was made from is newer."""
    if not path.is_file():
        return False
    made = path.stat().st_mtime_ns
    return all(item.stat().st_mtime_ns <= made for item in inputs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line names; 0 if all went well."""
    parser = argparse.ArgumentParser(prog="guests", description="Build the guest images.")
    parser.add_argument("guests", nargs="*", metavar="GUEST", help="default: every guest")
    parser.add_argument("--output", type=Path, default=HERE / "build", metavar="DIRECTORY")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), help="default: every one")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    try:
        build(
            options.output,
            architecture=options.arch,
            guests=options.guests or None,
            jobs=options.jobs,
            report=print,
        )
    except BuildError as error:
        print(f"guests: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
