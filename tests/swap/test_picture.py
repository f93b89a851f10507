"""Where memory is, as characters and as a drawing."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from explain import browser
from hypothesis import given
from hypothesis import strategies as st

from hfsched.swap.pages.entries import Entry, State
from hfsched.swap.report.picture import CELL, KINDS, cell_size, mark_empty, picture, size
from hfsched.swap.report.svg import svg

SVG = "{http://www.w3.org/2000/svg}"
CLASSES = {
    ".": "resident",
    "s": "staged",
    "w": "busy",
    "F": "file",
    "C": "compressed",
    "0": "zero",
    "-": "empty",
}


def entries(*states: State) -> bytes:
    """Return the lowest byte of entries; the copy beside the state is none of the picture's."""
    return bytes(Entry(state, State.FILE).encode() & 255 for state in states)


def test_a_cell_is_what_most_of_its_pages_are() -> None:
    pages = [State.FILE] * 3 + [State.ZERO] + [State.STAGED] * 4 + [State.COMPRESSED]
    assert picture(entries(*pages), 4) == "FsC"
    assert picture(entries(*pages), 1) == "FFF0ssssC"
    assert picture(entries(*pages)) == "s"
    moving = [State.WRITING, State.PUNCHING, State.MOVING, State.TAKING, State.RESIDENT]
    assert picture(entries(*moving), 1) == "wwww."
    assert picture(entries(State.WRITING, State.MOVING, State.RESIDENT), 3) == "w"


def test_what_takes_no_memory_is_empty_unless_a_cell_has_more() -> None:
    pages = [State.RESIDENT] * 3 + [State.FILE] + [State.RESIDENT] * 4 + [State.ZERO]
    assert picture(mark_empty(entries(*pages), []), 1) == "---F----0"
    assert picture(mark_empty(entries(*pages), [(0, 1), (3, 6), (8, 9)]), 1) == ".--F..--0"
    assert picture(mark_empty(entries(*pages), []), 4) == "F-0"
    assert picture(mark_empty(entries(*pages), [(7, 8)]), 4) == "F.0"
    assert picture(mark_empty(entries(*pages), [(0, 9)]), 1) == picture(entries(*pages), 1)


def test_a_word_that_is_no_state_is_no_error() -> None:
    assert picture(bytes([15, 15, 0]), 1) == "??."


