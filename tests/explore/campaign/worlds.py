"""Scenarios for campaigns, by spec: worker processes find them where this process does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World

__all__ = ["CLEAN", "HERE", "UPSTREAM", "Dice", "Fresh", "mortal"]

CLEAN = "mailbox"
UPSTREAM = "mailbox+upstream"
HERE = "campaign.worlds"

touched = False  # a test sets it in its own process: a fork would have it too

# A file of its own, as a user has it.  `boss` is the process that lives; another that comes to its
# execution number `at` ends, until `deaths` have.  With `exact`, its race is a failure.
MORTAL = """
import os
import signal
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hfsched.explore import World

EXECUTIONS = count(1)
DEATHS = Path(__file__).with_suffix(".deaths")


@dataclass
class Mortal:
    boss: int = 0
    how: str = "SIGKILL"
    at: int = 1
    deaths: int = 1000
    exact: int = 0

    def build(self, runtime):
        cell = runtime.cell("n", 0)

        def add():
            cell.set(cell.get() + 1)
            cell.set(cell.get() + 1)

        runtime.spawn("a", add)
        runtime.spawn("b", add)
        if os.getpid() != self.boss and next(EXECUTIONS) == self.at:
            self.die()

        def check():
            assert not self.exact or cell.get() == 4, "an update is lost"

        return World(check, final=cell.get)

    def die(self):
        os.write(2, f"{os.getpid()}\\n".encode())
        with DEATHS.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if len(DEATHS.read_text().split()) > self.deaths:
            return
        while self.how == "stuck":
            pass
        if self.how.isdigit():
            os._exit(int(self.how))
        os.kill(os.getpid(), signal.Signals[self.how])
"""


def mortal(folder: Path, **parameters: int | str) -> str:
    """Write the scenario's file; return its spec."""
    file = folder / "mortal.py"
    file.write_text(MORTAL)
    return ",".join(
        [f"{file}::Mortal,boss={os.getpid()}", *(f"{k}={v}" for k, v in parameters.items())]
    )


def deaths(folder: Path) -> int:
    """Return how many processes have come to their end."""
    return len((folder / "mortal.deaths").read_text().split())


@dataclass
class Dice:
    """Tasks that draw: branches of many lengths, one of which ends at once."""

    sides: int = 3

    def build(self, runtime: ExploreRuntime) -> World:
        drawn = runtime.cell("drawn", "")

        def draw(name: str) -> None:
            for _ in range(runtime.choose(name, self.sides)):
                drawn.set(drawn.get() + name)

        if runtime.choose("play", 2):
            runtime.spawn("a", lambda: draw("a"))
            runtime.spawn("b", lambda: draw("b"))
        return World(final=drawn.get)


@dataclass
class Fresh:
    """It fails where this module was changed after its import, and so in a fork."""

    def build(self, runtime: ExploreRuntime) -> World:
        runtime.spawn("a", lambda: None)
        runtime.spawn("b", lambda: None)

        def check() -> None:
            assert not touched, "this process is a fork"

        return World(check)
