"""What a tokenizer reads in place of a text: normalized, without the whitespace that it drops.

The tokenizer's own steps are run on short pieces between two letters, once for each. A piece is a character
with the marks that join it, or a run of blanks where the tokenizer does not read blanks one by one.

Legend: N characters, P pieces that are respelled.
"""

from __future__ import annotations

import unicodedata
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from tide.alignment.tokenizer_spec import library_document, without_first_prefix
from tide.alignment.vocabulary import piece_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int8, Int64, UInt8, UInt32

    from tide.alignment.literals import Literal
    from tide.alignment.token_stream import Texts
    from tide.alignment.tokenizer_spec import TokenizerSpec

    CodePoints = UInt32[np.ndarray, " N"] | UInt8[np.ndarray, " N"]

# A letter that normalizers leave as it is, and that neither joins its neighbours nor is dropped.
ANCHOR = "a"
NUM_CODE_POINTS = 0x110000
MAX_PIECES = 1 << 18  # Then the cache starts anew.
MAX_CACHED_CHARS = 64  # Longer pieces are spelled each time.
# How a character is read: as itself; otherwise; joined to the one before; in a run with other blanks.
UNSEEN, PLAIN, RESPELLED, JOINS, BLANK = range(5)


class Place(IntEnum):
    """Where a piece stands."""

    TEXT_START = 0
    BEHIND_ADDED_TOKEN = 1
    INSIDE = 2


class Segment(NamedTuple):
    """Text between added tokens, in characters; never empty."""

    start: int
    end: int
    place: Place


class Pieces(NamedTuple):
    """Respelled pieces, in order; one that is empty is a prefix, added to the text.

    Attributes:
        starts, ends: [P] int64, in characters.
        ids: [P] int64, their spellings.
    """

    starts: Int64[np.ndarray, " P"]
    ends: Int64[np.ndarray, " P"]
    ids: Int64[np.ndarray, " P"]


class Spellings(NamedTuple):
    """Spellings of all pieces: joined; where each begins, its length, and whether it is not the piece."""

    flat: UInt8[np.ndarray, " T"]
    starts: Int64[np.ndarray, " I"]
    lengths: Int64[np.ndarray, " I"]
    changes: Bool[np.ndarray, " I"]


