"""The requests that set up a monitor before it serves, and the text of an answer that refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hfsched.swap.client.member import RegisteredMember
from hfsched.swap.core.resources import Resources
from hfsched.swap.protocol.messages import (
    RESOURCES_MAX,
    Begin,
    Failed,
    Give,
    Hold,
    MonitorAnswer,
    MonitorRequest,
    Refused,
)

__all__ = ["SetupStep", "refusal", "setup_steps"]


@dataclass(frozen=True, slots=True)
class SetupStep:
    """A request and its descriptors."""

    request: MonitorRequest
    fds: Sequence[int] = ()


def setup_steps(
    resources: Resources,
    members: Sequence[RegisteredMember],
    *,
    fresh: bool,
    held: bool = False,
) -> list[SetupStep]:
    """Return what a new monitor is asked for: to begin with the resources, and to serve the members.

    `fresh`: it is the first one; `held`: moves wait.
    """
    steps = []
    words, fds = resources.words, resources.fds
    while len(words) > RESOURCES_MAX:
        steps.append(SetupStep(Give(resources=words[:RESOURCES_MAX]), fds[:RESOURCES_MAX]))
        words, fds = words[RESOURCES_MAX:], fds[RESOURCES_MAX:]
    steps.append(SetupStep(Begin(fresh=fresh, resources=words), fds))
    steps += [SetupStep(known.request(), known.member.descriptors()) for known in members]
    if held:
        steps.append(SetupStep(Hold()))
    return steps


def refusal(answer: MonitorAnswer) -> str:
    """Return the text of an answer that is not the expected one."""
    return answer.text if isinstance(answer, Refused | Failed) else f"unexpected answer: {answer}"
