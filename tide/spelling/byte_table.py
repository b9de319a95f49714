"""The bytes of every token id of a tokenizer, and where tokens lie in a text.

Everything is read from the serialised tokenizer (the contents of `tokenizer.json`) and checked against the
text; no model family is known by name.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from tide.spelling.placing import place_tokens
from tide.spelling.token_stream import ERROR_CONTEXT, Texts, Tokens, first_difference, gather, offsets
from tide.spelling.tokenizer_spec import read_spec
from tide.spelling.vocabulary import vocabulary_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from jaxtyping import Bool, Int32, Int64
    from numpy.typing import ArrayLike
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from tide.spelling.token_spans import TokenSpans
    from tide.spelling.tokenizer_spec import TokenizerSpec

# Tables that `from_tokenizer` keeps, by the digest of the serialised tokenizer.
MAX_CACHED = 16
_CACHE: OrderedDict[bytes, ByteTable] = OrderedDict()


class ByteTable:
    """Bytes per token id. A snapshot: tokens added to the tokenizer later are not seen.

    Attributes:
        tokens: V byte strings; empty for special tokens and for ids that the tokenizer does not use.
        lengths: [V] int32, bytes per token.
        special: [V] bool, True for special tokens: they contribute no bytes, and no chunk crosses one.
        special_text: the literal text of special tokens, as it stands in a rendered template.
        spells_text: nothing is done to the text before the model reads it, so that joined bytes are the text.
            Where it is False, `spans` rejects what the tokenizer respells.
        drops_whitespace: blanks between words are dropped; one that a token begins with was put there.
    """

    tokens: tuple[bytes, ...]
    lengths: Int32[np.ndarray, " V"]
    special: Bool[np.ndarray, " V"]
    special_text: dict[int, bytes]
    spells_text: bool
    drops_whitespace: bool

    def __init__(
        self,
        tokens: Sequence[bytes],
        special_ids: Collection[int] = (),
        special_text: Mapping[int, bytes] | None = None,
        *,
        ambiguous_ids: Collection[int] = (),
        spec: TokenizerSpec | None = None,
    ) -> None:
        """Build a table from known bytes.

        Args:
            tokens: V byte strings, indexed by token id.
            special_ids: ids of special tokens; their bytes are dropped.
            special_text: literal texts of special tokens, where a text may hold them.
            ambiguous_ids: tokens that do not spell the same bytes in every text; they count as unknown.
            spec: what the tokenizer does to text; None if it reads text as it is.
        Raises:
            ValueError: a special id is not in [0, V), or an id with special text is no special id.
        """
        special_text = special_text or {}
        self.special = np.zeros(len(tokens), dtype=np.bool_)
        self.special[check_ids(list(special_ids), len(tokens), "ByteTable", "special_ids")] = True
        if unknown := sorted(set(special_text) - set(special_ids)):
            raise ValueError(
                f"ByteTable: special_text must be of special ids; got {unknown}. Add them to special_ids."
            )
        # With all 256 bytes in the vocabulary, every text can be spelled: no token is unknown.
        spells_all = len({token for token in tokens if len(token) == 1}) == 256
        self._unknown = np.zeros(len(tokens), dtype=np.bool_)
        self._unknown[list(ambiguous_ids)] = True
        if spec is not None and spec.unknown_id is not None and not spells_all:
            self._unknown[spec.unknown_id] = True
        is_empty = self.special | self._unknown
        self.tokens = tuple(
            b"" if empty else token for token, empty in zip(tokens, is_empty.tolist(), strict=True)
        )
        self.lengths = np.fromiter(map(len, self.tokens), dtype=np.int32, count=len(tokens))
        self.special_text = dict(special_text)
        self.spells_text = spec is None or spec.spells_text
        self.drops_whitespace = spec is not None and spec.drops_whitespace
        self._flat = np.frombuffer(b"".join(self.tokens), dtype=np.uint8)
        self._offsets = np.cumsum(self.lengths, dtype=np.int64) - self.lengths

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerFast | Tokenizer) -> ByteTable:
        """Read the bytes of every token; the table of a tokenizer with the same content is made once.

        Byte-level BPE, BPE and Unigram of SentencePiece, WordPiece and WordLevel are read, with any
        normalizer and pre-tokenizer of the library. Added tokens that are not special stand for the UTF-8
        bytes of their text; those that swallow whitespace (lstrip, rstrip) count as special, and those that
        the model spells otherwise as unknown.

        Args:
            tokenizer: a transformers tokenizer with a Rust backend, or a `tokenizers.Tokenizer`.
        Returns:
            A table of V = (highest id + 1) entries, added tokens included. Do not change it: it is shared.
        Raises:
            ValueError: the tokenizer has no serialised form, or its model is of another kind.
        Source: the `tokenizer.json` format of the `tokenizers` library.
        """
        serialised = _serialise(tokenizer)
        digest = hashlib.blake2b(serialised.encode(), digest_size=32).digest()
        if digest not in _CACHE:
            spec = read_spec(serialised)
            tokens, special_ids, ambiguous_ids = vocabulary_bytes(spec)
            special_text = {a.token_id: a.content.encode() for a in spec.added if a.special}
            _CACHE[digest] = cls(tokens, special_ids, special_text, ambiguous_ids=ambiguous_ids, spec=spec)
            if len(_CACHE) > MAX_CACHED:
                _CACHE.popitem(last=False)
        _CACHE.move_to_end(digest)
        return _CACHE[digest]

    def __len__(self) -> int:
        return len(self.tokens)

    def token_bytes(self, ids: ArrayLike) -> list[bytes]:
        """The bytes of each id.

        Args:
            ids: [L] integers.
        Returns:
            L byte strings; empty for special tokens. Joined, they are what the tokenizer read: the text
            itself where `spells_text`.
        Raises:
            ValueError: ids is not one row of integers in [0, V).
        """
        rows = check_ids(ids, len(self), "ByteTable.token_bytes", "ids")
        return [self.tokens[token_id] for token_id in rows.tolist()]

    def stream(self, ids: Int64[np.ndarray, " L"], borders: Int64[np.ndarray, " R1"] | None = None) -> Tokens:
        """The tokens as one stream of bytes; `ids` are checked already, of texts that begin at `borders`."""
        lengths = self.lengths[ids].astype(np.int64)
        stream = gather(self._flat, self._offsets[ids], lengths)
        borders = offsets([len(ids)]) if borders is None else borders
        return Tokens(ids, np.cumsum(lengths), lengths, self.special[ids], stream.tobytes(), borders)

    def spans(self, text: str, ids: ArrayLike) -> TokenSpans:
        """Where each token lies in the UTF-8 bytes of the text that it was made of.

        Special tokens whose literal text stands in `text` span it; those that were added to it span nothing.
        Tokens of respelled text are rejected, and an unknown token with the text that it may stand for. Only
        if the tokenizer spells its texts (`spells_text`) may the text go on behind the last token;
        others place tokens wrongly then, without an error.

        >>> from tide.alignment import ByteTable
        >>> table = ByteTable([b"un", b"happy", b"<s>"], special_ids=[2], special_text={2: b"<s>"})
        >>> spans = table.spans("<s>unhappy", [2, 0, 1, 2])
        >>> spans.starts.tolist(), spans.ends.tolist(), spans.has_bytes.tolist()
        ([0, 3, 5, 10], [3, 5, 10, 10], [False, True, True, False])

        Args:
            text: what was tokenized, in one piece.
            ids: [L] integers, no padding but special tokens.
        Returns:
            Spans [L]. O(L).
        Raises:
            ValueError: ids is not one row of integers in [0, V), or they are of another text.
        """
        spans, tokens, foreign = self._placed([text], [ids])
        if len(foreign):
            at = first_difference(tokens.stream, spans.text) or 0
            context = slice(max(0, at - ERROR_CONTEXT), at + ERROR_CONTEXT)
            raise ValueError(
                f"ByteTable.spans: the ids must be of the text; its bytes first differ at {at}: tokens "
                f"{tokens.stream[context]!r} (token {tokens.token_at(at)}), text {spans.text[context]!r}. "
                "Pass the text that the ids were made of, whole and in one piece."
            )
        return spans

    def spans_of(self, texts: Sequence[str], ids: Sequence[ArrayLike]) -> TokenSpans:
        """Where the tokens of several texts lie, one text after the other: `spans` of all in one go.

        Args:
            texts: R texts, each what was tokenized in one piece.
            ids: R rows of integers, the tokens of each.
        Returns:
            Spans of all tokens; the texts, joined, are their text. A text that is not of its ids is rejected.
        Raises:
            ValueError: ids are not rows of integers in [0, V).
        """
        return self._placed(texts, ids)[0]

    def _placed(
        self, texts: Sequence[str], ids: Sequence[ArrayLike]
    ) -> tuple[TokenSpans, Tokens, Int64[np.ndarray, " K"]]:
        """Spans, what the tokens spell, and the texts that they are not of."""
        rows = check_ids(ids[0] if len(ids) == 1 else _joined(ids), len(self), "ByteTable.spans", "ids")
        joined, tokens = Texts.joined(texts), self.stream(rows, offsets(map(np.size, ids)))
        spans, foreign = place_tokens(
            joined, tokens, self.special_text, self._unknown[rows], spells_text=self.spells_text
        )
        return spans, tokens, foreign


def _joined(ids: Sequence[ArrayLike]) -> Int64[np.ndarray, " L"]:
    return np.concatenate([np.asarray(row) for row in ids if np.size(row)] or [np.zeros(0, np.int64)])


def check_ids(ids: ArrayLike, vocab_size: int, function: str, name: str) -> Int64[np.ndarray, " L"]:
    """One row of token ids as int64; a ValueError in the name of `function` where they are not."""
    try:
        array = np.asarray(ids)
        described = f"shape {array.shape}, dtype {array.dtype}"
    except ValueError:
        array, described = np.empty((0, 0)), "rows of unequal length"
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"{function}: {name} must be one row of integer token ids; got {described}. "
            "Pass one sequence at a time, without padding."
        )
    rows = array.astype(np.int64)
    if rows.size and (int(rows.min()) < 0 or int(rows.max()) >= vocab_size):
        first = int(np.argmax((rows < 0) | (rows >= vocab_size)))
        raise ValueError(
            f"{function}: {name} must lie in [0, {vocab_size}), the ids of the tokenizer; got "
            f"{int(rows[first])} at position {first}. Use the table of the tokenizer that made the ids, and "
            "strip label padding such as -100."
        )
    return rows


def _serialise(tokenizer: PreTrainedTokenizerFast | Tokenizer) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        raise ValueError(
            f"ByteTable.from_tokenizer: {type(tokenizer).__name__} has no Rust backend, so what it does to "
            "text cannot be read. Load a fast tokenizer, or pass a tokenizers.Tokenizer."
        )
    try:
        return str(backend.to_str())
    except Exception as error:  # The library raises plain exceptions for steps that are written in Python.
        raise ValueError(
            f"ByteTable.from_tokenizer: the tokenizer has no serialised form ({error}), so what it does to "
            "text cannot be read. Use steps of the tokenizers library."
        ) from error
