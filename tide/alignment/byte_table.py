"""The bytes that every token id of a tokenizer stands for.

A byte-level BPE writes each byte as one printable character, so its vocabulary is text that has to be mapped
back. Everything is read from the serialised tokenizer (the contents of `tokenizer.json`); no model family is
known by name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from jaxtyping import Bool, Int32, Int64
    from numpy.typing import ArrayLike
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SUPPORTED = (
    "Supported: byte-level BPE, that is a BPE model with a ByteLevel pre-tokenizer (add_prefix_space=False) "
    "and a ByteLevel decoder, and no normalizer but NFC"
)
# Pre-tokenizers that only choose where text may be split. The others (Whitespace, Metaspace and their like)
# drop or replace characters: the bytes of the tokens would not be the bytes of the text.
SPLITTING_PRE_TOKENIZERS = frozenset(
    {"ByteLevel", "Digits", "FixedLength", "Punctuation", "Split", "UnicodeScripts"}
)


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary, as character -> byte.

    A byte whose Latin-1 character is visible stands for itself; the remaining 68 (controls, spaces, the soft
    hyphen) take the characters from U+0100 upward, in byte order.
    Source: the encoder released with GPT-2 (Radford et al., 2019).
    """
    alphabet: dict[str, int] = {}
    num_moved = 0
    for byte in range(256):
        visible = chr(byte).isprintable() and chr(byte) != " "
        if not visible:
            num_moved += 1
        alphabet[chr(byte) if visible else chr(255 + num_moved)] = byte
    return alphabet


class ByteTable:
    """Bytes per token id. A snapshot: tokens added to the tokenizer later are not seen.

    Attributes:
        tokens: V byte strings; empty for special tokens and for ids that the tokenizer does not use.
        lengths: [V] int32, bytes per token.
        special: [V] bool, True for special tokens: they contribute no bytes, and no chunk crosses one.
    """

    tokens: tuple[bytes, ...]
    lengths: Int32[np.ndarray, " V"]
    special: Bool[np.ndarray, " V"]

    def __init__(self, tokens: Sequence[bytes], special_ids: Collection[int] = ()) -> None:
        """Build a table from bytes that are known already.

        Args:
            tokens: V byte strings, indexed by token id.
            special_ids: ids of special tokens; their bytes are dropped.
        Raises:
            ValueError: a special id is not in [0, V).
        """
        self.special = np.zeros(len(tokens), dtype=np.bool_)
        self.special[check_ids(list(special_ids), len(tokens), "ByteTable", "special_ids")] = True
        self.tokens = tuple(
            b"" if special else token for token, special in zip(tokens, self.special.tolist(), strict=True)
        )
        self.lengths = np.fromiter(map(len, self.tokens), dtype=np.int32, count=len(tokens))

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerFast | Tokenizer) -> ByteTable:
        """Read the bytes of every token of a byte-level BPE tokenizer.

        Added tokens that are not special stand for the UTF-8 bytes of their text.

        Args:
            tokenizer: a transformers tokenizer with a Rust backend, or a `tokenizers.Tokenizer`.
        Returns:
            A table of V = (highest id + 1) entries, added tokens included.
        Raises:
            ValueError: the tokenizer is not a byte-level BPE, or it changes the text before it splits it.
        Source: the `tokenizer.json` format of the `tokenizers` library, as its ByteLevel decoder reads it.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not hasattr(backend, "to_str"):
            raise ValueError(
                f"ByteTable.from_tokenizer: {type(tokenizer).__name__} has no Rust backend, so its decoder "
                f"type cannot be read. {SUPPORTED}. Load a fast tokenizer, or pass a tokenizers.Tokenizer."
            )
        spec: dict[str, Any] = json.loads(backend.to_str())
        _check_byte_level(spec)

        by_id = _model_bytes(spec["model"]["vocab"])
        special_ids = set()
        for added in spec["added_tokens"] or []:
            token_id, content = added["id"], added["content"].encode()
            if added["special"]:
                special_ids.add(token_id)
            else:
                _check_added(added, by_id.get(token_id, content), content)
            by_id[token_id] = content
        return cls([by_id.get(token_id, b"") for token_id in range(max(by_id, default=-1) + 1)], special_ids)

    def __len__(self) -> int:
        return len(self.tokens)

    def token_bytes(self, ids: ArrayLike) -> list[bytes]:
        """The bytes of each id.

        Args:
            ids: [L] integers.
        Returns:
            L byte strings; empty for special tokens. Joined, they are the text.
        Raises:
            ValueError: ids is not one row of integers in [0, V).
        """
        rows = check_ids(ids, len(self), "ByteTable.token_bytes", "ids")
        return [self.tokens[token_id] for token_id in rows.tolist()]


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
    outside = np.flatnonzero((rows < 0) | (rows >= vocab_size))
    if outside.size:
        first = int(outside[0])
        raise ValueError(
            f"{function}: {name} must lie in [0, {vocab_size}), the ids of the tokenizer; got "
            f"{int(rows[first])} at position {first}. Use the table of the tokenizer that made the ids, and "
            "strip label padding such as -100."
        )
    return rows


def _model_bytes(vocab: Mapping[str, int]) -> dict[int, bytes]:
    alphabet = byte_alphabet()
    by_id = {}
    for token, token_id in vocab.items():
        try:
            by_id[token_id] = bytes([alphabet[character] for character in token])
        except KeyError:
            # Not written in the alphabet: an added token that the vocabulary lists too, as raw text. The
            # ByteLevel decoder falls back to UTF-8 for such entries.
            by_id[token_id] = token.encode()
    return by_id


def _components(node: Mapping[str, Any] | None, children: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a pre-tokenizer, decoder or normalizer, with nested sequences laid out flat."""
    if node is None:
        return
    if node["type"] != "Sequence":
        yield node
        return
    for child in node[children]:
        yield from _components(child, children)