class Speller:
    """Runs a tokenizer's normalizer and pre-tokenizer; without a spec, text is read as it is."""

    def __init__(self, spec: TokenizerSpec | None = None) -> None:
        self.respells = spec is not None and not spec.spells_text
        self._spec = spec
        normalizer, steps = (None, None) if spec is None else (spec.normalizer, spec.pre_tokenizer)
        documents = (library_document(normalizer, of) for of in (steps, without_first_prefix(steps)))
        self._backends = [Tokenizer.from_str(document) for document in documents]
        # What stands before the anchor when it begins a text is an added prefix.
        self._prefixes = [
            self.whole(ANCHOR, place).removesuffix(ANCHOR.encode())
            for place in (Place.TEXT_START, Place.BEHIND_ADDED_TOKEN)
        ]
        self._reads_runs = self.respells and any(map(self._joins_blanks, " \t\n"))
        self._reset()

    def _reset(self) -> None:
        self._ids: dict[tuple[str, bytes], int] = {}
        self._inside: dict[str, int] = {}
        self._prefix_of: dict[tuple[str, Place], bytes] = {}
        self._spellings: list[bytes] = []
        self._changes: list[bool] = []
        self._arrays: Spellings | None = None
        self._kinds: Int8[np.ndarray, " C"] | None = None
        self._singles: Int64[np.ndarray, " C"] | None = None

    def __reduce__(self) -> tuple[type[Speller], tuple[TokenizerSpec | None]]:
        return Speller, (self._spec,)

    def whole(self, text: str, place: Place = Place.TEXT_START) -> bytes:
        """What the tokenizer reads for a whole text."""
        backend = self._backends[place == Place.BEHIND_ADDED_TOKEN]
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        pieces = [text]
        if backend.pre_tokenizer is not None:
            pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        byte_level, space = (False, None) if self._spec is None else (self._spec.byte_level, self._spec.space)
        return b"".join(piece_bytes(piece, byte_level=byte_level, space=space) for piece in pieces)

    def piece(self, piece: str, place: Place = Place.INSIDE) -> bytes | None:
        """What it reads for a piece before a letter; None where the piece changes the letters beside it."""
        head = b""
        if place == Place.INSIDE:
            piece, head = ANCHOR + piece, self._prefixes[Place.TEXT_START] + ANCHOR.encode()
        spelled = self.whole(piece + ANCHOR, place)
        after = len(spelled) - len(ANCHOR)
        if after < len(head) or not spelled.startswith(head) or not spelled.endswith(ANCHOR.encode()):
            return None
        return spelled[len(head) : after]

    def respelled(self, texts: Texts, segments: Sequence[Segment], literals: Sequence[Literal]) -> Pieces:
        """The pieces that are read otherwise than they are written.

        Args:
            texts: N characters.
            segments: in order; together with the literals, all text.
            literals: added tokens in the texts, which are read as they are.
        """
        text, points = texts.text, texts.points
        if not self.respells or not segments:
            none = np.zeros(0, dtype=np.int64)
            return Pieces(none, none, none)
        if len(self._spellings) > MAX_PIECES:
            self._reset()
        kinds = self._kinds_of(points)
        for literal in literals:
            kinds[literal.start : literal.end] = PLAIN
        first_chars = np.array([segment.start for segment in segments], dtype=np.int64)
        starts, ends = _bounds(kinds, first_chars)
        assert self._singles is not None
        ids = self._singles[points[starts]]
        for at in np.flatnonzero(ends - starts > 1).tolist():
            ids[at] = self._inside_id(text[starts[at] : ends[at]])
        is_changed = self.arrays().changes[ids]
        found = Pieces(starts[is_changed], ends[is_changed], ids[is_changed])
        prefixes = [
            (segment.start, segment.start, self.intern("", prefix))
            for segment in segments
            if (prefix := self._prefix_at(text[segment.start], segment.place))
        ]
        if not prefixes:
            return found
        merged = [np.append(*pair) for pair in zip(found, np.array(prefixes).T, strict=True)]
        order = np.lexsort((merged[1], merged[0]))
        return Pieces(*(of[order] for of in merged))

    def intern(self, piece: str, spelled: bytes) -> int:
        """The number of a piece and its spelling."""
        number = self._ids.setdefault((piece, spelled), len(self._spellings))
        if number == len(self._spellings):
            self._spellings.append(spelled)
            self._changes.append(spelled != piece.encode())
            self._arrays = None
        return number

    def arrays(self) -> Spellings:
        """The spellings of all pieces by number."""
        if self._arrays is None:
            lengths = np.fromiter(map(len, self._spellings), dtype=np.int64, count=len(self._spellings))
            flat = np.frombuffer(b"".join(self._spellings), dtype=np.uint8)
            changes = np.array(self._changes, dtype=np.bool_)
            self._arrays = Spellings(flat, np.cumsum(lengths) - lengths, lengths, changes)
        return self._arrays

    def _prefix_at(self, character: str, place: Place) -> bytes:
        """What is added before a character that begins a segment."""
        key = character, place
        if key not in self._prefix_of:
            prefix, inside = self._prefixes[place], self.piece(character)
            # Some tokenizers add none before a blank.
            with_prefix = prefix + (character.encode() if inside is None else inside)
            self._prefix_of[key] = prefix if self.piece(character, place) == with_prefix else b""
        return self._prefix_of[key]

    def _inside_id(self, piece: str) -> int:
        found = self._inside.get(piece)
        if found is None:
            spelled = self.piece(piece)
            if spelled is None:
                spelled = self.whole(piece, Place.BEHIND_ADDED_TOKEN)
            found = self.intern(piece, spelled)
            if len(piece) <= MAX_CACHED_CHARS:
                self._inside[piece] = found
        return found

    def _kinds_of(self, points: CodePoints) -> Int8[np.ndarray, " N"]:
        if self._kinds is None or self._singles is None:
            self._kinds = np.zeros(NUM_CODE_POINTS, dtype=np.int8)
            self._singles = np.zeros(NUM_CODE_POINTS, dtype=np.int64)
        kinds = self._kinds[points]
        if not kinds.all():
            for point in np.unique(points[kinds == UNSEEN]).tolist():
                self._kinds[point] = self._classify(chr(point))
                self._singles[point] = self._inside_id(chr(point))
            kinds = self._kinds[points]
        found: Int8[np.ndarray, " N"] = kinds
        return found

    def _classify(self, character: str) -> int:
        spelled = self.piece(character)
        if spelled is None or joins_previous(character):
            return JOINS
        if self._reads_runs and not spelled.strip():
            return BLANK
        return PLAIN if spelled == character.encode() else RESPELLED

    def _joins_blanks(self, blank: str) -> bool:
        """Return True if eight blanks are read otherwise than eight times one."""
        return self.piece(blank * 8) != (self.piece(blank) or b"") * 8


def _bounds(
    kinds: Int8[np.ndarray, " N"], first_chars: Int64[np.ndarray, " G"]
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Where pieces of other than plain characters begin and end; no piece crosses a segment's first."""
    at = np.flatnonzero(kinds != PLAIN)
    if not len(at):
        return at, at
    kind = kinds[at]
    follows = np.append(False, np.diff(at) == 1)
    blank_before = follows & np.append(False, kind[:-1] == BLANK)
    begins_segment = np.isin(at, first_chars, assume_unique=False)
    is_joined = (kind == JOINS) & ~begins_segment
    begins = begins_segment | (kind == RESPELLED) | ((kind == BLANK) & ~blank_before) | (is_joined & ~follows)
    first = np.flatnonzero(begins)
    # A plain character that a mark joins is the first of its piece.
    starts = at[first] - is_joined[first]
    ends = at[np.append(first[1:], len(at)) - 1] + 1
    return starts, ends


def joins_previous(character: str) -> bool:
    """Return True if a normalizer may combine the character with the one before it."""
    if character.isascii():
        return False
    head = unicodedata.normalize("NFKD", character)[:1]
    is_jamo = "\u1160" <= head <= "\u11ff" or "\ud7b0" <= head <= "\ud7ff"
    is_mark = unicodedata.category(head).startswith("M") or unicodedata.combining(head) > 0
    return is_mark or is_jamo
