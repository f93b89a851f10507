"""The extensions; all else is in pyproject.toml."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from setuptools import Extension, setup

_TOP = Path(__file__).resolve().parent
_BUILDERS = (
    "hfsched/vcpu/kvm/build_core.py",
    "hfsched/swap/core/build_core.py",
    "hfsched/vhost/core/build_core.py",
)


def _extension(builder: str) -> Extension:
    """Load by file: importing the package would ask for what is only being installed."""
    spec = importlib.util.spec_from_file_location("build_core", _TOP / builder)
    if spec is None or spec.loader is None:
        raise ImportError(builder)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Extension = module.builder().distutils_extension("build/cffi")
    return made


setup(ext_modules=[_extension(each) for each in _BUILDERS])
