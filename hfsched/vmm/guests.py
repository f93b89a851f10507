"""What a VM boots: an image file, a bundled image, or a script guest."""

from __future__ import annotations

import importlib
import importlib.util
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from hfsched.errors import ConfigError, ImageError, UserError, describe, place_of
from hfsched.memory.image import (
    NOTHING_KNOWN,
    boot_problem,
    raw_image,
    read_bytes,
    read_head,
    read_image,
)
from hfsched.memory.imagetypes import Image
from hfsched.text import nearest
from hfsched.vcpu.kvm import device
from hfsched.vmm.manifest_text import is_manifest

if TYPE_CHECKING:
    from hfsched.vcpu.script import Program

__all__ = [
    "RAW_HINT",
    "GuestCode",
    "bundled_images",
    "find_image",
    "guest_includes",
    "manifest_refusal",
    "raw_hint",
    "resolve",
]

RAW_HINT = 'to boot it as it is, from its first byte: --raw-image (manifest: format = "raw")'
ARCHITECTURES = ("aarch64", "x86_64")
_OTHER_NAMES = {
    **dict.fromkeys(("arm64", "armv8", "arm"), "aarch64"),
    **dict.fromkeys(("amd64", "x86-64", "x64", "x86"), "x86_64"),
}


class GuestCode(Struct, frozen=True):
    """Either an `image` for a CPU or a `program` for the engine script."""

    image: Image | None
    program: Program | None

    @property
    def machine(self) -> str:
        """The architecture: "aarch64", "x86_64" or "script"."""
        return "script" if self.image is None else self.image.machine


def _folders() -> list[Path]:
    """Return where bundled images are: in the installed package, or built in the source tree."""
    package = Path(__file__).resolve().parent.parent
    return [package / "_guests", package.parent / "guests" / "build"]


def bundled_images(engine: str = "auto") -> dict[str, Path]:
    """Return the bundled images as ``ARCHITECTURE/FILE``, and as ``FILE`` the one for an engine."""
    found: dict[str, Path] = {}
    first = device.MACHINE if engine == "kvm" else ARCHITECTURES[0]
    for architecture in sorted(ARCHITECTURES, key=lambda name: name != first):
        for folder in _folders():
            for suffix in ("bin", "elf"):
                for path in sorted((folder / architecture).glob(f"*.{suffix}")):
                    found.setdefault(path.name, path)
                    found.setdefault(f"{architecture}/{path.name}", path)
    return found


