"""A story as one self-contained HTML page: no script, no font, no other file.

All text from a scenario or a guest is escaped, and the page's content security policy (CSP) allows
only its style sheet, by digest.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from itertools import product
from typing import TYPE_CHECKING

from hfsched.text import printable

if TYPE_CHECKING:
    from hfsched.explore.explain.story import Step, Story

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2127; --soft: #5c6773;
  --line: #c9d1d9; --faint: #f4f6f8; --arrow: #1f5fbf; --bad: #b3261e; --bad-paper: #fdecea;
  --switch: #8a5a00; --switch-paper: #fff6df; --new: #0b6b3a; --new-paper: #e3f5ea; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e3e8ee;
  --soft: #98a4b0; --line: #39424c; --faint: #1d232a; --arrow: #7fb0ff; --bad: #ff8a80;
  --bad-paper: #3a1b1a; --switch: #f0c060; --switch-paper: #332a14; --new: #7fd8a4;
  --new-paper: #16301f; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem 2rem 3rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 .4rem; }
h1, p, .failure, .again, .detail { max-width: 60rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; color: var(--soft); }
a { color: inherit; }
code, pre, .what, .state, .beside { font-family: ui-monospace, "DejaVu Sans Mono", monospace;
  font-size: .85rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
.failure { border-left: 4px solid var(--bad); background: var(--bad-paper); padding: .6rem .9rem;
  margin: .8rem 0; }
.failure { white-space: pre-line; }
.failure strong { color: var(--bad); }
.good { border-color: var(--new); background: var(--new-paper); }
.again { background: var(--faint); padding: .6rem .9rem; margin: .8rem 0; }
.detail { margin: .8rem 0; }
table { border-collapse: separate; border-spacing: 0; margin-top: 1.2rem; min-width: 100%; }
thead th { position: sticky; top: 0; z-index: 2; background: var(--paper); text-align: left;
  vertical-align: bottom; padding: .5rem .6rem; border-bottom: 2px solid var(--line);
  font-weight: 600; }
thead th.lanes { padding: .5rem 0; }
th.beside { min-width: 5rem; max-width: 11rem; color: var(--soft); }
td { padding: .3rem .6rem; border-bottom: 1px solid var(--faint); vertical-align: middle; }
td.number { text-align: right; color: var(--soft); font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td.lanes { padding: 0; height: 1px; }
td.state { color: var(--soft); max-width: 11rem; overflow-wrap: break-word; }
td.changed { color: var(--new); background: var(--new-paper); font-weight: 600; }
.grid { display: grid; contain: inline-size; align-items: center; align-content: center; height: 100%;
  padding: .3rem 0; background-size: var(--pitch) 100%;
  background-image: linear-gradient(to right, transparent calc(50% - 1px), var(--line) 0,
    var(--line) calc(50% + 1px), transparent 0); }
.names { background: none; padding: 0; text-align: center; }
.what { justify-self: center; text-align: center; background: var(--paper); padding: 0 .4rem;
  overflow-wrap: anywhere; max-width: 100%; grid-row: 1; }
.act { border: 1px solid var(--line); border-radius: 4px; background: var(--faint);
  padding: .15rem .5rem; max-width: calc(100% - .6rem); }
.all { font-weight: 600; }
.shaft { grid-row: 2; height: 2px; background: var(--arrow); position: relative;
  margin-top: .3rem; margin-bottom: .35rem; }
.shaft::after { content: ""; position: absolute; top: -4px; border: 5px solid transparent; }
.right::after { right: -1px; border-left: 9px solid var(--arrow); border-right: 0; }
.left::after { left: -1px; border-right: 9px solid var(--arrow); border-left: 0; }
tr.switch td { background: var(--switch-paper); color: var(--switch); font-size: .85rem;
  border: 0; padding: .2rem .6rem; }
tr.wrong > td { background: var(--bad-paper); border-top: 2px solid var(--bad);
  border-bottom: 2px solid var(--bad); }
tr.wrong > td:first-child { border-left: 4px solid var(--bad); }
tr.wrong .number, tr.wrong .why { color: var(--bad); font-weight: 600; }
tr.wrong .what { background: var(--bad-paper); }
tr.wrong .act { border-color: var(--bad); }
.why { grid-column: 1 / -1; grid-row: 3; text-align: center; background: var(--bad-paper);
  padding: .15rem .5rem; justify-self: center; }
tr:target > td { outline: 1px solid var(--bad); }
@media print { thead th { position: static; } }
"""
LANE = 11  # rem, the least width of a lane