def _check_byte_level(spec: Mapping[str, Any]) -> None:
    model, normalizers = spec["model"], list(_components(spec["normalizer"], "normalizers"))
    pre_tokenizers = list(_components(spec["pre_tokenizer"], "pretokenizers"))
    decoder_types = [step["type"] for step in _components(spec["decoder"], "decoders")]
    removing = [
        step["type"]
        for step in pre_tokenizers
        if step["type"] not in SPLITTING_PRE_TOKENIZERS or step.get("behavior") == "Removed"
    ]

    reason = None
    if model["type"] != "BPE":
        reason = f"its model is {model['type']}, not BPE"
    elif "ByteLevel" not in decoder_types or set(decoder_types) - {"ByteLevel", "Fuse"}:
        reason = "its decoder is not ByteLevel, so its vocabulary is not written in bytes"
    elif not any(step["type"] == "ByteLevel" for step in pre_tokenizers):
        reason = "it has no ByteLevel pre-tokenizer, so its vocabulary is not written in bytes"
    elif any(step["type"] != "NFC" for step in normalizers):
        # NFC leaves all but rare text as it is; where it does not, align_chunks sees different bytes.
        names = ", ".join(step["type"] for step in normalizers)
        reason = f"its normalizer ({names}) may change the text that the other side tokenizes unchanged"
    elif removing:
        reason = f"its pre-tokenizer ({', '.join(removing)}) drops or replaces characters of the text"
    elif any(step.get("add_prefix_space") for step in pre_tokenizers):
        reason = "add_prefix_space=True puts a space before the text that the text does not have"
    elif model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        reason = "its BPE model marks words with a prefix or suffix that is not part of the text"
    if reason is not None:
        found = "+".join(decoder_types) or "none"
        raise ValueError(f"ByteTable.from_tokenizer: {reason}; got decoder type {found}. {SUPPORTED}.")


def _check_added(added: Mapping[str, Any], model_bytes: bytes, content: bytes) -> None:
    if added["lstrip"] or added["rstrip"]:
        raise ValueError(
            f"ByteTable.from_tokenizer: added token {added['content']!r} (id {added['id']}) swallows the "
            "spaces beside it (lstrip or rstrip), so its bytes are not fixed. Add it without lstrip and "
            "rstrip, or as special."
        )
    if model_bytes != content:
        raise ValueError(
            f"ByteTable.from_tokenizer: id {added['id']} has two readings, {model_bytes!r} in the BPE "
            f"vocabulary and {content!r} as an added token. Remove the added token, or add it as special."
        )
