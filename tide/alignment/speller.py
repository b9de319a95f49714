"""What a tokenizer reads in place of a piece of text, before its model cuts it: normalized, without the white
space that its pre-tokenizer drops, with the prefix that it adds.

The tokenizer's own steps are run on the piece, between two letters where the piece stands inside a text, so
that what a step does at the edges of a text is told from what it does everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from tide.alignment.tokenizer_spec import library_document, without_first_prefix
from tide.alignment.vocabulary import piece_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tide.alignment.tokenizer_spec import TokenizerSpec

# A letter that normalizers leave as it is, and that neither joins with its neighbours nor is dropped.
ANCHOR = "a"


class Speller:
    """Runs a tokenizer's normalizer and pre-tokenizer. Without a spec, text is read as it is."""

    def __init__(self, spec: TokenizerSpec | None = None) -> None:
        self.changes_text = spec is not None and not spec.spells_text
        self._byte_level = spec is not None and spec.byte_level
        self._space = None if spec is None else spec.space
        self._normalizer = None if spec is None else spec.normalizer
        self._pre_tokenizer = None if spec is None else spec.pre_tokenizer
        self._load()

    def _load(self) -> None:
        later = without_first_prefix(self._pre_tokenizer)
        self._at_start = Tokenizer.from_str(library_document(self._normalizer, self._pre_tokenizer))
        self._later = Tokenizer.from_str(library_document(self._normalizer, later))
        # What stands before the anchor when it begins a text: an added prefix.
        self._heads = {at_start: self.whole(ANCHOR, at_start=at_start) for at_start in (True, False)}

    def prefix(self, *, at_start: bool) -> bytes:
        """What the tokenizer puts before a letter that begins a text, or else one behind an added token."""
        return self._heads[at_start].removesuffix(ANCHOR.encode())

    def __getstate__(self) -> dict[str, Any]:
        loaded = ("_at_start", "_later", "_heads")
        return {name: value for name, value in self.__dict__.items() if name not in loaded}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def whole(self, text: str, *, at_start: bool) -> bytes:
        """What the tokenizer reads for a whole text; `at_start` is False behind an added token."""
        backend = self._at_start if at_start else self._later
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        pieces = [text]
        if backend.pre_tokenizer is not None:
            pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return b"".join(
            piece_bytes(piece, byte_level=self._byte_level, space=self._space) for piece in pieces
        )

    def inside(self, unit: str) -> bytes | None:
        """What it reads for `unit` between two letters; None where the unit changes the letters."""
        return self._between(self.whole(ANCHOR + unit + ANCHOR, at_start=True), self._heads[True], ANCHOR)

    def at_end(self, unit: str) -> bytes | None:
        """What it reads for `unit` after a letter, at the end of the text."""
        return self._between(self.whole(ANCHOR + unit, at_start=True), self._heads[True], "")

    def at_beginning(self, unit: str, *, at_start: bool, is_last: bool) -> tuple[bytes, bytes]:
        """What it reads for `unit` where a text begins, or behind an added token.

        Returns:
            The prefix that it adds, which is nothing of the text; and what it reads for the unit.
        """
        if is_last:
            spelled, plain = self.whole(unit, at_start=at_start), self.at_end(unit)
        else:
            followed = self._between(self.whole(unit + ANCHOR, at_start=at_start), b"", ANCHOR)
            if followed is None:
                return b"", self.whole(unit, at_start=at_start)
            spelled, plain = followed, self.inside(unit)
        prefix = self.prefix(at_start=at_start)
        if (
            spelled != plain
            and prefix
            and spelled.startswith(prefix)
            and plain in (None, spelled[len(prefix) :])
        ):
            return prefix, spelled[len(prefix) :]
        return b"", spelled

    @staticmethod
    def _between(spelled: bytes, head: bytes, tail: str) -> bytes | None:
        after = len(spelled) - len(tail)
        if after < len(head) or not spelled.startswith(head) or not spelled.endswith(tail.encode()):
            return None
        return spelled[len(head) : after]