def page(story: Story) -> str:
    """Return the page; write it as UTF-8."""
    style = _STYLE + _columns(max(len(story.lanes), 1))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{_text(story.title)}</title>",
        f"<style>{style}</style></head><body>",
        *_head(story),
        "<table>",
        *_names(story),
        "<tbody>",
        *(line for step in story.steps for line in _step(story, step)),
        "</tbody></table></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _text(text: str, *, lines: bool = False) -> str:
    return escape(printable(text, keep="\n" if lines else ""))


def _columns(lanes: int) -> str:
    """Return the style of every position in the lanes."""
    lines = [
        f".grid {{ --pitch: {100 / lanes:.4f}%; min-width: {lanes * LANE}rem; }}",
        f".grid {{ grid-template-columns: repeat({lanes}, minmax(0, 1fr)); }}",
    ]
    lines += [
        f".at-{low}-{high} {{ grid-column: {low + 1} / {high + 2}; }}"
        for low, high in product(range(lanes), repeat=2)
        if low <= high
    ]
    # From the middle of the first lane to the middle of the last.
    lines += [
        f".span-{span} {{ margin-left: {50 / span:.4f}%; margin-right: {50 / span:.4f}%; }}"
        for span in range(2, lanes + 1)
    ]
    return "\n".join(lines) + "\n"


def _head(story: Story) -> list[str]:
    lines = [f"<h1>{_text(story.title)}</h1>"]
    count = f"{len(story.steps)} steps of {story.points} points; preemptions: {story.preemptions}"
    lines.append(f"<p>{count}. Steps without visible effect are hidden.</p>")
    if story.failure is None:
        lines.append('<div class="failure good"><strong>No failure.</strong></div>')
    else:
        where = "".join(
            f'<br>Point of failure: <a href="#step-{step.index}">step {step.index}</a>: '
            f"{_text(step.marked)}."
            for step in story.steps
            if step.marked
        )
        lines.append(
            f'<div class="failure"><strong>Failed:</strong> {_text(story.failure, lines=True)}{where}</div>'
        )
    if story.token:
        token = _text(story.token)
        lines.append(
            f'<div class="again"><p>Token <code>{token}</code>; to repeat the schedule, and to find one '
            f"with fewer preemptions:</p><pre>hfsched fuzz replay {token}\n"
            f"hfsched fuzz shrink {token}</pre></div>"
        )
    if story.detail:
        lines.append(
            '<details class="detail"><summary>Traceback</summary>'
            f"<pre>{_text(story.detail, lines=True)}</pre></details>"
        )
    return lines


def _names(story: Story) -> list[str]:
    lanes = "".join(
        f'<span class="at-{place}-{place}">{_text(lane)}</span>'
        for place, lane in enumerate(story.lanes)
    )
    beside = "".join(f'<th class="beside">{_text(name)}</th>' for name in story.columns)
    head = f'<div class="grid names">{lanes}</div>'
    return [f'<thead><tr><th>#</th><th class="lanes">{head}</th>{beside}</tr></thead>']


def _step(story: Story, step: Step) -> list[str]:
    lines = []
    if step.preemption:
        width = 2 + len(story.columns)
        lines.append(f'<tr class="switch"><td colspan="{width}">{_text(step.preemption)}</td></tr>')
    kind = "step wrong" if step.marked else "step"
    why = f'<span class="why">{_text(step.marked)}</span>' if step.marked else ""
    state = "".join(
        f'<td class="state{" changed" if name in step.changed else ""}">'
        f"{_text(step.state[name])}</td>"
        for name in story.columns
    )
    lines.append(
        f'<tr class="{kind}" id="step-{step.index}"><td class="number">{step.index}</td>'
        f'<td class="lanes"><div class="grid">{_scene(story, step)}{why}</div></td>{state}</tr>'
    )
    return lines


def _scene(story: Story, step: Step) -> str:
    """Return the part of a step that is in the lanes."""
    if step.arrow is not None:
        source = story.lanes.index(step.arrow.source)
        target = story.lanes.index(step.arrow.target)
        low, high = min(source, target), max(source, target)
        way = "right" if source < target else "left"
        place = f"at-{low}-{high}"
        return (
            f'<span class="what {place}">{_text(step.arrow.label)}</span>'
            f'<span class="shaft {way} {place} span-{high - low + 1}"></span>'
        )
    if not step.lane:
        return f'<span class="what all at-0-{len(story.lanes) - 1}">{_text(step.text)}</span>'
    at = story.lanes.index(step.lane)
    return f'<span class="what act at-{at}-{at}">{_text(step.text)}</span>'
