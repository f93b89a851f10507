"""Where guest memory is, as a self-contained drawing (SVG), in light and in dark colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hfsched.swap.report.picture import KINDS, size

__all__ = ["svg"]

_PAGE = 4096
_MARGIN = 16  # pixels
_LINE = 18
_CHARACTER = 8  # an upper estimate: the font is not known
_LABEL = 72  # a row's offset
_KIND = 110  # a kind in the legend
_MANY = 4096  # cells; from there on they are drawn smaller
_UNKNOWN = "?"
_NAMES = {
    ".": "resident",
    "s": "staged",
    "w": "busy",
    "F": "file",
    "C": "compressed",
    "0": "zero",
    "L": "stored",
    "-": "empty",
    _UNKNOWN: "unknown",
}
_STYLE = """\
  svg { background: #ffffff; }
  .paper { fill: #ffffff; }
  text { fill: #1f2328; font: 13px system-ui, sans-serif; }
  .line { font-family: ui-monospace, monospace; white-space: pre; }
  .title { font-weight: 600; }
  .offset { fill: #57606a; font-size: 11px; text-anchor: end; }
  .resident { fill: #a3adb8; }
  .staged { fill: #e69f00; }
  .busy { fill: #c2410c; }
  .file { fill: #0b5cad; }
  .compressed { fill: #12a594; }
  .zero { fill: none; stroke: #6e7781; stroke-width: 1; }
  .stored { fill: #8250df; }
  .empty { fill: none; stroke: #8c959f; stroke-width: 1; }
  .unknown { fill: #cf222e; }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; }
    .paper { fill: #0d1117; }
    text { fill: #e6edf3; }
    .offset { fill: #9198a1; }
    .resident { fill: #57606a; }
    .staged { fill: #f2b84b; }
    .busy { fill: #f0703c; }
    .file { fill: #4c9aff; }
    .compressed { fill: #56d8c4; }
    .zero { stroke: #9198a1; }
    .stored { fill: #a371f7; }
    .empty { stroke: #6e7681; }
    .unknown { fill: #ff7b72; }
  }
"""


def svg(title: str, lines: Sequence[str], pictures: Mapping[str, str], cell: int) -> str:
    """Return the drawing of pictures (`hfsched.swap.report.picture`) whose cells have `cell` pages.

    `title` and `lines` are written above them.
    """
    many = any(len(picture) > _MANY for picture in pictures.values())
    columns, pitch = (128, 8) if many else (64, 12)
    top = _MARGIN + _LINE
    made = [_text(_MARGIN, top, title, "title")]
    for line in lines:
        top += _LINE
        made.append(_text(_MARGIN, top, line, "line"))
    top += 2 * _LINE
    made += _legend(top, any(_UNKNOWN in picture for picture in pictures.values()))
    for name, picture in pictures.items():
        top += 2 * _LINE
        made.append(_text(_MARGIN, top, f"{name}, {size(cell * _PAGE)} a cell", "title"))
        top += _LINE // 2
        made += _cells(picture, cell, top, columns, pitch)
        top += -(-len(picture) // columns) * pitch
    widest = max(len(line) for line in ("", *lines)) * _CHARACTER
    width = max(_LABEL + columns * pitch, widest, len(KINDS) * _KIND) + 2 * _MARGIN
    height = top + _MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img">'
    )
    paper = f'<rect class="paper" width="{width}" height="{height}"/>'
    titled = f"<title>{_escape(title)}</title>"
    return "\n".join([head, titled, f"<style>\n{_STYLE}</style>", paper, *made, "</svg>\n"])


def _legend(top: int, unknown: bool) -> list[str]:  # noqa: FBT001
    kinds = KINDS | ({_UNKNOWN: "unknown"} if unknown else {})
    made, left = [], _MARGIN
    for kind, what in kinds.items():
        made.append(f'<path class="{_NAMES[kind]}" d="{_square(kind, left, top - 11, 12)}"/>')
        made.append(_text(left + 18, top, what))
        left += _KIND
    return made


def _cells(picture: str, cell: int, top: int, columns: int, pitch: int) -> list[str]:
    """Return a path for each kind of cell, and at every eighth row its offset in the memory."""
    made = []
    left = _MARGIN + _LABEL
    for kind, name in _NAMES.items():
        places = [place for place, found in enumerate(picture) if _known(found) == kind]
        if not places:
            continue
        squares = (
            _square(kind, left + place % columns * pitch, top + place // columns * pitch, pitch)
            for place in places
        )
        label = f"{KINDS.get(kind, 'unknown')}: {len(places)} of {len(picture)}"
        made.append(f'<path class="{name}" d="{"".join(squares)}"><title>{label}</title></path>')
    for row in range(0, -(-len(picture) // columns), 8):
        offset = size(row * columns * cell * _PAGE)
        made.append(_text(left - 8, top + row * pitch + 10, offset, "offset"))
    return made


def _known(kind: str) -> str:
    return kind if kind in KINDS else _UNKNOWN


def _square(kind: str, left: int, top: int, pitch: int) -> str:
    """Return a square one pixel smaller than its pitch; outlines lie within it."""
    if kind == "0":
        return f"M{left + 0.5} {top + 0.5}h{pitch - 2}v{pitch - 2}h-{pitch - 2}z"
    if kind == "-":
        return f"M{left + 1} {top + pitch // 2 - 0.5}h{pitch // 2}"
    return f"M{left} {top}h{pitch - 1}v{pitch - 1}h-{pitch - 1}z"


def _text(left: int, top: int, text: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{left}" y="{top}">{_escape(text)}</text>'


def _escape(text: str) -> str:
    """Return a text escaped for XML, with unprintable characters replaced."""
    safe = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
