"""Text cut into units that a normalizer changes one by one, and what a tokenizer reads in place of each.

A unit is a character with the marks that combine with it, a sequence of Hangul jamo, or a run of blanks where
the tokenizer does not read blanks one by one. Each distinct unit is spelled once, by the tokenizer's own
steps.

Legend: N characters, U units.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int8, Int32, Int64, UInt8, UInt32

    from tide.alignment.speller import Speller
    from tide.alignment.token_stream import Texts

NUM_CODE_POINTS = 0x110000
# A copy of a few bytes costs as much by slices of bytes as this many bytes by an index each.
BYTES_PER_COPY = 16
# Longer units are not cut between two characters that are the same.
MAX_CUT_RUN = 16
MAX_UNITS = 1 << 18
UNSEEN, ALONE, JOINS, BLANK = range(4)  # kinds of characters


class Literal(NamedTuple):
    """An added token's place in a text, in characters, and the bytes that the token stands for."""

    start: int
    end: int
    token_id: int
    spelled: bytes


@dataclass(frozen=True, eq=False)
class Layout:
    """A text in stretches, beside the stream of bytes that its tokenizer reads.

    A stretch is a unit that is read in another spelling, or some that are dropped; an added token; an added
    prefix; or all that lies between two of these in one text and is read as it is.

    Attributes:
        chars: [U + 1] int64, where each stretch begins in the text, in characters. A prefix has none.
        text_offsets: [U + 1] int64, the same in UTF-8 bytes.
        stream_offsets: [U + 1] int64, where its spelling begins in the stream.
        changed: [U] bool, the spelling is not the text of the stretch.
        stream: all spellings, one after the other.
        literals: the stretch of each literal.
    """

    chars: Int64[np.ndarray, " U1"]
    text_offsets: Int64[np.ndarray, " U1"]
    stream_offsets: Int64[np.ndarray, " U1"]
    changed: Bool[np.ndarray, " U"]
    stream: bytes
    literals: Int64[np.ndarray, " O"]

    @cached_property
    def stretch_at(self) -> Int64[np.ndarray, " S"]:
        """[S] int64: the stretch that each byte of the stream is in."""
        return np.repeat(np.arange(len(self.changed)), np.diff(self.stream_offsets))


if TYPE_CHECKING:
    # Numbers of characters; bytes where all are ASCII.
    Points: TypeAlias = UInt32[np.ndarray, " N"] | UInt8[np.ndarray, " N"]
    # Spellings of all units, one after the other, where each begins, its length, and whether it is a new one.
    _Arrays = tuple[
        UInt8[np.ndarray, " T"], Int64[np.ndarray, " I"], Int64[np.ndarray, " I"], Bool[np.ndarray, " I"]
    ]


