"""Two tokenizations of one text on one scale, on which equal places are equal numbers.

On the scale of a text that both sides spell as it stands, a place is a byte offset. Bytes that one side drops
have no width on it. A place inside a stretch that both sides respell alike lies between the ends of the
stretch; inside any other respelled stretch there are no places, and tokens reach to its ends.

Legend: L tokens, T tokens that have a width, E edits, B bytes of text, A pieces of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

    from tide.alignment.token_spans import TokenSpans


@dataclass(frozen=True, eq=False)
class Side:
    """One side's tokens on the scale.

    Attributes:
        counted: [L] bool, tokens that have a width.
        starts, ends: [T] int64, their edges.
        boundaries: [K] int64, places where one token ends or begins and none goes on.
        holes: [H] int64, where a stretch begins that no token of its piece covers.
        barriers: [S] int64, where special tokens stand.
    """

    counted: Bool[np.ndarray, " L"]
    starts: Int64[np.ndarray, " T"]
    ends: Int64[np.ndarray, " T"]
    boundaries: Int64[np.ndarray, " K"]
    holes: Int64[np.ndarray, " H"]
    barriers: Int64[np.ndarray, " S"]


@dataclass(frozen=True, eq=False)
class Scale:
    """Both sides on one scale from 0 to `size`, and the way back to the text.

    Attributes:
        borders: [A + 1] int64, places where pieces of the text begin and end.
    """

    student: Side
    teacher: Side
    size: int
    borders: Int64[np.ndarray, " A1"]
    fractions: int  # places per shared byte
    shared: Int64[np.ndarray, " B"] | None  # text offsets of the shared bytes; None: all
    edit_starts: Int64[np.ndarray, " E"]
    edit_ends: Int64[np.ndarray, " E"]

    def text_starts(self, places: Int64[np.ndarray, " C"]) -> Int64[np.ndarray, " C"]:
        """The shared byte behind each place; where the place is inside an edit, the edit's first."""
        whole: Int64[np.ndarray, " C"] = places // self.fractions
        return whole if self.shared is None else self.shared[whole]

    def text_ends(self, places: Int64[np.ndarray, " C"]) -> Int64[np.ndarray, " C"]:
        """The end of the shared byte before each place; where the place is inside an edit, the edit's end."""
        whole, split = places // self.fractions, places % self.fractions
        if self.shared is None:
            return whole
        ends: Int64[np.ndarray, " C"] = self.shared[whole - 1] + 1
        inside = np.flatnonzero(split)
        ends[inside] = self.edit_ends[np.searchsorted(self.edit_starts, self.shared[whole[inside]])]
        return ends


def shared_scale(student: TokenSpans, teacher: TokenSpans, borders: Int64[np.ndarray, " A1"]) -> Scale:
    """Lay two tokenizations of one text over each other; O(L + B).

    Args:
        student: [L_s].
        teacher: [L_t].
        borders: [A + 1] int64, where pieces of the text begin and end, from 0 to B; no token crosses one.
    """
    none = np.zeros(0, dtype=np.int64)
    if not _has_unshared(student) and not _has_unshared(teacher):
        return Scale(
            student=_side(student, student.starts, student.ends, None, None, borders),
            teacher=_side(teacher, teacher.starts, teacher.ends, None, None, borders),
            size=len(student.text),
            borders=borders,
            fractions=1,
            shared=None,
            edit_starts=none,
            edit_ends=none,
        )

    is_shared = _is_shared(student) & _is_shared(teacher)
    widths = np.zeros(len(is_shared) + 1, dtype=np.int64)
    np.cumsum(is_shared, out=widths[1:])
    fractions = 1 + max(_largest_split(student), _largest_split(teacher))
    edits = student.respelled
    scale = widths * fractions
    return Scale(
        student=_respelled_side(student, teacher, scale, scale[borders]),
        teacher=_respelled_side(teacher, student, scale, scale[borders]),
        size=int(scale[-1]),
        borders=scale[borders],
        fractions=fractions,
        shared=np.flatnonzero(is_shared),
        edit_starts=none if edits is None else edits.edit_starts,
        edit_ends=none if edits is None else edits.edit_ends,
    )


def _has_unshared(spans: TokenSpans) -> bool:
    return spans.respelled is not None or bool((spans.special & (spans.starts < spans.ends)).any())