@given(st.lists(st.sampled_from(State), min_size=1, max_size=200), st.integers(1, 50))
def test_each_cell_has_a_most_frequent_kind(states: list[State], cell: int) -> None:
    made = picture(entries(*states), cell)
    single = picture(entries(*states), 1)
    assert len(made) == -(-len(states) // cell)
    for number, kind in enumerate(made):
        counts = Counter(single[number * cell : (number + 1) * cell])
        assert counts[kind] == max(counts.values())


@given(
    st.lists(st.integers(1, 1 << 24), min_size=1, max_size=27),
    st.integers(27, 1 << 16),
    st.booleans(),
)
def test_pictures_have_room(sizes: list[int], most: int, fine: bool) -> None:
    def cells(cell: int) -> int:
        return sum(-(-each // cell) for each in sizes)

    cell = cell_size(sizes, most, fine=fine)
    assert cells(cell) <= most
    if cell > CELL:
        assert cells(cell // 2) > most  # no coarser than need be
    if not fine:
        assert cell >= CELL


def test_small_memory_is_drawn_page_by_page() -> None:
    assert cell_size([4096], 1 << 15, fine=True) == 1
    assert cell_size([4096, 4096], 1 << 15, fine=True) == 2
    assert cell_size([1 << 24], 1 << 15, fine=True) == CELL


def test_numbers_of_bytes() -> None:
    assert [size(n) for n in (0, 4096, 3 << 19, 64 << 30)] == [
        "0 bytes",
        "4 KiB",
        "1.5 MiB",
        "64 GiB",
    ]


# The drawing.


def parse(text: str) -> ET.Element:
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    return root


def squares(root: ET.Element) -> Counter[str]:
    """Return how many cells of each class there are; those of the legend have no title."""
    return Counter(
        {
            path.attrib["class"]: path.attrib["d"].count("M")
            for path in root.iter(f"{SVG}path")
            if path.find(f"{SVG}title") is not None
        }
    )


def test_every_cell_is_drawn_once() -> None:
    pictures = {"trusty": ".." + "FFFCC" * 30 + "0sw?-"}
    root = parse(svg("Memory of trusty", ["state  active"], pictures, 512))
    expected = Counter(CLASSES.get(kind, "unknown") for kind in pictures["trusty"])
    assert squares(root) == expected
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[:2] == ["Memory of trusty", "state  active"]
    assert {*KINDS.values(), "unknown", "trusty, 2 MiB a cell", "0 bytes"} <= set(texts)
    places = re.findall(r"M(\S+) (\S+?)h", "".join(p.attrib["d"] for p in root.iter(f"{SVG}path")))
    assert len(places) == len(set(places)) == len(pictures["trusty"]) + len(KINDS) + 1


def test_the_drawing_needs_nothing_else() -> None:
    text = svg("trusty", [], {"trusty": "F"}, 1)
    assert [url for url in re.findall(r"https?://[^\"]*", text) if url not in SVG] == []
    assert not re.search(r"<script|<image|href|url\(|@import|<!", text)


HOSTILE = "</text><script>&'\"\x00\x1b\u2028\ud800\ufffe]]>"


@given(st.text(max_size=30) | st.just(HOSTILE), st.text(max_size=30) | st.just(HOSTILE))
def test_names_are_only_text(name: str, title: str) -> None:
    text = svg(title, [title], {name: "F" + title}, 1)
    root = parse(text.encode().decode())
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        *("svg", "title", "style", "rect", "text", "path")
    }
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    assert f"{shown}, 4 KiB a cell" in [text.text for text in root.iter(f"{SVG}text")]


def test_much_memory_is_drawn_smaller() -> None:
    root = parse(svg("all", [], {"a": "F" * 32768, "b": "."}, 512))
    assert squares(root) == {"file": 32768, "resident": 1}
    assert int(root.attrib["width"]) < 1200
    assert int(root.attrib["height"]) < 2400


# As a browser shows it.

_SCRIPT = """
addEventListener('load', () => {
  const look = e => { const r = e.getBoundingClientRect(), s = getComputedStyle(e);
    return {kind: e.getAttribute('class'), left: r.left, right: r.right, bottom: r.bottom,
      fill: s.fill, stroke: s.stroke}; };
  const all = what => [...document.querySelectorAll(what)].map(look);
  const result = {svg: look(document.querySelector('svg')), paper: all('rect')[0],
    texts: all('text'), paths: all('path')};
  const out = document.createElement('pre');
  out.id = 'measured';
  out.textContent = btoa(JSON.stringify(result));
  document.body.append(out);
});
"""


def shown(directory: Path, drawing: str, *, dark: bool) -> Any:
    page = directory / "page.html"
    page.write_text(f"<!DOCTYPE html><body>{drawing}<script>{_SCRIPT}</script></body>")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dump = browser._run(directory, page, scheme, "--dump-dom").decode()
    found = re.search(r'<pre id="measured">([^<]*)</pre>', dump)
    assert found is not None, "the script that measures did not run"
    return json.loads(base64.b64decode(found[1]))


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as browsers define it."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_legibly(tmp_path: Path, dark: bool) -> None:
    lines = ["since    " + ", ".join(f"12345 from staging {n}" for n in range(5))]
    seen = shown(tmp_path, svg("Memory", lines, {"trusty": "".join(KINDS) * 40}, 512), dark=dark)
    paper = seen["paper"]["fill"]
    assert (luminance(paper) < 0.2) == dark
    for text in seen["texts"]:
        assert contrast(text["fill"], paper) >= 4.5
        assert text["left"] >= seen["svg"]["left"]
        assert text["right"] <= seen["svg"]["right"]
    colours = {}
    for path in seen["paths"]:
        ink = path["stroke"] if path["fill"] == "none" else path["fill"]
        assert contrast(ink, paper) >= 2
        colours[path["kind"]] = (path["fill"], path["stroke"])
        assert path["bottom"] <= seen["svg"]["bottom"]
        assert path["right"] <= seen["svg"]["right"]
    assert len(set(colours.values())) == len(KINDS)
