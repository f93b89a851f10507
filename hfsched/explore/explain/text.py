"""A story as text: lanes as columns, or a list if the terminal is too narrow."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.text import printable

if TYPE_CHECKING:
    from hfsched.explore.explain.story import Arrow, Step, Story

__all__ = ["draw"]

PITCH_MIN = 12  # columns from lane to lane; with fewer, the story becomes a list
BESIDE_MIN = 18  # columns for the watched values
_LINES = ("│", "─", "▶", "◀", "├", "┤", "●")
_ASCII = ("|", "-", ">", "<", "|", "|", "*")
_BOLD, _RED, _DIM, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


def draw(story: Story, width: int, *, color: bool = False, ascii_only: bool = False) -> str:
    """Return the story for a terminal of `width` columns, lines ended by newlines.

    `color` adds ANSI codes; with `ascii_only` all text is ASCII, the scenario's too.
    """
    width = max(width, 20)
    renderer = _Renderer(story, width, color=color, lines=_ASCII if ascii_only else _LINES)
    body = renderer.listed() if renderer.pitch < PITCH_MIN else renderer.columns()
    lines = [*renderer.head(), "", *body, "", *renderer.foot()]
    text = "".join(line.rstrip() + "\n" for line in lines)
    return text.encode("ascii", "replace").decode() if ascii_only else text


@dataclass
class _Renderer:
    story: Story
    width: int
    color: bool
    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        lanes = max(len(self.story.lanes), 1)
        last = max((step.index for step in self.story.steps), default=1)
        self.digits = max(3, len(str(last)))
        self.margin = self.digits + 2  # columns for a step's number and mark
        longest = max((len(printable(lane)) for lane in self.story.lanes), default=0)
        beside = BESIDE_MIN if self.story.columns else 0
        self.pitch = min((self.width - self.margin - beside) // lanes, max(20, longest + 2))
        if longest + 1 > self.pitch:
            self.pitch = 0
        self.area = self.pitch * lanes  # columns of all lanes
        self.center = {lane: i * self.pitch + 3 for i, lane in enumerate(self.story.lanes)}

    # Around.

    def head(self) -> list[str]:
        story = self.story
        lines = self._wrap(printable(story.title), "", self._bold)
        how = f"{len(story.steps)} steps of {story.points} points, preemptions: "
        lines += self._wrap(how + str(story.preemptions), "")
        if story.token:
            lines.append(
                f"reproduce: hfsched fuzz replay {printable(story.token)}"
            )  # to be copied: one line
        return lines

    def foot(self) -> list[str]:
        story = self.story
        if story.failure is None:
            return ["No failure."]
        lines = []
        for part in f"FAILED: {story.failure}".splitlines():
            lines += self._wrap(printable(part), "    ", self._red)
        for step in story.steps:
            if step.marked:
                lines += self._wrap(f"Point of failure: step {step.index}: {step.marked}.", "    ")
        return lines + [printable(line) for line in story.detail.splitlines()]

    # Lanes as columns.

    def columns(self) -> Iterator[str]:
        title = " " * self.margin
        for lane in self.story.lanes:
            title += printable(lane).ljust(self.pitch)
        yield self._bold(title + ("beside" if self.story.columns else ""))
        for step in self.story.steps:
            if step.preemption:
                yield self._note(printable(step.preemption))
            yield from self._step(step)
            if step.marked:
                yield self._red(self._note(f"^ {step.marked}", mark=True))

    def _step(self, step: Step) -> Iterator[str]:
        beside = self._beside(step)
        rows = self._arrow(step.arrow) if step.arrow is not None else self._text_rows(step)
        number = f"{'>' if step.marked else ' '}{step.index:>{self.digits}} "
        for index in range(max(len(rows), len(beside))):
            left = rows[index] if index < len(rows) else self._lifelines()
            right = beside[index] if index < len(beside) else ""
            line = f"{number if index == 0 else ' ' * self.margin}{left:<{self.area}}"
            yield (self._red(line) if step.marked else line) + self._dim(right)

    def _beside(self, step: Step) -> list[str]:
        available = self.width - self.margin - self.area - 1
        lines = []
        for name in step.changed:
            lines += textwrap.wrap(printable(f"{name}: {step.state[name]}"), max(available, 8))
        return lines

    def _lifelines(self) -> str:
        """Return the lanes' lines alone."""
        row = [" "] * self.area
        for place in self.center.values():
            row[place] = self.lines[0]
        return "".join(row)

    def _overlay(self, text: str, start: int) -> str:
        """Return the lanes' lines with a text over them."""
        row = self._lifelines()
        return row[:start] + text + row[start + len(text) :]

    def _text_rows(self, step: Step) -> list[str]:
        text = printable(step.text)
        if not step.lane:
            return [self._overlay(part, 0) for part in textwrap.wrap(text, self.area - 1)]
        start = self.center[step.lane]
        available = self.area - start - 3
        if available < min(len(text), self.pitch):  # the last lane: the text is to its left
            start = max(0, start - min(len(text), self.area // 2) - 1)
            parts = textwrap.wrap(text, max(self.center[step.lane] - start - 1, 8))
            dot = self.center[step.lane]
            rows = [self._overlay(part + " ", start) for part in parts]
            return [rows[0][:dot] + self.lines[6] + rows[0][dot + 1 :], *rows[1:]]
        parts = textwrap.wrap(text, max(available, 8)) or [""]
        first = self._overlay(f"{self.lines[6]} {parts[0]} ", start)[: self.area]
        return [first, *(self._overlay(f"{part} ", start + 2) for part in parts[1:])]

    def _arrow(self, arrow: Arrow) -> list[str]:
        source, target = self.center[arrow.source], self.center[arrow.target]
        low, high = min(source, target), max(source, target)
        label = printable(arrow.label)
        line, right, left = self.lines[1], self.lines[2], self.lines[3]
        inner = high - low - 1
        if len(label) + 4 <= inner:
            middle = f"{line} {label} ".ljust(inner, line)
            above = []
        else:
            middle = line * inner
            available = self.area - low - 3
            parts = textwrap.wrap(label, max(available, 8))
            above = [self._overlay(f"{part} ", low + 2)[: self.area] for part in parts]
        ends = (
            self.lines[4] + middle[:-1] + right
            if source < target
            else left + middle[1:] + self.lines[5]
        )
        start = low if source < target else low + 1
        return [*above, self._overlay(ends, start)]

    def _note(self, text: str, *, mark: bool = False) -> str:
        dash = " " if mark else self.lines[1]
        return f"{' ' * self.margin}{dash * 2} {text} ".ljust(
            min(self.width, self.margin + self.area) - 1, dash
        )

    # A list.

    def listed(self) -> Iterator[str]:
        for step in self.story.steps:
            if step.preemption:
                yield from self._wrap(f"     -- {printable(step.preemption)}", "        ")
            actor = step.lane
            if step.arrow is not None:
                actor = f"{step.arrow.source} -> {step.arrow.target}"
            text = (
                f"{printable(actor)}: {printable(step.description)}"
                if actor
                else printable(step.text)
            )
            number = f"{'>' if step.marked else ' '}{step.index:>{self.digits}} "
            color = self._red if step.marked else None
            yield from self._wrap(number + text, " " * self.margin, color)
            for name in step.changed:
                line = f"{' ' * self.margin}[{printable(name)}: {printable(step.state[name])}]"
                yield from self._wrap(line, " " * self.margin, self._dim)
            if step.marked:
                yield from self._wrap(f"     ^ {step.marked}", "       ", self._red)

    # Colours and lines.

    def _wrap(self, text: str, indent: str, style: object = None) -> list[str]:
        lead = text[: len(text) - len(text.lstrip(" "))]
        lines = textwrap.wrap(
            text.lstrip(" "), self.width, initial_indent=lead, subsequent_indent=indent
        ) or [""]
        return [style(line) for line in lines] if callable(style) else lines

    def _styled(self, code: str, text: str) -> str:
        return f"{code}{text}{_PLAIN}" if self.color and text.strip() else text

    def _bold(self, text: str) -> str:
        return self._styled(_BOLD, text)

    def _red(self, text: str) -> str:
        return self._styled(_RED, text)

    def _dim(self, text: str) -> str:
        return self._styled(_DIM, text)
