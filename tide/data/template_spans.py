"""Find the contents of messages in a rendered chat template, by rendering it again with markers in them.

A search for the content would find it in a header, in another message or twice in itself. A marker put into
a content shows where that content stands, provided that nothing else changes.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from tide.data.conversation import RejectedRow

Render = Callable[[Sequence[str]], str]  # the same roles with these contents; raises RejectedRow
# Letters that text hardly has in this order; no marker read backwards is one.
_MARKER = re.compile(r"Zq7x(\d{6})k5wV")


class Place(NamedTuple):
    """A content, or the part of it that the template shows."""

    start: int  # characters of the rendered text, half-open
    end: int
    offset: int  # first character of the part in the content


def locate(render: Render, contents: Sequence[str], text: str) -> list[Place | None]:
    """Locate each content in `text`, which is `render(contents)`; whitespace that the template keeps counts.

    None stands for a content that is blank or left out. Places do not overlap, and are in the order of
    messages unless the template changes it. A template that shows a content twice, or changes it, rejects the
    row.
    """
    if any(_MARKER.search(content) for content in contents):
        raise RejectedRow("template: marker in the text", "a content holds the text that marks contents")
    probe = _Probe(render, contents, text)
    cores = [(len(content) - len(content.lstrip()), len(content.rstrip())) for content in contents]
    shown = [at for at, content in enumerate(contents) if content.strip()]
    # One rendering finds every content, or else a second one every content without the whitespace around it.
    whole = probe.land([(at, cut) for at in shown for cut in (0, len(contents[at]))])
    if whole is None and any(cores[at] != (0, len(contents[at])) for at in shown):
        whole = probe.land([(at, cut) for at in shown for cut in cores[at]])
    places: list[Place | None] = [None] * len(contents)
    for at in shown:
        places[at] = _place(probe, at, *cores[at], whole or {})
    for one, other in pairwise(sorted(filter(None, places))):
        if other.start < one.end:
            raise RejectedRow("template: changes a message", "two messages share a part of the text")
    return places


def common_length(one: str, other: str) -> int:
    """Count the characters that two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (here, there) in pairs if here != there), min(len(one), len(other)))


class _Probe:
    """Renders a conversation with markers in its contents."""

    def __init__(self, render: Render, contents: Sequence[str], text: str) -> None:
        self.render, self.contents, self.text = render, contents, text
        self.hidden = True  # no marker has changed the text, nor shown in it

    def land(self, cuts: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int] | None:
        """Put markers at (message, character); return where those stand that show, None if the text changes.

        Cuts of a message ascend.
        """
        changed = list(self.contents)
        for number, (message, cut) in reversed(list(enumerate(cuts))):
            marker = f"Zq7x{number:06}k5wV"
            changed[message] = changed[message][:cut] + marker + changed[message][cut:]
        try:
            parts = _MARKER.split(self.render(changed))
        except RejectedRow:
            self.hidden = False
            return None
        literals, numbers = parts[::2], [int(number) for number in parts[1::2]]
        self.hidden &= literals == [self.text]
        if "".join(literals) != self.text:
            return None
        found = [cuts[number] for number in numbers]
        if len(set(found)) < len(found):
            message = max(found, key=found.count)[0]
            raise RejectedRow("template: a message twice", f"message {message} (from 0)")
        return dict(zip(found, accumulate(map(len, literals)), strict=False))

    def lands(self, message: int, cut: int) -> int | None:
        """Where a marker at `cut` of one message stands."""
        return (self.land([(message, cut)]) or {}).get((message, cut))

    def shows(self, contents: Sequence[str]) -> bool:
        """Return True if other contents make the same text."""
        try:
            return self.render(contents) == self.text
        except RejectedRow:
            return False


def _place(
    probe: _Probe, message: int, first: int, last: int, landed: dict[tuple[int, int], int]
) -> Place | None:
    """Place one message, whose core is [first, last); `landed` holds where markers of all messages stand."""
    content, text = probe.contents[message], probe.text
    for start, end in ((0, len(content)), (first, last)):
        begins, ends = landed.get((message, start)), landed.get((message, end))
        if begins is not None and ends is not None and text[begins:ends] == content[start:end]:
            return _with_whitespace(probe, message, start, end, begins)
    probe.hidden = True
    middle = (first + last) // 2
    parts: list[tuple[bool, int, int, int, int]] = []
    for cut in dict.fromkeys((last, first, middle, (first + middle) // 2, (middle + last) // 2)):
        position = probe.lands(message, cut)
        if position is None:
            continue
        start = cut - common_length(content[:cut][::-1], text[:position][::-1])
        end = cut + common_length(content[cut:], text[position:])
        if start <= first and last <= end:
            return _with_whitespace(probe, message, first, last, position - cut + first)
        # Of several parts the one at the end: what precedes an answer there is a thought, left out.
        if start < end:
            parts.append((end >= last, end - start, start, cut, position))
    if not parts and probe.hidden:
        return None
    _, length, start, cut, position = max(parts, default=(False, 0, 0, 0, 0))
    end, shift = start + length, position - cut

    def lands(at: int) -> bool:
        return probe.lands(message, at) == at + shift

    # A character beside the part may be the template's own, and the content's only by chance.
    if start != first:
        start += bisect_left(range(start, cut), True, key=lands)
    if end != last:
        end = cut + bisect_left(range(cut + 1, end + 1), True, key=lambda at: not lands(at))
    alone = [*probe.contents[:message], content[start:end], *probe.contents[message + 1 :]]
    if start < end and probe.shows(alone):  # the rest is left out, and not shown otherwise
        return Place(start + shift, end + shift, start)
    raise RejectedRow("template: changes a message", f"message {message} (from 0) is not shown as it is")


def _with_whitespace(probe: _Probe, message: int, start: int, end: int, position: int) -> Place:
    """Extend content[start:end], shown at `position`, by the whitespace around it that the template keeps."""
    content, shift = probe.contents[message], position - start

    def kept(cut: int) -> bool:
        low, high = min(cut, start), max(cut, end)
        shown = probe.text[max(0, low + shift) : high + shift] == content[low:high]
        return shown and probe.lands(message, cut) == cut + shift

    first = bisect_left(range(start), True, key=kept)
    last = end + bisect_left(range(end + 1, len(content) + 1), True, key=lambda cut: not kept(cut))
    return Place(first + shift, last + shift, first)
