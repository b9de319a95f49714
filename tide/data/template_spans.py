"""Where the contents of messages stand in a rendered chat template, from the template's own output.

Contents are not searched for: a content may also stand in a header, in another message or in itself. The
template is asked instead. Rendered once with a marker in place of every content, it shows its literal text
and where contents go; put the contents there, and it must be the real rendering, character for character. A
template that looks into contents may fail that. Then a marker is put into one content at a time, at several
places: it shows where that content stands if nothing but the marker has come in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from tide.data.conversation import RejectedRow

Apply = Callable[[Sequence[str]], str]  # renders the conversation with these contents; raises RejectedRow
MAX_CHANCE = 64  # characters beside a part that is left out, which stand in the template, too
# Letters that text hardly has in this order; no mark read backwards is one.
_MARK = re.compile(r"Zq7x(\d{6})k5wV")


class Place(NamedTuple):
    """A content, or the part of it that the template shows as it is.

    Attributes:
        start, end: characters of the rendered text.
        offset: where the part begins in the content.
    """

    start: int
    end: int
    offset: int


def locate(apply: Apply, contents: Sequence[str], text: str) -> list[Place | None]:
    """Where each content stands in the rendering.

    Args:
        apply: renders the same roles with other contents.
        contents: of every message.
        text: `apply(contents)`.
    Returns:
        A place per message; None if the content is blank, or the template leaves it out. Places do not
        overlap; they are in the order of messages unless the template changes it. Places keep white space
        around a content that the template keeps.
    Raises:
        RejectedRow: the template shows a content more than once, or not as it is.
    """
    if any(_MARK.search(content) for content in contents):
        raise RejectedRow("template: marker in the text", "a content holds the text that marks contents")
    places = _by_skeleton(apply, contents, text)
    if places is None:
        places = [_by_insertion(apply, contents, at, text) for at in range(len(contents))]
        _check_apart([place for place in places if place is not None])
    return places


def common_length(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (here, there) in pairs if here != there), min(len(one), len(other)))


def _mark(number: int) -> str:
    return f"Zq7x{number:06}k5wV"


def _by_skeleton(apply: Apply, contents: Sequence[str], text: str) -> list[Place | None] | None:
    """None if the template with markers is another one."""
    edges = [_edges(content) for content in contents]
    # A blank content stays: templates leave its header out.
    marked = [
        f"{before}{_mark(at)}{after}" if content.strip() else content
        for at, (content, (before, after)) in enumerate(zip(contents, edges, strict=True))
    ]
    try:
        order, literals = _split(apply(marked))
    except RejectedRow:
        return None
    if len(set(order)) < len(order):
        raise RejectedRow("template: a message twice", f"message {max(order, key=order.count)} (from 0)")
    cores = [contents[at].strip() for at in order]
    rebuilt = [literals[0]]
    for core, literal in zip(cores, literals[1:], strict=True):
        rebuilt += [core, literal]
    if "".join(rebuilt) != text:
        return None
    kept = _kept_edges(apply, contents, edges, order, literals)
    places: list[Place | None] = [None] * len(contents)
    end = 0
    for at, core, literal, (before, after) in zip(order, cores, literals, kept, strict=False):
        start = end + len(literal)
        end = start + len(core)
        places[at] = Place(start - before, end + after, len(edges[at][0]) - before)
    return places


def _edges(content: str) -> tuple[str, str]:
    """White space before and after."""
    core = content.strip()
    before = len(content) - len(content.lstrip())
    return content[:before], content[before + len(core) :]


def _split(skeleton: str) -> tuple[list[int], list[str]]:
    """Messages in the order of their markers, and the literal text around those."""
    parts = _MARK.split(skeleton)
    return [int(number) for number in parts[1::2]], parts[::2]


def _kept_edges(
    apply: Apply,
    contents: Sequence[str],
    edges: list[tuple[str, str]],
    order: list[int],
    literals: list[str],
) -> list[tuple[int, int]]:
    """How much white space before and after each content the template keeps; 0 where that cannot be told.

    In the same template without that white space, literals are shorter by what is kept.
    """
    kept = [[0, 0] for _ in order]
    if not any(before or after for before, after in edges):
        return [(0, 0) for _ in order]
    bare = [_mark(at) if content.strip() else content for at, content in enumerate(contents)]
    try:
        bare_order, bare_literals = _split(apply(bare))
    except RejectedRow:
        bare_order, bare_literals = [], []
    if bare_order == order:
        for gap, (literal, bare_literal) in enumerate(zip(literals, bare_literals, strict=True)):
            after = edges[order[gap - 1]][1] if gap else ""
            before = edges[order[gap]][0] if gap < len(order) else ""
            extra = len(literal) - len(bare_literal)
            # Where both sides could have lost it, the message ahead keeps what it can: the text is the same.
            for ahead in range(min(extra, len(after)), -1, -1):
                behind = len(before) - (extra - ahead)
                if behind >= 0 and literal == after[:ahead] + bare_literal + before[behind:]:
                    if ahead:
                        kept[gap - 1][1] = ahead
                    if behind < len(before):
                        kept[gap][0] = len(before) - behind
                    break
    return [(before, after) for before, after in kept]


def _by_insertion(apply: Apply, contents: Sequence[str], message: int, text: str) -> Place | None:
    content = contents[message]
    if not content.strip():
        return None
    before, after = (len(edge) for edge in _edges(content))
    core_end = len(content) - after
    middle = (before + core_end) // 2
    cuts = [core_end, before, middle, (before + middle) // 2, (middle + core_end) // 2]
    best: tuple[bool, int, Place] | None = None
    seen = False
    for cut in dict.fromkeys(cuts):
        at, same = _insert(apply, contents, message, cut, text)
        seen |= not same
        if at is None:
            continue
        left = common_length(content[:cut][::-1], text[:at][::-1])
        right = common_length(content[cut:], text[at:])
        place = Place(at - left, at + right, cut - left)
        length = place.end - place.start
        if length == len(content):
            if not (before or after) or _lands(apply, contents, message, place, text):
                return place
            # White space of the template's own stands where this content's was.
            return Place(place.start + before, place.end - after, before)
        # Of several parts the one at the end: what precedes an answer there is a thought, left out.
        is_end = place.offset + length >= core_end
        if length and (best is None or (is_end, length) > best[:2]):
            best = is_end, length, place
    if not seen:
        return None
    part = None if best is None else _without_chance(apply, contents, message, best[2], text)
    # The rest has to be left out: not shown otherwise.
    if part is None or not _is_all(apply, contents, message, part, text):
        raise RejectedRow("template: changes a message", f"message {message} (from 0) is not shown as it is")
    return part


def _without_chance(
    apply: Apply, contents: Sequence[str], message: int, place: Place, text: str
) -> Place | None:
    """The part without characters at its ends that are the template's own and alike by chance: `>`.

    Those of the content are where a marker beside them comes in beside them; None if nothing is left.
    """

    def lands(cut: int, at: int) -> bool:
        return _insert(apply, contents, message, cut, text)[0] == at

    start, end, offset = place
    last = offset + end - start
    shorter = range(min(end - start, MAX_CHANCE))
    left = 0 if not offset else next((n for n in shorter if lands(offset + n, start + n)), None)
    if left is None:
        return None
    is_cut = last < len(contents[message])
    right = 0 if not is_cut else next((n for n in shorter if lands(last - n, end - n)), None)
    if right is None or left + right >= end - start:
        return None
    return Place(start + left, end - right, offset + left)


def _lands(apply: Apply, contents: Sequence[str], message: int, place: Place, text: str) -> bool:
    """Whether markers at both ends of the part come in at both ends of its place."""
    start, end, offset = place
    return all(
        _insert(apply, contents, message, cut, text)[0] == at
        for cut, at in ((offset, start), (offset + end - start, end))
    )


def _is_all(apply: Apply, contents: Sequence[str], message: int, place: Place, text: str) -> bool:
    """Whether the template writes the same without the rest of the content."""
    part = contents[message][place.offset : place.offset + place.end - place.start]
    try:
        return apply([*contents[:message], part, *contents[message + 1 :]]) == text
    except RejectedRow:
        return False


def _insert(
    apply: Apply, contents: Sequence[str], message: int, cut: int, text: str
) -> tuple[int | None, bool]:
    """Where a marker at `cut` of a content comes in, if it is all that does; whether nothing has changed."""
    mark = _mark(message)
    content = contents[message]
    changed = [*contents[:message], content[:cut] + mark + content[cut:], *contents[message + 1 :]]
    try:
        shown = apply(changed)
    except RejectedRow:
        return None, False
    before, found, after = shown.partition(mark)
    return (len(before) if found and before + after == text else None), shown == text


def _check_apart(places: list[Place]) -> None:
    places = sorted(places)
    for one, other in pairwise(places):
        if other.start < one.end:
            raise RejectedRow("template: changes a message", "two messages share a part of the text")