def _is_shared(spans: TokenSpans) -> Bool[np.ndarray, " B"]:
    """Bytes of the text that this side neither drops nor holds in a special token."""
    starts, ends = [spans.starts[spans.special]], [spans.ends[spans.special]]
    if spans.respelled is not None:
        dropped = spans.respelled.dropped
        starts.append(spans.respelled.edit_starts[dropped])
        ends.append(spans.respelled.edit_ends[dropped])
    size = len(spans.text) + 1
    steps = np.bincount(np.concatenate(starts), minlength=size)
    steps -= np.bincount(np.concatenate(ends), minlength=size)
    is_shared: Bool[np.ndarray, " B"] = np.cumsum(steps)[:-1] == 0
    return is_shared


def _largest_split(spans: TokenSpans) -> int:
    if spans.respelled is None or not len(spans):
        return 0
    return int(max(spans.respelled.start_splits.max(), spans.respelled.end_splits.max()))


def _respelled_side(
    spans: TokenSpans, other: TokenSpans, scale: Int64[np.ndarray, " B1"], borders: Int64[np.ndarray, " A1"]
) -> Side:
    starts, ends = scale[spans.starts], scale[spans.ends]
    if spans.respelled is None:
        return _side(spans, starts, ends, None, None, borders)
    edits = spans.respelled
    is_split_start, is_split_end = edits.start_splits > 0, edits.end_splits > 0
    edit_of_start = np.searchsorted(edits.edit_starts, spans.starts[is_split_start])
    edit_of_end = np.searchsorted(edits.edit_ends, spans.ends[is_split_end])
    alike = _alike(spans, other, np.unique(np.concatenate([edit_of_start, edit_of_end])))

    # A special token inside an edit stands there, whether or not the place is a boundary.
    moved = np.zeros(len(spans), dtype=np.bool_)
    moved[is_split_start] = alike[edit_of_start]
    starts = starts + np.where(moved | spans.special, edits.start_splits, 0)
    end_moved = np.zeros(len(spans), dtype=np.bool_)
    end_moved[is_split_end] = alike[edit_of_end]
    edit_places = np.zeros(len(spans), dtype=np.int64)
    edit_places[is_split_end] = scale[edits.edit_starts[edit_of_end]]
    ends = np.where(end_moved, edit_places + edits.end_splits, ends)
    return _side(spans, starts, ends, ~is_split_start | moved, ~is_split_end | end_moved, borders)


def _alike(
    spans: TokenSpans, other: TokenSpans, candidates: Int64[np.ndarray, " K"]
) -> Bool[np.ndarray, " E"]:
    """Which of this side's edits the other side makes, too, of the same text and with the same spelling."""
    assert spans.respelled is not None
    mine, theirs = spans.respelled, other.respelled
    alike = np.zeros(len(mine.edit_starts), dtype=np.bool_)
    if theirs is None or not len(theirs.edit_starts):
        return alike
    found = np.searchsorted(theirs.edit_starts, mine.edit_starts[candidates])
    for edit, same in zip(
        candidates.tolist(), np.minimum(found, len(theirs.edit_starts) - 1).tolist(), strict=True
    ):
        alike[edit] = (
            mine.edit_starts[edit] == theirs.edit_starts[same]
            and mine.edit_ends[edit] == theirs.edit_ends[same]
            and mine.spelling(edit) == theirs.spelling(same)
        )
    return alike


def _side(
    spans: TokenSpans,
    starts: Int64[np.ndarray, " L"],
    ends: Int64[np.ndarray, " L"],
    start_is_place: Bool[np.ndarray, " L"] | None,
    end_is_place: Bool[np.ndarray, " L"] | None,
    borders: Int64[np.ndarray, " A1"],
) -> Side:
    counted = spans.has_bytes & (starts < ends)
    barriers = starts[spans.special]
    starts, ends = starts[counted], ends[counted]
    # What is covered before each token, and before the end of each piece.
    before = np.concatenate([borders[:1], ends[:-1]])[: len(starts)]
    num_before = np.searchsorted(starts, borders[1:], side="left")
    covered = np.concatenate([borders[:1], ends])[num_before]
    if len(borders) > 2:
        before = np.maximum(before, borders[np.searchsorted(borders, starts, side="right") - 1])
        covered = np.maximum(covered, borders[:-1])
    behind_hole = np.flatnonzero(starts > before)
    holes = [before[behind_hole], covered[covered < borders[1:]]]
    boundaries, reached = ends, behind_hole
    if end_is_place is not None:
        is_place = end_is_place[counted]
        boundaries = ends[is_place]
        # A piece that ends inside a respelled stretch is not covered to its end.
        last = num_before[num_before > 0] - 1
        holes.append(starts[last[~is_place[last]]])
    if start_is_place is not None:
        reached = behind_hole[start_is_place[counted][behind_hole]]
    if len(reached):
        boundaries = np.union1d(boundaries, starts[reached])
    return Side(counted, starts, ends, boundaries, np.concatenate(holes), barriers)
