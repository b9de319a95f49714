"""Find the contents of messages in a rendered chat template, by rendering it again with markers in them.

A search for the content would find it in a header, in another message or twice in itself. A marker put into
a content shows where that content stands, provided that nothing else changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeAlias

from tide.data.conversation import RejectedRow

Render = Callable[[Sequence[str]], str]  # the same roles with these contents; raises RejectedRow
# Letters that text hardly has in this order; no marker read backwards is one.
_WORD = re.compile(r"(?<=\s)\S")
_MARKER = re.compile(r"Zq7x(\d{6})k5wV")


class Place(NamedTuple):
    """A content, or the part of it that the template shows."""

    start: int  # characters of the rendered text, half-open
    end: int
    offset: int  # first character of the part in the content


Cut: TypeAlias = tuple[int, int]  # message, character
# Asks where a marker at a character stands (None if it does not show), or if a part alone makes the text.
Search: TypeAlias = Generator["int | slice", Any, "Place | None"]


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
    found = _together(probe, {at: _place(probe, at, *cores[at], whole or {}) for at in shown})
    places = [found.get(at) for at in range(len(contents))]
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
        self.visible: set[int] = set()  # messages of which a marker changed the text, or showed in it

    def land(self, cuts: Sequence[Cut]) -> dict[Cut, int] | None:
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
            parts = []
        literals, numbers = parts[::2], [int(number) for number in parts[1::2]]
        is_same = "".join(literals) == self.text
        found = [cuts[number] for number in numbers]
        if is_same or len(cuts) == 1:
            self.visible.update(message for message, _ in (found if is_same else cuts))
        if not is_same:
            return None
        if len(set(found)) < len(found):
            message = max(found, key=found.count)[0]
            raise RejectedRow("template: a message twice", f"message {message} (from 0)")
        return dict(zip(found, accumulate(map(len, literals)), strict=False))

    def lands(self, cuts: Sequence[Cut]) -> dict[Cut, int]:
        """Where markers of different messages stand; one that changes the text is found by halves."""
        landed = self.land(cuts) if cuts else {}
        if landed is None and len(cuts) > 1:
            half = len(cuts) // 2
            return self.lands(cuts[:half]) | self.lands(cuts[half:])
        return landed or {}

    def shows(self, parts: Sequence[tuple[int, slice]]) -> set[int]:
        """The messages of which a part alone makes the same text."""
        changed = list(self.contents)
        for message, part in parts:
            changed[message] = changed[message][part]
        try:
            if self.render(changed) == self.text:
                return {message for message, _ in parts}
        except RejectedRow:
            pass
        half = len(parts) // 2
        return self.shows(parts[:half]) | self.shows(parts[half:]) if half else set()


def _together(probe: _Probe, searches: dict[int, Search]) -> dict[int, Place | None]:
    """Run the searches of all messages side by side, so that one rendering answers a question of each."""
    places: dict[int, Place | None] = {}
    answers: dict[int, Any] = dict.fromkeys(searches)
    while answers:
        asked: dict[int, int | slice] = {}
        for message, answer in answers.items():
            try:
                asked[message] = searches[message].send(answer)
            except StopIteration as found:
                places[message] = found.value
        landed = probe.lands([(message, cut) for message, cut in asked.items() if isinstance(cut, int)])
        parts = [(message, part) for message, part in asked.items() if isinstance(part, slice)]
        shown = probe.shows(parts) if parts else set()
        answers = {
            message: landed.get((message, of)) if isinstance(of, int) else message in shown
            for message, of in asked.items()
        }
    return places


def _place(probe: _Probe, message: int, first: int, last: int, landed: dict[Cut, int]) -> Search:
    """Place one message, whose core is [first, last); `landed` holds where markers of all messages stand."""
    content, text = probe.contents[message], probe.text
    for start, end in ((0, len(content)), (first, last)):
        begins, ends = landed.get((message, start)), landed.get((message, end))
        if begins is not None and ends is not None and text[begins:ends] == content[start:end]:
            return (yield from _with_whitespace(probe, message, start, end, begins))
    probe.visible.discard(message)
    middle = (first + last) // 2
    parts: list[tuple[bool, int, int, int, int]] = []
    # Before words: a marker inside a tag such as </think> would change the text.
    middles = (middle, (first + middle) // 2, (middle + last) // 2)
    words = [_WORD.search(content, cut, last) for cut in middles]
    inside = (word.start() if word else cut for word, cut in zip(words, middles, strict=True))
    for cut in dict.fromkeys((last, first, *inside)):
        position = yield cut
        if position is None:
            continue
        start = cut - common_length(content[:cut][::-1], text[max(0, position - cut) : position][::-1])
        end = cut + common_length(content[cut:], text[position : position + len(content) - cut])
        if start <= first and last <= end:
            return (yield from _with_whitespace(probe, message, first, last, position - cut + first))
        # Of several parts the one at the end: what precedes an answer there is a thought, left out.
        if start < end:
            parts.append((end >= last, end - start, start, cut, position))
    if not parts and message not in probe.visible:
        return None
    _, length, start, cut, position = max(parts, default=(False, 0, 0, 0, 0))
    end, shift = start + length, position - cut
    # A character beside the part may be the template's own, and the content's only by chance.
    if start != first:
        start = yield from _bisect(start, cut, lambda at: _lands(at, at + shift))
    if end != last:
        end = -(yield from _bisect(-end, -cut, lambda at: _lands(-at, shift - at)))
    if start < end and (yield slice(start, end)):  # the rest is left out, and not shown otherwise
        return Place(start + shift, end + shift, start)
    raise RejectedRow("template: changes a message", f"message {message} (from 0) is not shown as it is")


def _with_whitespace(probe: _Probe, message: int, start: int, end: int, position: int) -> Search:
    """Extend content[start:end], shown at `position`, by the whitespace around it that the template keeps."""
    content, shift = probe.contents[message], position - start

    def kept(cut: int) -> Generator[int | slice, Any, bool]:
        low, high = min(cut, start), max(cut, end)
        shown = probe.text[max(0, low + shift) : high + shift] == content[low:high]
        return shown and (yield from _lands(cut, cut + shift))

    first = yield from _bisect(0, start, kept)
    last = -(yield from _bisect(-len(content), -end, lambda at: kept(-at)))
    return Place(first + shift, last + shift, first)


def _lands(cut: int, position: int) -> Generator[int | slice, Any, bool]:
    return bool((yield cut) == position)


def _bisect(
    low: int, high: int, holds: Callable[[int], Generator[int | slice, Any, bool]]
) -> Generator[int | slice, Any, int]:
    """The first number in [low, high) from which on it holds, or `high`."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if (yield from holds(middle)) else (middle + 1, high)
    return low
