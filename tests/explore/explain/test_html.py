"""A story as a page: alone, safe, and as a real browser shows it."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hfsched.explore.explain.html import page
from hfsched.explore.explain.story import Story

from . import browser
from .conftest import story_of
from .test_story import Counter

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = "</td></table></style><script>alert(1)</script><img src=//x onerror=alert(1)>\"'&"


class Reader(HTMLParser):
    """Reads a page, and checks that what is opened is closed in turn."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


def test_the_page_needs_nothing_else(upstream: Story) -> None:
    html = page(upstream)
    reader = read(html)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(reader.tags)
    for name, value in reader.attributes:
        assert name not in ("src", "style", "srcset", "action")
        assert not name.startswith("on")
        if name == "href":
            assert value is not None
            assert value.startswith("#step-")
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_its_policy_allows_its_style_and_nothing_else(upstream: Story) -> None:
    html = page(upstream)
    style = re.search(r"<style>(.*)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_it_says_what_the_story_says(upstream: Story) -> None:
    html = page(upstream)
    text = read(html).text
    assert text.count(upstream.token) == 3
    assert "hfsched fuzz replay " + upstream.token in text
    assert upstream.failure is not None
    assert upstream.failure in text
    for step in upstream.steps:
        assert step.description in text
        assert html.count(f'id="step-{step.index}"') == 1
    assert html.count('class="step wrong"') == 1


def test_what_a_scenario_says_is_only_text() -> None:
    html = page(story_of(Counter(name=HOSTILE, text=HOSTILE + "\x00\u202e"), token=HOSTILE))
    reader = read(html)
    assert not {"script", "img"} & set(reader.tags)
    assert HOSTILE in reader.text
    assert not any(name.startswith("on") for name, _ in reader.attributes)
    assert "\x00" not in html
    assert "\u202e" not in html


@pytest.fixture(scope="session")
def chromium() -> None:
    if browser.find() is None:
        print(browser.MISSING)
        pytest.skip(browser.MISSING)


def apart(one: Any, two: Any) -> bool:
    """Tell whether two boxes do not overlap (a pixel of rounding is allowed)."""
    return bool(
        one["right"] <= two["left"] + 1
        or two["right"] <= one["left"] + 1
        or one["bottom"] <= two["top"] + 1
        or two["bottom"] <= one["top"] + 1
    )


@pytest.mark.usefixtures("chromium")
def test_a_browser_shows_every_step_and_nothing_overlaps(upstream: Story, tmp_path: Path) -> None:
    seen = browser.measure(tmp_path, page(upstream))
    rows = [row for row in seen["rows"] if row["id"]]
    assert [row["id"] for row in rows] == [f"step-{step.index}" for step in upstream.steps]
    for above, below in zip(seen["rows"], seen["rows"][1:], strict=False):
        assert below["top"] >= above["bottom"] - 1
    for row in seen["rows"]:
        assert row["bottom"] - row["top"] > 10
        assert row["right"] - row["left"] > 400
        for one, two in zip(row["cells"], row["cells"][1:], strict=False):
            assert apart(one, two)
    for row in rows:
        boxes = [*row["parts"], *row["shafts"]]
        for place, one in enumerate(boxes):
            assert one["right"] - one["left"] > 5
            assert one["bottom"] - one["top"] > 1
            assert one["top"] >= row["top"] - 1
            assert one["bottom"] <= row["bottom"] + 1
            assert one["visible"]
            assert all(apart(one, two) for two in boxes[place + 1 :])


@pytest.mark.usefixtures("chromium")
def test_arrows_end_at_the_lanes_they_name(upstream: Story, tmp_path: Path) -> None:
    seen = browser.measure(tmp_path, page(upstream))
    center = {name["text"]: (name["left"] + name["right"]) / 2 for name in seen["names"]}
    assert tuple(center) == upstream.lanes
    rows = {row["id"]: row for row in seen["rows"] if row["id"]}
    for step in upstream.steps:
        row = rows[f"step-{step.index}"]
        if step.arrow is None:
            assert not row["shafts"]
            continue
        (shaft,) = row["shafts"]
        low, high = sorted((center[step.arrow.source], center[step.arrow.target]))
        assert abs(shaft["left"] - low) < 2
        assert abs(shaft["right"] - high) < 2
        right = center[step.arrow.source] < center[step.arrow.target]
        assert ("right" if right else "left") in shaft["kind"].split()


@pytest.mark.usefixtures("chromium")
def test_the_step_that_went_wrong_stands_out(upstream: Story, tmp_path: Path) -> None:
    seen = browser.measure(tmp_path, page(upstream))
    rows = {row["id"]: row for row in seen["rows"] if row["id"]}
    (wrong,) = [step for step in upstream.steps if step.marked]
    row = rows.pop(f"step-{wrong.index}")
    assert any("from here on every schedule fails" in part["text"] for part in row["parts"])
    assert all(part["visible"] for part in row["parts"])
    paper = row["first"]["paper"]
    assert paper not in ("rgba(0, 0, 0, 0)", seen["paper"])
    assert all(other["first"]["paper"] != paper for other in rows.values())
    assert seen["stuck"]["top"] >= -1, "the names of the lanes stay in sight"


@pytest.mark.usefixtures("chromium")
def test_a_picture_of_it_is_not_empty(upstream: Story, tmp_path: Path) -> None:
    picture = browser.screenshot(tmp_path, page(upstream))
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert (width, height) == (1500, 1100)
    assert len(picture) > 20_000
