"""The generations of the ABI that a VM may speak, by name."""

from __future__ import annotations

from collections.abc import Mapping

from hfsched.abi.dialect import Dialect
from hfsched.abi.ffa_1_0 import FFA_1_0

__all__ = ["DEFAULT", "DIALECTS"]

DEFAULT: Dialect = FFA_1_0

DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (FFA_1_0,)}
