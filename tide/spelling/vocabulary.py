"""The bytes that the entries of a vocabulary stand for.

A byte-level vocabulary writes each byte as one printable character. Others are text, in which one character
may stand for the space, entries such as <0xE2> for single bytes, and marks at an entry's edge for nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tide.spelling.tokenizer_spec import TokenizerSpec

BYTE_ENTRY = re.compile(r"<0x([0-9A-F]{2})>")


@lru_cache(maxsize=1)
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


def piece_bytes(piece: str, *, byte_level: bool, space: str | None) -> bytes:
    """The bytes that a piece of text in the vocabulary's writing stands for."""
    if byte_level:
        alphabet = byte_alphabet()
        try:
            return bytes([alphabet[character] for character in piece])
        except KeyError:
            # Not written in the alphabet: an added token that the vocabulary lists too, as raw text. The
            # library's decoder falls back to UTF-8 for such entries.
            return piece.encode()
    return (piece if space is None else piece.replace(space, " ")).encode()


def vocabulary_bytes(spec: TokenizerSpec) -> tuple[list[bytes], set[int], set[int]]:
    """Bytes of every id, added tokens included, the ids of special tokens, and ids of two readings.

    An added token may be an entry of the model's vocabulary that spells other bytes there: which are meant
    depends on the text.

    Returns:
        V = (highest id + 1) byte strings, empty for ids that the tokenizer does not use; two sets of ids.
    """
    by_id = {token_id: _entry_bytes(entry, spec) for entry, token_id in spec.vocab.items()}
    special_ids, ambiguous_ids = set(), set()
    for token in spec.added:
        # Added tokens are matched in the text itself, so they are not written in the byte alphabet.
        content = piece_bytes(token.content, byte_level=False, space=spec.space)
        if token.special:
            special_ids.add(token.token_id)
        elif by_id.get(token.token_id, content) != content:
            ambiguous_ids.add(token.token_id)
        by_id[token.token_id] = b"" if token.special else content
    tokens = [by_id.get(token_id, b"") for token_id in range(max(by_id, default=-1) + 1)]
    return tokens, special_ids, ambiguous_ids


def _entry_bytes(entry: str, spec: TokenizerSpec) -> bytes:
    if spec.byte_fallback and (found := BYTE_ENTRY.fullmatch(entry)):
        return bytes([int(found[1], 16)])
    piece = entry.removeprefix(spec.word_start).removesuffix(spec.word_end)
    return piece_bytes(piece, byte_level=spec.byte_level, space=spec.space)
