"""HTML pages in a real browser: Debian's Chromium, headless."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Measures a page in a frame of 500 px from outside: the pages' own policy forbids scripts inside them.
FRAME = """<!DOCTYPE html>
<iframe id="page" style="width: 500px; height: 900px; border: 0" srcdoc="{page}"></iframe>
<script>
// The lines that an element's text is broken into.
const linesOf = (element) => {{
  const found = [], range = new Range(), texts = document.createNodeIterator(element, NodeFilter.SHOW_TEXT);
  let top = -Infinity;
  for (let text = texts.nextNode(); text; text = texts.nextNode())
    for (let at = 0; at < text.length; at++) {{
      range.setStart(text, at);
      range.setEnd(text, at + 1);
      const box = range.getBoundingClientRect();
      if (box.width && box.top > top + 5) found.push("");
      if (box.width) top = box.top;
      if (found.length) found[found.length - 1] += text.data[at];
    }}
  return found;
}};
onload = () => {{
  const page = document.getElementById("page").contentDocument;
  const loaded = [...page.images].map((image) => image.complete && image.naturalWidth > 0);
  const lines = [...page.querySelectorAll("h1, h2, dd, p")].flatMap(linesOf);
  const root = page.documentElement;
  const result = document.createElement("pre");
  result.textContent = JSON.stringify({{
    width: root.clientWidth, scroll_width: root.scrollWidth, images: loaded, text: page.body.innerText,
    lines,
  }});
  document.body.append(result);
}};
</script>"""


class Opened(NamedTuple):
    """What a reader at 500 px gets."""

    width: int
    scroll_width: int  # more than `width`: the page scrolls sideways
    images: list[bool]  # True for one that loaded
    text: str  # as laid out
    lines: list[str]  # of headings, paragraphs and facts, as broken
    console: list[str]  # errors, warnings and messages


def open_page(page: str, folder: Path) -> Opened:
    """Open a page in Chromium; skip the test where there is none."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: neither chromium nor google-chrome is on the PATH (apt install chromium)")
    file = folder / "frame.html"
    file.write_text(FRAME.format(page=html.escape(page)), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0"]
    command = [browser, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True)
    (result,) = re.findall(r"<pre>(\{.*?\})</pre>\s*</body>", done.stdout, re.DOTALL)
    found: dict[str, Any] = json.loads(html.unescape(result))
    return Opened(console=re.findall(r"CONSOLE.*", done.stderr), **found)