class UnitTable:
    """The units that one tokenizer's texts were made of so far, up to MAX_UNITS; then it begins anew."""

    def __init__(self, speller: Speller) -> None:
        self.speller = speller
        self._reset()

    def _reset(self) -> None:
        self._ids: dict[tuple[str, bytes], int] = {}
        self._spelled: list[bytes] = []
        self._changed: list[bool] = []
        self._long: dict[tuple[str, bool, bool, bool, bool], list[tuple[int, int]]] = {}
        self._beginning: dict[tuple[str, bool, bool], tuple[int | None, int]] = {}
        self._end: dict[str, int | None] = {}
        self._arrays: _Arrays | None = None
        self._kinds: Int8[np.ndarray, " C"] | None = None
        self._singles: Int32[np.ndarray, " C"] | None = None
        self._reads_runs = self._reads_blanks_in_runs()

    def __getstate__(self) -> Speller:
        return self.speller

    def __setstate__(self, speller: Speller) -> None:
        self.speller = speller
        self._reset()

    def lay_out(self, texts: Texts, literals: Sequence[Literal], joined: set[int]) -> Layout:
        """Cut texts into units and spell them.

        Args:
            texts: N characters in all.
            literals: added tokens that stand in the texts, in order, apart.
            joined: characters at which no unit may begin; no text begins at one.
        """
        if len(self._spelled) + len(self._long) > MAX_UNITS:
            self._reset()
        text, data = texts.text, texts.data
        points, byte_at = _characters(text, data)
        segments = _segments(texts.chars.tolist(), literals)
        first_chars = texts.chars[texts.chars < len(points)]  # of texts that are not empty
        text_starts = set(first_chars.tolist())
        begins = self._beginnings(points, literals, joined)
        begins[first_chars] = True
        places, ids = self._long_units(text, begins, literals, segments, joined, text_starts)
        firsts = np.flatnonzero(begins)
        units = self._singles_of(points)[firsts]
        if places:
            units[np.searchsorted(firsts, places)] = ids
        literal_units = np.searchsorted(
            firsts, np.array([literal.start for literal in literals], dtype=np.int64)
        )
        for unit, literal in zip(literal_units.tolist(), literals, strict=True):
            units[unit] = self._intern(text[literal.start : literal.end], literal.spelled)

        prefix_units, prefix_ids = [], []
        edges = np.append(firsts, len(points))
        inner = np.array(segments, dtype=np.int64).reshape(-1, 2) - (0, 1)
        outer = np.searchsorted(firsts, inner, side="right") - 1
        seconds, lasts = edges[outer[:, 0] + 1].tolist(), edges[outer[:, 1]].tolist()
        for (start, end), (first, last), second, last_start in zip(
            segments, outer.tolist(), seconds, lasts, strict=True
        ):
            prefix, units[first] = self._at_beginning(
                text[start:second], at_start=start in text_starts, is_last=first == last
            )
            if prefix is not None:
                prefix_units.append(first)
                prefix_ids.append(prefix)
            if last > first:
                at_end = self._at_end(text[last_start:end])
                units[last] = units[last] if at_end is None else at_end
        chars = edges
        if prefix_units:
            inserted = np.array(prefix_units, dtype=np.int64)
            units = np.insert(units, inserted, np.array(prefix_ids, dtype=units.dtype))
            chars = np.insert(edges, inserted, firsts[inserted])
            literal_units += np.searchsorted(inserted, literal_units, side="right")
        text_units = np.searchsorted(chars[:-1], first_chars, side="left")
        return self._layout(data, chars, byte_at, units, literal_units, text_units)

    def _layout(
        self,
        data: bytes,
        chars: Int64[np.ndarray, " V1"],
        byte_at: Int64[np.ndarray, " N1"],
        units: Int32[np.ndarray, " V"],
        literals: Int64[np.ndarray, " O"],
        texts: Int64[np.ndarray, " R"],
    ) -> Layout:
        """Stretches from V units; `literals` and `texts` (where texts begin) are indices of units."""
        if self._arrays is None:
            lengths = np.fromiter(map(len, self._spelled), dtype=np.int64, count=len(self._spelled))
            flat = np.frombuffer(b"".join(self._spelled), dtype=np.uint8)
            changed = np.array(self._changed, dtype=np.bool_)
            self._arrays = flat, np.cumsum(lengths) - lengths, lengths, changed
        flat, starts, lengths, is_changed = self._arrays
        changed = is_changed[units]
        begins = changed.copy()
        begins[1:] |= changed[:-1]
        # What is dropped side by side is one stretch.
        dropped = changed & (lengths[units] == 0)
        begins[1:] &= ~(dropped[1:] & dropped[:-1])
        begins[np.concatenate([literals, literals[literals + 1 < len(units)] + 1, texts])] = True
        first = np.flatnonzero(begins)
        units, chars = units[first], chars[np.append(first, len(begins))]
        changed, text_offsets = is_changed[units], byte_at[chars]
        sizes = np.where(changed, lengths[units], np.diff(text_offsets))
        stream_offsets = np.zeros(len(units) + 1, dtype=np.int64)
        np.cumsum(sizes, out=stream_offsets[1:])
        if len(units) * BYTES_PER_COPY < len(data):
            parts = zip(
                units.tolist(),
                changed.tolist(),
                text_offsets.tolist(),
                text_offsets[1:].tolist(),
                strict=False,
            )
            stream = b"".join(
                self._spelled[unit] if new else data[start:end] for unit, new, start, end in parts
            )
        else:
            source = np.concatenate([flat, np.frombuffer(data, dtype=np.uint8)])
            origin = np.where(changed, starts[units], len(flat) + text_offsets[:-1])
            stream = gather(source, origin, sizes).tobytes()
        return Layout(chars, text_offsets, stream_offsets, changed, stream, np.searchsorted(first, literals))

    def _beginnings(
        self, points: Points, literals: Sequence[Literal], joined: set[int]
    ) -> Bool[np.ndarray, " N"]:
        kinds = self._kinds_of(points)
        begins: Bool[np.ndarray, " N"] = kinds != JOINS
        begins[1:] &= (kinds[1:] != BLANK) | (kinds[:-1] != BLANK)
        begins[list(joined)] = False
        for literal in literals:
            begins[literal.start : literal.end] = False
            begins[literal.start] = True
            begins[literal.end : literal.end + 1] = True
        return begins

    def _long_units(
        self,
        text: str,
        begins: Bool[np.ndarray, " N"],
        literals: Sequence[Literal],
        segments: Sequence[tuple[int, int]],
        joined: set[int],
        text_starts: set[int],
    ) -> tuple[list[int], list[int]]:
        """Units of several characters: where they begin and their ids. Runs of blanks are cut in `begins`."""
        edges = np.append(np.flatnonzero(begins), len(begins))
        long = np.flatnonzero(np.diff(edges) > 1)
        added = {literal.start for literal in literals}
        segment_starts, segment_ends = {start for start, _ in segments}, {end for _, end in segments}
        places, ids = [], []
        for start, end in zip(edges[long].tolist(), edges[long + 1].tolist(), strict=True):
            if start in added:
                continue
            unit = text[start:end]
            is_first, is_last = start in segment_starts, end in segment_ends
            is_joined = bool(joined) and not joined.isdisjoint(range(start, end))
            key = unit, is_first, is_last, start in text_starts, is_joined
            parts = self._long.get(key)
            if parts is None:
                parts = self._long[key] = self._parts(*key)
            for offset, unit_id in parts:
                begins[start + offset] = True
                places.append(start + offset)
                ids.append(unit_id)
        return places, ids

    def _parts(
        self, unit: str, is_first: bool, is_last: bool, at_start: bool, is_joined: bool
    ) -> list[tuple[int, int]]:
        """Where the parts of a long unit begin, with their ids.

        Blanks, and units that were joined, are cut where either part is read as if the other were not there.
        """
        kinds = self._kinds_of(np.array([ord(c) for c in unit], dtype=np.uint32))
        cuts = [0]
        if is_joined or bool((kinds == BLANK).all()):
            read = self._read(unit, is_first, is_last, at_start)
            cuts += [
                at
                for at in range(1, len(unit))
                if kinds[at] != JOINS and (len(unit) <= MAX_CUT_RUN or unit[at] != unit[at - 1])
                and self._read(unit[:at], is_first, False, at_start)
                + self._read(unit[at:], False, is_last, at_start) == read
            ]  # fmt: skip
            parts = [unit[start:end] for start, end in zip(cuts, [*cuts[1:], len(unit)], strict=True)]
            last = len(parts) - 1
            together = b"".join(
                self._read(part, is_first and at == 0, is_last and at == last, at_start)
                for at, part in enumerate(parts)
            )
            if together == read:
                ids = [self._intern(part, self._inside(part)) for part in parts]
                return list(zip(cuts, ids, strict=True))
        return [(0, self._intern(unit, self._inside(unit)))]

    def _read(self, unit: str, is_first: bool, is_last: bool, at_start: bool) -> bytes:
        """What is read for a unit with the prefix it gets, inside a text or at either edge."""
        if is_first:
            return b"".join(self.speller.at_beginning(unit, at_start=at_start, is_last=is_last))
        spelled = self.speller.at_end(unit) if is_last else None
        return self._inside(unit) if spelled is None else spelled

    def _inside(self, unit: str) -> bytes:
        spelled = self.speller.inside(unit)
        return self.speller.whole(unit, at_start=False) if spelled is None else spelled

    def _at_beginning(self, unit: str, *, at_start: bool, is_last: bool) -> tuple[int | None, int]:
        """The prefix that a unit gets where a text begins, if any, and what is read for it there."""
        key = unit, at_start, is_last
        if key not in self._beginning:
            prefix, spelled = self.speller.at_beginning(unit, at_start=at_start, is_last=is_last)
            prefix_id = self._intern("", prefix) if prefix else None
            self._beginning[key] = prefix_id, self._intern(unit, spelled)
        return self._beginning[key]

    def _at_end(self, unit: str) -> int | None:
        """What is read for a unit at the end of a text; None if that is as elsewhere."""
        if unit not in self._end:
            spelled = self.speller.at_end(unit)
            self._end[unit] = None if spelled is None else self._intern(unit, spelled)
        return self._end[unit]

    def _intern(self, unit: str, spelled: bytes) -> int:
        unit_id = self._ids.setdefault((unit, spelled), len(self._spelled))
        if unit_id == len(self._spelled):
            self._spelled.append(spelled)
            self._changed.append(spelled != unit.encode())
            self._arrays = None
        return unit_id

    def _kinds_of(self, points: Points) -> Int8[np.ndarray, " N"]:
        if self._kinds is None or self._singles is None:
            self._kinds = np.zeros(NUM_CODE_POINTS, dtype=np.int8)
            self._singles = np.zeros(NUM_CODE_POINTS, dtype=np.int32)
        kinds = self._kinds[points]
        if not kinds.all():
            for point in np.unique(points[kinds == UNSEEN]).tolist():
                self._kinds[point], self._singles[point] = self._classify(chr(point))
            kinds = self._kinds[points]
        found: Int8[np.ndarray, " N"] = kinds
        return found

    def _singles_of(self, points: Points) -> Int32[np.ndarray, " N"]:
        assert self._singles is not None
        singles: Int32[np.ndarray, " N"] = self._singles[points]
        return singles

    def _classify(self, character: str) -> tuple[int, int]:
        spelled = self.speller.inside(character)
        if spelled is None or joins_previous(character):
            return JOINS, self._intern(character, self._inside(character))
        is_blank = self._reads_runs and not spelled.strip()
        return BLANK if is_blank else ALONE, self._intern(character, spelled)

    def _reads_blanks_in_runs(self) -> bool:
        """Whether two blanks are read otherwise than twice one."""
        inside = self.speller.inside
        return any(inside(blank * 8) != (inside(blank) or b"") * 8 for blank in " \t\n")


