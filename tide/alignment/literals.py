"""Where added tokens stand in a text as they are written.

The tokenizer finds them before it does anything else to the text; chat templates write them out.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tide.alignment.token_stream import Texts, Tokens
    from tide.alignment.tokenizer_spec import AddedToken

# Whitespace as the tokenizers library means it; str.isspace has four controls more.
BLANKS = frozenset(
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000",
).union(map(chr, range(0x2000, 0x200B)))


class Literal(NamedTuple):
    """An added token's place in the texts, in characters; with the whitespace that it swallows."""

    start: int
    end: int
    token_id: int
    special: bool


def find_literals(texts: Texts, tokens: Tokens, added: Mapping[int, AddedToken]) -> list[Literal]:
    """Where the added tokens among each text's ids stand in it; of two at one place, the longer."""
    positions = np.flatnonzero(np.isin(tokens.ids, list(added))) if added else tokens.borders[:0]
    found_ids = tokens.ids[positions].tolist()
    borders = np.searchsorted(positions, tokens.borders).tolist()
    literals: list[Literal] = []
    for (first, after), (start, end) in zip(pairwise(borders), pairwise(texts.chars.tolist()), strict=True):
        if first < after:
            present = sorted(set(found_ids[first:after]), key=lambda id_: (-len(added[id_].content), id_))
            literals += _found(texts.text[start:end], start, [added[id_] for id_ in present])
    return literals


def _found(text: str, first: int, present: Sequence[AddedToken]) -> Iterator[Literal]:
    """Added tokens in a text that begins at `first`; the first in `present` of those at one place."""
    of_content = {token.content: token for token in reversed(present) if token.content}
    # Without groups, the regular expression searches for the common prefix first.
    pattern = "|".join(_pattern(token) for token in present if token.content)
    last_end = 0
    for match in re.finditer(pattern, text) if pattern else ():
        token, (start, end) = of_content[match.group()], match.span()
        if token.lstrip:
            while start > last_end and text[start - 1] in BLANKS:
                start -= 1
        if token.rstrip:
            while end < len(text) and text[end] in BLANKS:
                end += 1
        yield Literal(first + start, first + end, token.token_id, token.special)
        last_end = end


def _pattern(token: AddedToken) -> str:
    pattern = re.escape(token.content)
    return rf"(?<!\w){pattern}(?!\w)" if token.single_word else pattern
