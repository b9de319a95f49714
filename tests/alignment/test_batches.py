"""Many texts at once are what each is alone: spans, stretches of them, and their chunks.

Mutants that these tests kill: a chunk that runs into the next piece; bytes at the end of a piece that no
token covers; a prefix that only the first text gets; tokens of one text that stand at the border of the next.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from tests.alignment.samples import texts
from tests.alignment.test_tokenizer_pairs import chunk_groups, spans_of
from tests.alignment.zoo import KINDS, tokenizer_of
from tide.alignment import ByteTable, align_spans
from tide.spelling.token_spans import Stretches

kinds = st.sampled_from(list(KINDS))
rows = st.lists(
    st.one_of(texts, st.sampled_from(["", " ", "<|end|>", "<s> a<|end|>", "\u0301", "in for", " in"])),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=300)
@given(kind=kinds, batch=rows)
@example(kind="BPE, byte fallback, prefix by normalizer", batch=["in<|end|>", "<|end|>in", "", "in"])
@example(kind="byte-level, NFC, split as tiktoken does", batch=["e", "\u0301e\u0301", "\u0301"])
@example(kind="Unigram, words with a prefix each", batch=["a ", " b", "  ", "c"])
def test_spans_of_many_texts_are_those_of_each(kind, batch):
    alone = [spans_of(kind, text)[0] for text in batch]
    ids = [tokenizer_of(kind).encode(text).ids for text in batch]
    together = ByteTable.from_tokenizer(tokenizer_of(kind)).spans_of(batch, ids)
    assert together.text == "".join(batch).encode()
    at = token = 0
    for text, spans in zip(batch, alone, strict=True):
        here = slice(token, token + len(spans))
        size = len(text.encode())
        # What has no text of its own stands at the end of the tokens before it.
        placed = spans.ends > spans.starts
        for name in ("starts", "ends"):
            expected = getattr(spans, name)[placed]
            assert (getattr(together, name)[here] - at)[placed].tolist() == expected.tolist(), name
        for name in ("has_bytes", "special"):
            assert getattr(together, name)[here].tolist() == getattr(spans, name).tolist(), name
        rejected = [spans, together]
        rejected = [np.zeros(len(s.text), dtype=bool) if s.rejected is None else s.rejected for s in rejected]
        assert rejected[1][at : at + size].tolist() == rejected[0].tolist()
        at, token = at + size, token + len(spans)
    assert token == len(together)


def cuts(draw, size):
    """Parts of a row, in bytes, apart; some empty, some side by side."""
    places = sorted(draw(st.lists(st.integers(0, size), max_size=6)))
    return list(zip(places[::2], places[1::2], strict=False))


@settings(deadline=None, max_examples=300)
@given(data=st.data(), pair=st.tuples(kinds, kinds), text=texts, blanks=st.booleans())
@pytest.mark.parametrize(
    "merge", [{}, {"merge": "words"}, {"merge": "length", "max_bytes": 7, "max_tokens": 3}]
)
def test_pieces_of_a_text_are_aligned_as_each_alone(merge, data, pair, text, blanks):
    found = [spans_of(kind, text) for kind in pair]
    parts = cuts(data.draw, len(text.encode()))
    if not parts:
        return
    sides = [side[0] for side in found]
    reach = [max(0, start - 3) for start, _ in parts] if blanks else None
    stretches = Stretches.of(parts, reach)
    positions = [side.positions(stretches) for side in sides]
    gathered = [side.gathered(stretches, *found)[0] for side, found in zip(sides, positions, strict=True)]
    together = align_spans(*gathered, borders=stretches.borders, **merge)
    assert gathered[0].text == gathered[1].text
    first, tokens = 0, [0, 0]
    for at, part in enumerate(parts):
        one = Stretches.of([part], None if reach is None else reach[at : at + 1])
        alone_at = [side.positions(one) for side in sides]
        for many, single in zip(positions, alone_at, strict=True):
            assert [int(bound[at]) for bound in many] == [int(bound[0]) for bound in single]
        alone_sides = [side.gathered(one, *found)[0] for side, found in zip(sides, alone_at, strict=True)]
        alone = align_spans(*alone_sides, **merge)
        border = int(stretches.borders[at])
        here = slice(first, first + alone.num_chunks)
        assert (together.starts[here] - border).tolist() == alone.starts.tolist()
        assert (together.ends[here] - border).tolist() == alone.ends.tolist()
        inside = (together.rejected >= border) & (together.rejected < stretches.borders[at + 1])
        assert (together.rejected[inside] - border).tolist() == alone.rejected.tolist()
        for which, (got, expected) in enumerate(
            ((together.student_chunks, alone.student_chunks), (together.teacher_chunks, alone.teacher_chunks))
        ):
            mine = got[tokens[which] : tokens[which] + len(expected)]
            assert np.where(mine < 0, -1, mine - first).tolist() == expected.tolist()
            tokens[which] += len(expected)
        first += alone.num_chunks
    assert first == together.num_chunks == len(chunk_groups(together))


@pytest.mark.parametrize("borders", [[0], [0, 3], [1, 4], [0, 3, 2, 4], [0.0, 4.0], [[0, 4]], []])
def test_borders_that_are_none_are_an_error(borders):
    spans = ByteTable([b"a"]).spans("aaaa", [0] * 4)
    with pytest.raises(
        ValueError, match=r"align_spans: borders must be integers that rise from 0 to 4, the bytes"
    ):
        align_spans(spans, spans, borders=borders)


def test_any_text_may_go_on_behind_its_tokens_or_be_another():
    table = ByteTable([b"a", b"b"])
    assert table.spans_of(["ab", "ab"], [[0], [0, 1]]).ends.tolist() == [1, 3, 4]
    spans = table.spans_of(["ab", "ab"], [[1, 0, 1], [0, 1]])
    assert spans.has_bytes.tolist() == [False, False, False, True, True]
    assert spans.rejected.tolist() == [True, True, False, False]


def test_a_special_token_that_takes_whitespace_along_lies_where_it_stands():
    tokenizer = tokenizer_of("byte-level")
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.add_special_tokens([AddedToken("<m>", lstrip=True, rstrip=True)])
    table = ByteTable.from_tokenizer(tokenizer)
    batch = ["a <m>", "a <m> b", "<m>", " <m> "]
    ids = [tokenizer.encode(text).ids for text in batch]
    together = table.spans_of(batch, ids)
    special = together.special
    places = list(zip(together.starts[special].tolist(), together.ends[special].tolist(), strict=True))
    assert places == [(2, 5), (7, 10), (12, 15), (16, 19)]
    for text, row in zip(batch, ids, strict=True):
        alone = table.spans(text, row)
        assert (alone.ends - alone.starts)[alone.special].tolist() == [len("<m>")]
