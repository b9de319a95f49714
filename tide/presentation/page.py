"""One self-contained HTML page: styles and images inside, for a browser without a network.

It needs no JavaScript, follows the reader's light or dark preference, and reads on a phone. A content
security policy refuses scripts and outside loads. Arguments named `content`, `extra` or `parts` are HTML; all
others are text, and escaped here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape


def page(title: str, parts: Sequence[str], *, style: str = "") -> str:
    """The whole document.

    Args:
        title: of the browser's window.
        parts: of the body; empty ones are left out.
        style: CSS beside that of every page.
    """
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=escape(title), style=_STYLE + style, body=body)


def header(kicker: str, title: str, tiles: Mapping[str, str], extra: str = "") -> str:
    """The head of a page, with figures to be seen at once.

    Args:
        kicker: a few words above the title.
        title: the page's.
        tiles: what a figure is -> the figure.
        extra: between title and tiles.
    """
    return (
        f'<header><div class="inner"><p class="kicker">{escape(kicker)}</p><h1>{escape(title)}</h1>'
        f'{extra}<dl class="tiles">{_items(tiles)}</dl></div></header>'
    )


def section(name: str, heading: str, content: str) -> str:
    """A card with a heading; `name` is its anchor."""
    return f'<section id="{escape(name)}"><h2>{escape(heading)}</h2>\n{content}\n</section>'


def facts(pairs: Mapping[str, str]) -> str:
    """Names and what they stand for, in columns."""
    return f'<dl class="facts">{_items(pairs)}</dl>'


def scrolling(label: str, content: str) -> str:
    """Content that scrolls sideways where it is too wide, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>'


def figure(light: bytes, dark: bytes, caption: str) -> str:
    """A PNG for light pages and one for dark pages, with a caption."""
    sources = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in (light, dark)]
    picture = (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{sources[1]}">'
        f'<img src="{sources[0]}" alt="{escape(caption)}"></picture>'
    )
    return f"<figure>{scrolling(caption, picture)}<figcaption>{escape(caption)}</figcaption></figure>"


def _items(pairs: Mapping[str, str]) -> str:
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs.items()
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root {
  --paper: #f5f7fa; --card: #ffffff; --ink: #1d2330; --muted: #5b6675; --line: #e0e5ec;
  --accent: #0a5ec2; --best: #e3effd; --code: #f3f5f9;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0e1116; --card: #14181f; --ink: #e6eaf0; --muted: #98a2b0; --line: #2a313c;
    --accent: #6cb0ff; --best: #17304f; --code: #0e1116;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
header { background: linear-gradient(135deg, #06264f, #0a5ec2 70%, #1f8fb8); color: #fff; }
.inner, main, footer { max-width: 72rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2.5rem); }
.inner { padding-block: clamp(2rem, 6vw, 3.5rem) 2rem; }
.kicker {
  margin: 0; font-size: .8rem; font-weight: 600; letter-spacing: .12em; text-transform: uppercase;
  opacity: .85;
}
h1 { margin: .3rem 0 1.2rem; font-size: clamp(1.6rem, 4.5vw, 2.5rem); line-height: 1.15; text-wrap: balance; }
h2 { overflow-wrap: anywhere; margin: 0 0 1rem; font-size: 1.35rem; }
h3 { margin: 1.8rem 0 .7rem; font-size: 1.05rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 0; }
.tiles div { padding: .7rem 1rem; border-radius: .7rem; background: rgb(255 255 255 / .13); }
.tiles dt { font-size: .82rem; opacity: .9; }
.tiles dd { margin: 0; font-size: 1.35rem; font-weight: 600; white-space: nowrap; }
main > section, main > figure, .note {
  margin: 1.5rem 0; padding: clamp(1rem, 3vw, 1.8rem); background: var(--card);
  border: 1px solid var(--line); border-radius: 1rem;
}
.scroll { overflow-x: auto; }
.scroll:focus-visible, pre:focus-visible, summary:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px;
}
figure { margin: 1.6rem 0; }
section > figure:last-child, article:last-child { margin-bottom: 0; }
figure img { display: block; width: 100%; min-width: 42rem; height: auto; }
figcaption, .caption { margin: .7rem 0 0; color: var(--muted); font-size: .88rem; }
table { width: 100%; border-collapse: separate; border-spacing: 0; white-space: nowrap; }
table { font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child { position: sticky; left: 0; background: var(--card); text-align: left; }
thead th { font-size: .88rem; vertical-align: bottom; }
tbody th { font-family: var(--mono); font-weight: 500; font-size: .92rem; }
th small, td small { display: block; color: var(--muted); font-weight: 400; font-size: .8rem; }
summary { cursor: pointer; color: var(--accent); }
pre {
  margin: 0; overflow: auto; max-height: 26rem; padding: .8rem 1rem; border-radius: .6rem;
  background: var(--code);
}
code { font: .84rem/1.5 var(--mono); tab-size: 4; }
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
  gap: .7rem 1.5rem; margin: 0;
}
.facts dt { color: var(--muted); font-size: .84rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
footer { padding-block: 1rem 3rem; color: var(--muted); font-size: .88rem; }
"""
