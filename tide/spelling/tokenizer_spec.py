"""A serialised tokenizer (the contents of `tokenizer.json`) as far as alignment reads it.

Only the encoding side counts: what the normalizer and the pre-tokenizer do to the text decides what the
tokens spell. No model family is known by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SUPPORTED_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")
# Pre-tokenizers that only choose where text may be split. Metaspace adds a space; the others drop spaces.
SPLITTING_PRE_TOKENIZERS = frozenset(
    {"ByteLevel", "Digits", "FixedLength", "Punctuation", "Split", "UnicodeScripts"}
)


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before anything else is done to it.

    One that swallows the whitespace beside it (lstrip, rstrip) counts as special: it has no fixed bytes.
    """

    token_id: int
    content: str
    special: bool


@dataclass(frozen=True)
class TokenizerSpec:
    """What alignment has to know of a tokenizer.

    Attributes:
        vocab: token text to id, as the model has it.
        added: its added tokens.
        unknown_id: the token that stands for text that the vocabulary cannot spell; None without one.
        byte_level: the vocabulary is written in the byte alphabet.
        byte_fallback: entries such as <0xE2> stand for single bytes.
        space: the character that stands for a space in the vocabulary; None where a space is a space.
        word_start, word_end: marks in a token's text that spell nothing. `word_start` stands before a piece
            that continues a word, `word_end` after one that ends it.
        drops_whitespace: blanks between words are dropped; one that a token begins with was put there.
        spells_text: nothing is added to the text, dropped or replaced before the model reads it.
    """

    vocab: dict[str, int]
    added: tuple[AddedToken, ...]
    unknown_id: int | None
    byte_level: bool
    byte_fallback: bool
    space: str | None
    word_start: str
    word_end: str
    drops_whitespace: bool
    spells_text: bool


def read_spec(serialised: str) -> TokenizerSpec:
    """Read what `tokenizers.Tokenizer.to_str` writes.

    Raises:
        ValueError: the model is of a kind whose tokens have no bytes of their own.
    Source: the `tokenizer.json` format of the `tokenizers` library.
    """
    spec: dict[str, Any] = json.loads(serialised)
    model = spec["model"]
    if model["type"] not in SUPPORTED_MODELS:
        raise ValueError(
            f"ByteTable.from_tokenizer: the tokenizer's model is {model['type']}; supported are "
            f"{', '.join(SUPPORTED_MODELS)} models. Use a tokenizer of one of these kinds, or build "
            "ByteTable(tokens) from the bytes of its tokens."
        )
    normalizers = list(components(spec["normalizer"], "normalizers"))
    pre_tokenizers = list(components(spec["pre_tokenizer"], "pretokenizers"))
    vocab = _vocab(model)
    added = tuple(_added_token(token) for token in spec["added_tokens"] or [])
    ids = vocab | {token.content: token.token_id for token in added}
    unknown = model.get("unk_token")
    byte_level = any(step["type"] == "ByteLevel" for step in [*normalizers, *pre_tokenizers])
    word_start = model.get("continuing_subword_prefix") or ""
    word_end = model.get("end_of_word_suffix") or ""
    return TokenizerSpec(
        vocab=vocab,
        added=added,
        unknown_id=model["unk_id"] if model["type"] == "Unigram" else ids.get(unknown or ""),
        byte_level=byte_level,
        byte_fallback=bool(model.get("byte_fallback")),
        space=None if byte_level else _space(normalizers, pre_tokenizers),
        word_start=word_start,
        word_end=word_end,
        drops_whitespace=any(_drops(step) for step in pre_tokenizers),
        spells_text=all(step["type"] == "ByteLevel" for step in normalizers)
        and not any(_drops(step) or _adds(step) for step in pre_tokenizers)
        and not (word_start or word_end),
    )


def components(node: Mapping[str, Any] | None, children: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a pre-tokenizer or normalizer, with nested sequences laid out flat."""
    if node is None:
        return
    if node["type"] != "Sequence":
        yield node
        return
    for child in node[children]:
        yield from components(child, children)


def _vocab(model: Mapping[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {piece: token_id for token_id, (piece, _score) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _added_token(token: Mapping[str, Any]) -> AddedToken:
    return AddedToken(
        token_id=token["id"],
        content=token["content"],
        special=token["special"] or token["lstrip"] or token["rstrip"],
    )


def _space(normalizers: list[Mapping[str, Any]], pre_tokenizers: list[Mapping[str, Any]]) -> str | None:
    for step in pre_tokenizers:
        if step["type"] == "Metaspace":
            return str(step["replacement"])
    for step in normalizers:
        if step["type"] == "Replace" and step["pattern"] == {"String": " "} and len(step["content"]) == 1:
            return str(step["content"])
    return None


def _drops(step: Mapping[str, Any]) -> bool:
    is_known = step["type"] in SPLITTING_PRE_TOKENIZERS or step["type"] == "Metaspace"
    return not is_known or step.get("behavior") == "Removed"


def _adds(step: Mapping[str, Any]) -> bool:
    return step["type"] == "Metaspace" or bool(step.get("add_prefix_space"))
