"""Every pair of tokenizer types, on random Unicode: exact spans, and chunks minimal, whole and complete."""

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
# The tokenizer has no entry for some characters, or reads an entry for a byte as the text that it is.
REFUSALS = "could not spell a stretch|the tokens must spell the text"


def spans_of(kind, text):
    """Spans of a text's tokens; None where the tokenizer cannot spell the text."""
    tokenizer = tokenizer_of(kind)
    table, encoding = ByteTable.from_tokenizer(tokenizer), tokenizer.encode(text)
    try:
        return table.spans(text, encoding.ids), encoding, table
    except ValueError as error:
        if "[UNK]" in encoding.tokens and "could not spell" in str(error):
            return None
        raise


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
    found = spans_of(kind, text)
    if found is None:
        return
    spans, encoding, table = found
    data, edits = text.encode(), oracle.edits_of(spans)
    assert spans.text == data
    assert (np.diff(spans.starts) >= 0).all()
    assert (np.diff(spans.ends) >= 0).all()
    assert (spans.starts <= spans.ends).all()
    # Made by hand, the edits give what the tokens spell, but for prefixes.
    spelled = oracle.respell(data, edits)
    tokens = table.token_bytes(encoding.ids)
    assert spelled in (b"".join(tokens), b"".join(tokens)[1:]) or any(spans.special)
    changed = np.zeros(len(data) + 1, dtype=bool)
    for start, end, _ in edits:
        changed[start:end] = True
    for i, token in enumerate(tokens):
        start, end = int(spans.starts[i]), int(spans.ends[i])
        if spans.has_bytes[i] and not changed[start:end].any():
            assert data[start:end] in (token, token.removeprefix(b" ")), f"token {i}"


def test_every_kind_is_tried_in_earnest():
    """Each trained tokenizer spells the long text, and all but the first respell some of it."""
    for kind in KINDS:
        spans, encoding, _ = spans_of(kind, LONG)
        assert spans.has_bytes.mean() > 0.9, kind
        assert len(oracle.edits_of(spans)) > 0 or kind in (
            "byte-level", "BPE, byte fallback, prefix at the beginning"
        ), kind  # fmt: skip
        assert len(encoding.ids) > 250


@settings(deadline=None, max_examples=400)
@given(pair=st.tuples(kinds, kinds), text=texts)
@example(pair=("byte-level, NFC, split as tiktoken does", "Unigram, NFKC, runs of spaces joined"), text=LONG)
@example(
    pair=("WordPiece, lower case without accents", "byte-level, lower case, word ends marked"), text=LONG
)
def test_chunks_are_the_groups_of_tokens_that_share_bytes(pair, text):
    found = [spans_of(kind, text) for kind in pair]
    if None in found:
        return
    (student, *_), (teacher, *_) = found
    alignment = align_spans(student, teacher)
    groups = oracle.chunks(student, teacher)
    assert chunk_groups(alignment) == groups
    assert alignment.num_chunks == len(groups) == len(alignment.starts) == len(alignment.ends)
    assert (alignment.starts < alignment.ends).all()
    assert (np.diff(alignment.starts) >= 0).all()
    for chunk, (mine, theirs) in enumerate(groups):
        for side, tokens in ((student, mine), (teacher, theirs)):
            assert side.starts[tokens].min() <= alignment.starts[chunk]
            assert side.ends[tokens].max() >= alignment.ends[chunk]
    # Complete: a token in no chunk has no bytes that the other side has.
    for side, chunks, other in (
        (student, alignment.student_chunks, teacher),
        (teacher, alignment.teacher_chunks, student),
    ):
        shared = np.zeros(len(text.encode()), dtype=bool)
        for start, end in zip(other.starts[other.has_bytes], other.ends[other.has_bytes], strict=True):
            shared[start:end] = True
        for spans in (side, other):
            for start, end, spelled in oracle.edits_of(spans):
                shared[start:end] &= bool(spelled)
        for i in np.flatnonzero(side.has_bytes & (chunks < 0)):
            assert not shared[side.starts[i] : side.ends[i]].any(), f"token {i} is left out"


@pytest.mark.parametrize("student", KINDS)
def test_all_pairs_on_one_long_text(student):
    for teacher in KINDS:
        sides = [spans_of(kind, LONG)[0] for kind in (student, teacher)]
        alignment = align_spans(*sides)
        assert chunk_groups(alignment) == oracle.chunks(*sides)
        assert alignment.num_chunks > 100
        back = align_spans(*reversed(sides))
        assert back.student_chunks.tolist() == alignment.teacher_chunks.tolist()
        assert back.starts.tolist() == alignment.starts.tolist()


@settings(deadline=None)
@given(pair=st.tuples(kinds, kinds), text=texts, keep=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_cut_on_either_side_drops_the_chunk_on_both(pair, text, keep):
    found = [spans_of(kind, text) for kind in pair]
    if None in found:
        return
    whole = align_spans(found[0][0], found[1][0])
    kept = [round(len(side[0]) * share) for side, share in zip(found, keep, strict=True)]
    try:
        sides = [
            table.spans(text, encoding.ids[:count])
            for (_, encoding, table), count in zip(found, kept, strict=True)
        ]
    except ValueError as error:
        # A cut inside a character that the tokenizer cannot spell.
        assert "could not spell" in str(error)
        return
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
    if None in found:
        return
    size, per_copy = len(text.encode()), []
    for copy in range(copies):
        start = copy * (size + len("<|end|>"))
        sides = [side[0].within(start, start + size) for side in found]
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
    """Its offsets are in characters, and right only apart from what is respelled: there they are ours."""
    found = spans_of(kind, text)
    if found is None:
        return
    spans, encoding, _ = found
    char_of = [i for i, c in enumerate(text) for _ in c.encode()]
    changed = {byte for start, end, _ in oracle.edits_of(spans) for byte in range(start - 1, end + 1)}
    for i, offsets in enumerate(encoding.offsets):
        start, end = int(spans.starts[i]), int(spans.ends[i])
        # A prefix that stands where white space was dropped: for us it is that white space.
        is_prefix = "prefix each" in kind and encoding.tokens[i].startswith("▁")
        if spans.has_bytes[i] and not is_prefix and changed.isdisjoint(range(start, end)):
            ours = char_of[start], char_of[end - 1] + 1
            if encoding.tokens[i].startswith("<0x"):  # one offset for all bytes in a row
                assert offsets[0] <= ours[0] < ours[1] <= offsets[1], f"token {i}"
            else:
                assert offsets == ours, f"token {i}"
