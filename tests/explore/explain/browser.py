"""A headless Chromium: what a page looks like there."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from progress import finish

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = f"no browser: none of {', '.join(NAMES)} is on PATH (apt-get install chromium)"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1500,1100",
]

# What is measured: every row and everything that stands in it, in CSS pixels.
_SCRIPT = """
addEventListener('load', () => {
  const box = e => { const r = e.getBoundingClientRect(), s = getComputedStyle(e);
    return {id: e.id, kind: e.className, text: e.textContent, left: r.left, top: r.top,
      right: r.right, bottom: r.bottom, visible: s.visibility == 'visible' && s.opacity == '1',
      color: s.color, paper: s.backgroundColor}; };
  const all = (under, what) => [...under.querySelectorAll(what)].map(box);
  const rows = [...document.querySelectorAll('tbody tr')].map(row => ({...box(row),
    cells: all(row, 'td'), parts: all(row, '.what, .why'), shafts: all(row, '.shaft'),
    first: box(row.querySelector('td'))}));
  const names = all(document, '.names span');
  scrollTo(0, document.body.scrollHeight);
  const stuck = box(document.querySelector('thead th'));
  const result = {rows, names, stuck, paper: getComputedStyle(document.body).backgroundColor};
  const out = document.createElement('pre');
  out.id = 'measured';
  out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(result))));
  document.body.append(out);
});
"""


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _run(directory: Path, page: Path, *more: str) -> bytes:
    browser = find()
    assert browser is not None
    command = [browser, *FLAGS, f"--user-data-dir={directory / 'profile'}", *more, page.as_uri()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = finish(process)
    assert process.returncode == 0, err.decode(errors="replace")[-2000:]
    return out


def measure(directory: Path, html: str) -> Any:
    """Return where everything is.

    The page's policy stays as it is, but for the one script that measures, allowed by its digest.
    """
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    html = html.replace("default-src 'none';", f"default-src 'none'; script-src 'sha256-{digest}';")
    html = html.replace("</body>", f"<script>{_SCRIPT}</script></body>")
    page = directory / "measured.html"
    page.write_text(html, encoding="utf-8")
    dump = _run(directory, page, "--dump-dom").decode()
    found = re.search(r'<pre id="measured">([^<]*)</pre>', dump)
    assert found is not None, "the script that measures did not run"
    return json.loads(base64.b64decode(found[1]))


def screenshot(directory: Path, html: str) -> bytes:
    """Return a PNG of the page as it is."""
    page = directory / "page.html"
    page.write_text(html, encoding="utf-8")
    picture = directory / "page.png"
    _run(directory, page, f"--screenshot={picture}")
    return picture.read_bytes()