def joins_previous(character: str) -> bool:
    """Whether a normalizer may combine the character with what stands before it."""
    if character.isascii():
        return False
    head = unicodedata.normalize("NFKD", character)[:1]
    is_jamo = "\u1160" <= head <= "\u11ff" or "\ud7b0" <= head <= "\ud7ff"
    is_mark = unicodedata.category(head).startswith("M") or unicodedata.combining(head) > 0
    return is_mark or is_jamo


def gather(
    flat: UInt8[np.ndarray, " T"], starts: Int64[np.ndarray, " K"], lengths: Int64[np.ndarray, " K"]
) -> UInt8[np.ndarray, " S"]:
    """The bytes of K stretches of `flat`, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return flat[np.repeat(starts - (ends - lengths), lengths) + np.arange(total)]


def _characters(text: str, data: bytes) -> tuple[Points, Int64[np.ndarray, " N1"]]:
    """The characters of a text by their numbers, and [N + 1] where each begins in its bytes."""
    if text.isascii():
        return np.frombuffer(data, dtype=np.uint8), np.arange(len(data) + 1)
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    byte_at = np.zeros(len(points) + 1, dtype=np.int64)
    # The first byte of a character is no continuation 10xxxxxx.
    byte_at[:-1] = np.flatnonzero((np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80)
    byte_at[-1] = len(data)
    return points, byte_at


def _segments(borders: Sequence[int], literals: Sequence[Literal]) -> list[tuple[int, int]]:
    """What lies between the borders of texts and the literals, in characters."""
    starts = sorted([*borders[:-1], *(literal.end for literal in literals)])
    ends = sorted([*borders[1:], *(literal.start for literal in literals)])
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]
