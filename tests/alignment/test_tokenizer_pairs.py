"""Every pair of tokenizer types, on random Unicode: exact spans, and chunks shortest, whole and complete."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.alignment import oracle
from tests.alignment.samples import PIECES, SAMPLES, known_texts, texts
from tests.alignment.zoo import KINDS, tokenizer_of
from tide.alignment import ByteTable, align_spans

kinds = st.sampled_from(list(KINDS))
LONG = "".join((*SAMPLES, *PIECES))


def spans_of(kind, text):
    """Spans of a text's tokens, its encoding and the table."""
    tokenizer = tokenizer_of(kind)
    table, encoding = ByteTable.from_tokenizer(tokenizer), tokenizer.encode(text)
    return table.spans_of([text], [encoding.ids]), encoding, table


def chunk_groups(alignment):
    return [
        tuple(
            np.flatnonzero(side == chunk).tolist()
            for side in (alignment.student_chunks, alignment.teacher_chunks)
        )
        for chunk in range(alignment.num_chunks)
    ]


@settings(deadline=None, max_examples=300)
@given(kind=kinds, text=texts)
@example(kind="Unigram, words with a prefix each", text="\x0b    \x7f.")
@example(kind="Unigram, words with a prefix each", text="\x1cİ<|end|>\x0b\u200b#")
@example(kind="Unigram, words with a prefix each", text="Z    <|end|>\x0b  <0x4a\n.\rb\n▁▁a  ")
def test_spans_are_the_bytes_that_tokens_spell(kind, text):
    spans, encoding, table = spans_of(kind, text)
    assert spans.text == text.encode()
    oracle.assert_right(spans, table.token_bytes(encoding.ids), is_whole="[UNK]" not in encoding.tokens)


def test_every_kind_keeps_most_of_its_tokens_and_respells_some():
    for kind in KINDS:
        spans, encoding, table = spans_of(kind, LONG)
        oracle.assert_right(spans, table.token_bytes(encoding.ids))
        assert spans.has_bytes.mean() > 0.75, kind
        assert (spans.rejected is not None) == (kind != "byte-level"), kind
        assert len(encoding.ids) > 250


@settings(deadline=None, max_examples=400)
@given(pair=st.tuples(kinds, kinds), text=texts)
@example(pair=("byte-level, NFC, split as tiktoken does", "Unigram, NFKC, runs of spaces joined"), text=LONG)
@example(
    pair=("WordPiece, lower case without accents", "byte-level, lower case, word ends marked"), text=LONG
)
def test_chunks_are_the_shortest_common_spans(pair, text):
    (student, *_), (teacher, *_) = (spans_of(kind, text) for kind in pair)
    alignment = align_spans(student, teacher)
    assert chunk_groups(alignment) == oracle.chunks(student, teacher)
    assert alignment.rejected.tolist() == oracle.rejected(student, teacher)
    assert alignment.num_chunks == len(alignment.starts) == len(alignment.ends)
    for chunk, groups in enumerate(chunk_groups(alignment)):
        for side, tokens in zip((student, teacher), groups, strict=True):
            assert side.starts[tokens].min() == alignment.starts[chunk]
            assert side.ends[tokens].max() == alignment.ends[chunk]


@pytest.mark.parametrize("student", KINDS)
def test_all_pairs_on_one_long_text(student):
    for teacher in KINDS:
        sides = [spans_of(kind, LONG)[0] for kind in (student, teacher)]
        alignment = align_spans(*sides)
        assert chunk_groups(alignment) == oracle.chunks(*sides)
        assert alignment.num_chunks > 50
        assert alignment.rejected.tolist() == oracle.rejected(*sides)
        back = align_spans(*reversed(sides))
        assert back.student_chunks.tolist() == alignment.teacher_chunks.tolist()
        assert back.starts.tolist() == alignment.starts.tolist()


@settings(deadline=None)
@given(pair=st.tuples(kinds, kinds), text=texts, keep=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_cut_on_either_side_drops_the_chunk_on_both(pair, text, keep):
    found = [spans_of(kind, text) for kind in pair]
    whole = align_spans(found[0][0], found[1][0])
    # A tokenizer that respells its text has to have read all of it.
    kept = [
        round(len(side[0]) * (share if side[2].spells_text else 1))
        for side, share in zip(found, keep, strict=True)
    ]
    sides = [
        table.spans_of([text], [encoding.ids[:count]])
        for (_, encoding, table), count in zip(found, kept, strict=True)
    ]
    cut = align_spans(*sides)
    full = (whole.student_chunks, whole.teacher_chunks)
    lost = [
        chunk for side, count in zip(full, kept, strict=True) for chunk in side[count:].tolist() if chunk >= 0
    ]
    num_whole = min([whole.num_chunks, *lost])
    assert cut.num_chunks == num_whole
    for got, side, count in zip((cut.student_chunks, cut.teacher_chunks), full, kept, strict=True):
        assert got.tolist() == [chunk if chunk < num_whole else -1 for chunk in side[:count].tolist()]


@settings(deadline=None)
@given(pair=st.tuples(kinds, kinds), text=known_texts, copies=st.integers(2, 3))
def test_a_text_that_repeats_aligns_to_its_own_place(pair, text, copies):
    """As an answer that stands in the prompt, too: behind a special token, every copy has the same chunks."""
    found = [spans_of(kind, "<|end|>".join([text] * copies)) for kind in pair]
    size, per_copy = len(text.encode()), []
    for copy in range(copies):
        start = copy * (size + len("<|end|>"))
        sides = [oracle.within(side[0], start, start + size) for side in found]
        ids = [np.array(side[1].ids)[kept].tolist() for side, (_, kept) in zip(found, sides, strict=True)]
        alignment = align_spans(sides[0][0], sides[1][0])
        per_copy.append((ids, chunk_groups(alignment), alignment.starts.tolist(), alignment.ends.tolist()))
    # The first copy may have a prefix of its own.
    for other in per_copy[2:]:
        assert other == per_copy[1]
    if per_copy[0][0] == per_copy[1][0]:
        assert per_copy[0] == per_copy[1]
    # All at once, no chunk crosses from one copy into another.
    together = align_spans(found[0][0], found[1][0])
    assert together.num_chunks == sum(len(groups) for _, groups, *_ in per_copy)
    assert sorted(together.starts.tolist()) == sorted(
        start + copy * (size + len("<|end|>")) for copy, one in enumerate(per_copy) for start in one[2]
    )


@settings(deadline=None, max_examples=200)
@given(kind=kinds, text=texts)
def test_spans_agree_with_the_offsets_of_the_library(kind, text):
    """Its offsets are in characters, and right only beside what is not respelled."""
    spans, encoding, _ = spans_of(kind, text)
    char_of = [i for i, c in enumerate(text) for _ in c.encode()]
    for i, offsets in enumerate(encoding.offsets):
        start, end = int(spans.starts[i]), int(spans.ends[i])
        # A prefix that stands where whitespace was dropped: for us it is that whitespace.
        is_prefix = "prefix each" in kind and encoding.tokens[i].startswith("▁")
        if spans.has_bytes[i] and not is_prefix:
            ours = char_of[start], char_of[end - 1] + 1
            if encoding.tokens[i].startswith("<0x"):  # one offset for all bytes in a row
                assert offsets[0] <= ours[0] < ours[1] <= offsets[1], f"token {i}"
            else:
                assert offsets == ours, f"token {i}"
