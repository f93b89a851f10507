"""The extensions; all else is in pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup

# By file: importing the package would ask for what is only being installed.
sys.path.insert(0, str(Path(__file__).resolve().parent / "hfsched" / "vcpu" / "kvm"))
import build_core

setup(ext_modules=[build_core.builder().distutils_extension("build/cffi")])
