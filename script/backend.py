"""The build backend: setuptools, and wheels that carry the guest images.

A wheel is built with the compiler of the PyPI package *ziglang* (an editable install is not: there
`script/guests` builds into the source tree).
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - a backend is its module's functions

_TOP = Path(__file__).resolve().parent.parent
_IMAGES = _TOP / "hfsched" / "_guests"


def _compiler() -> list[str]:
    project = tomllib.loads((_TOP / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"]["guests"])


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Add the guests' compiler to what setuptools wants."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiler()]


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build the guests into the package, then the wheel."""
    sys.path.insert(0, str(_TOP / "guests"))
    import build as guests  # noqa: PLC0415 - from the folder just named

    shutil.rmtree(_IMAGES, ignore_errors=True)
    try:
        built = _TOP / "guests" / "build"
        guests.build(built)
        for image in sorted(built.glob("*/*.bin")) + sorted(built.glob("*/*.elf")):
            target = _IMAGES / image.parent.name / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, target)
        headers = _IMAGES / "include"  # what a guest of one's own needs; see `guest_includes`
        headers.mkdir()
        for name in ("hypercalls.h", "services.h", "services.c"):
            shutil.copyfile(_TOP / "guests" / "common" / name, headers / name)
        for folder in sorted((_TOP / "guests" / "arch").iterdir()):
            (headers / folder.name).mkdir()
            shutil.copyfile(folder / "arch.h", headers / folder.name / "arch.h")
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    finally:
        shutil.rmtree(_IMAGES, ignore_errors=True)
