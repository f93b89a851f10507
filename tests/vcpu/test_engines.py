"""The table of engines."""

from __future__ import annotations

from typing import get_args

import pytest

from hfsched.errors import UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engines import ENGINES, EngineId
from hfsched.vmm.manifest import EngineName


def test_the_names_that_a_manifest_may_have_are_those_of_the_table() -> None:
    assert (*ENGINES,) == get_args(EngineId)
    assert get_args(EngineName) == ("auto", *ENGINES)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_the_name_that_it_is_made_by(name: EngineId) -> None:
    try:
        engine = ENGINES[name](ThreadRuntime())
    except UserError as error:
        pytest.skip(f"engine {name}: {error}")
    assert engine.name == name
    engine.close()