def guest_includes(architecture: str) -> list[Path]:
    """Return the folders of ``hypercalls.h`` and ``services.h``, which C guests include, for "aarch64" or "x86_64".

    Raises UserError for another architecture.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{architecture!r} is no architecture of guests: {', '.join(ARCHITECTURES)}"
        )
    package = Path(__file__).resolve().parent.parent
    installed, source = package / "_guests" / "include", package.parent / "guests"
    if installed.is_dir():
        return [installed, installed / architecture]
    return [source / "common", source / "arch" / architecture]


def resolve(vm: str, image: str, engine: str, *, raw: bool = False) -> GuestCode:
    """Find and read what VM `vm` boots.

    With the engine script, or when it names Python: ``FILE.py[:FUNCTION]``, ``MODULE:FUNCTION`` or
    a bundled program's name.  Else a file, or a name of `bundled_images`; with `raw` any file as it is,
    for arm64, or with the engine kvm for the host's architecture.  Raises ImageError or ConfigError, in
    one line.
    """
    if raw:
        return GuestCode(_raw(vm, image, engine), None)
    path, _, function = image.partition(":")
    if engine == "script" or path.endswith(".py") or (function and not os.path.exists(image)):
        return GuestCode(None, _program(vm, image, path, function))
    found = _find(vm, image, engine)
    try:
        parsed = read_image(found)
    except ImageError as exc:
        if str(exc).endswith(": text") and is_manifest(read_head(found)[0]):
            raise ImageError(f"vm {vm}: {image}: {manifest_refusal(image)}") from None
        hint = ": give it with --fdt" if "device tree" in str(exc) else raw_hint(str(exc))
        raise ImageError(f"vm {vm}: {str(exc).removeprefix(f'vm {vm}: ')}{hint}") from None
    problem = boot_problem(parsed)
    if problem is not None:
        raise ImageError(f"vm {vm}: {image} would not boot: {problem}")
    return GuestCode(parsed, None)


def manifest_refusal(path: str) -> str:
    """Return what to say of a manifest in the place of an image."""
    return f"a machine's manifest, not an image: hfsched run {path}"


def raw_hint(refusal: str) -> str:
    """Return what to add to the refusal of a file that may be an image without a header."""
    return f"; {RAW_HINT}" if NOTHING_KNOWN in refusal else ""


def _raw(vm: str, image: str, engine: str) -> Image:
    if engine == "script":
        raise ConfigError(f"vm {vm}: engine script cannot run a raw image: use unicorn")
    path = _find(vm, image, engine)
    try:
        return raw_image(image, read_bytes(path), device.MACHINE if engine == "kvm" else "aarch64")
    except ImageError as exc:
        raise ImageError(f"vm {vm}: {exc}") from None


def _find(vm: str, image: str, engine: str) -> Path:
    try:
        return find_image(image, engine)
    except ImageError as exc:
        raise ImageError(f"vm {vm}: {exc}") from None


def find_image(image: str, engine: str = "auto") -> Path:
    """Return the file of an image, which may be a bundled one; raises ImageError, also with what is meant.

    A path with a folder is returned as it is: reading it says why it cannot be read.
    """
    path = Path(image)
    if os.path.exists(path):
        return path
    bundled = bundled_images(engine)
    if image in bundled:
        return bundled[image]
    if len(path.parts) != 1 and path.parts[0] not in ARCHITECTURES:
        known = _OTHER_NAMES.get(path.parts[0].lower())
        if known is not None and f"{known}/{Path(*path.parts[1:])}" in bundled:
            meant = f"{known}/{path.name}"
            raise ImageError(f"image {image}: no such file: did you mean {meant!r}?")
        return path
    names = [name for name in bundled if name.endswith(".bin") and "/" not in name]
    known = "the bundled ones are not built: script/guests does"
    if names:
        known = f"bundled: {', '.join(names)}, each also as {' and '.join(f'{a}/...' for a in ARCHITECTURES)}"
    stems = {Path(name).stem: name for name in names}  # ".bin" alone makes no name like another
    near = nearest(path.stem, stems)
    close = "" if near is None else f": did you mean {stems[near]!r}?"
    raise ImageError(f"image {image}: no such file, and no bundled guest ({known}){close}")


def _program(vm: str, image: str, path: str, function: str) -> Program:
    from hfsched.programs.bundled import PROGRAMS as BASIC  # noqa: PLC0415 - only these guests need it
    from hfsched.services.program import utility  # noqa: PLC0415 - likewise

    programs = {**BASIC, "utility": utility}
    if image in programs:
        return programs[image]
    if not path.endswith(".py"):
        _refuse_image(vm, image, path, function)
    try:
        if path.endswith(".py"):
            read_bytes(path)  # refuses what is no regular file, which an import would wait for
            spec = importlib.util.spec_from_file_location(Path(path).stem, path)
            if spec is None or spec.loader is None:
                raise ImportError(f"{path} cannot be loaded")
            module: Any = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        elif function:
            module = importlib.import_module(path)
        else:
            known = ", ".join(programs)
            raise ImportError(f"no bundled program: there are {known}; yours is FILE.py:FUNCTION")
    except ImageError as exc:
        raise ConfigError(f"vm {vm}: script guest {exc}") from None
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"vm {vm}: script guest {image}: {_not_found(exc, path, function)}"
        ) from exc
    except (Exception, SystemExit, KeyboardInterrupt) as exc:  # the user's code may raise anything
        raise ConfigError(f"vm {vm}: script guest {image}: {_raised(exc)}") from exc
    program = getattr(module, function or "guest", None)
    if not callable(program):
        raise ConfigError(f"vm {vm}: script guest {image}: no function {function or 'guest'!r}")
    return program  # type: ignore[no-any-return]


def _not_found(error: ModuleNotFoundError, path: str, function: str) -> str:
    """Return what to say of a module that is not there: the guest's own, or one that it imports."""
    if path.endswith(".py") or error.name is None or not f"{path}.".startswith(f"{error.name}."):
        return _raised(error)
    file = f"{path.replace('.', '/')}.py"
    if os.path.isfile(file):  # noqa: PTH113 - False where Path raises
        return f"no module {path!r} on Python's path: for the file write {file}:{function}"
    return f"no module {error.name!r}: write FILE.py:{function}, or put its folder in PYTHONPATH"


def _raised(error: BaseException) -> str:
    if os.environ.get("HFSCHED_TRACEBACK"):
        traceback.print_exception(error)
    # A SyntaxError has its place.
    return describe(error) + ("" if isinstance(error, SyntaxError) else place_of(error))


def _refuse_image(vm: str, image: str, path: str, function: str) -> None:
    """Refuse an image in the place of a Python guest, and a colon in the place of "="."""
    bundled = bundled_images()
    if function in bundled or os.path.isfile(function):  # noqa: PTH113 - False where Path raises
        raise ConfigError(f"vm {vm}: {image}: a VM's name ends with '=': write {path}={function}")
    if image in bundled or os.path.isfile(image):  # noqa: PTH113 - likewise
        raise ConfigError(
            f"vm {vm}: {image}: not a Python guest, which the engine script runs:"
            " leave --engine out, or name a FILE.py:FUNCTION"
        )
