"""Where tokens lie: written out by hand for every way in which a tokenizer leaves the text as it stands."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from tests.alignment import oracle
from tests.alignment.zoo import tokenizer_of
from tide.alignment import ByteTable, align_chunks, align_spans
from tide.alignment.token_spans import Stretches

NFC = "byte-level, NFC, split as tiktoken does"
PREFIX = "BPE, byte fallback, prefix by normalizer"
FIRST = "BPE, byte fallback, prefix at the beginning"
WORDS = "Unigram, words with a prefix each"
WORDPIECE = "WordPiece, lower case without accents"


def characters(text: str, *, normalizer=None, pre_tokenizer=None, **model) -> Tokenizer:
    """A tokenizer of single characters."""
    entries = dict.fromkeys(["<unk>", "▁", *text])
    vocab = {entry: token_id for token_id, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", **model))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def places(tokenizer, text, ids=None):
    spans = ByteTable.from_tokenizer(tokenizer).spans(
        text, tokenizer.encode(text).ids if ids is None else ids
    )
    return list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))


def cut(spans, stretch, blanks_from):
    """One stretch of spans, and the positions of its tokens."""
    stretches = Stretches.of([stretch], None if blanks_from is None else [blanks_from])
    (first,), (after,) = found = spans.positions(stretches)
    inner, tokens = spans.gathered(stretches, *found)
    assert tokens.tolist() == list(range(first, after))
    return inner, slice(int(first), int(after))


def test_a_normalizer_moves_what_comes_behind():
    tokenizer = characters("abé", normalizer=normalizers.NFC())
    assert places(tokenizer, "ae\u0301b") == [(0, 1), (1, 4), (4, 5)]
    spans = ByteTable.from_tokenizer(tokenizer).spans("ae\u0301b", tokenizer.encode("ae\u0301b").ids)
    assert oracle.edits_of(spans) == [(1, 4, "é".encode())]


def test_tokens_that_meet_inside_a_respelled_character_have_no_boundary_there():
    tokenizer = tokenizer_of("byte-level, NFKC, prefix space")
    text = "x\u2460"  # a circled 1, which is read as 1
    assert places(tokenizer, text)[-1] == (1, 4)
    ligature = "\ufb03"  # one character that is read as three
    spans = ByteTable.from_tokenizer(tokenizer).spans(ligature, tokenizer.encode(ligature).ids)
    inner = spans.has_bytes
    assert set(zip(spans.starts[inner].tolist(), spans.ends[inner].tolist(), strict=True)) == {(0, 3)}
    # Beside a tokenizer that spells the text, all of them are one chunk; beside itself, each is one.
    plain = tokenizer_of("byte-level")
    other = ByteTable.from_tokenizer(plain).spans(ligature, plain.encode(ligature).ids)
    assert align_spans(spans, other).num_chunks == 1
    assert align_spans(spans, spans).num_chunks == inner.sum() > 1


def test_a_prefix_has_no_bytes():
    for kind in (PREFIX, FIRST, "byte-level, NFKC, prefix space"):
        tokenizer = tokenizer_of(kind)
        table, ids = ByteTable.from_tokenizer(tokenizer), tokenizer.encode("a\ufb01x").ids
        spans = table.spans("a\ufb01x", ids)
        assert table.tokens[ids[0]].startswith(b" "), kind
        assert spans.starts[0] == 0
        assert spans.ends[-1] == 5
        assert not spans.has_bytes[0] or spans.ends[0] == len(table.tokens[ids[0]]) - 1


def test_every_stretch_behind_a_special_token_gets_the_prefix_that_the_tokenizer_gives_it():
    text = "a<s>b"
    for kind, with_prefix in ((PREFIX, True), (FIRST, False)):
        tokenizer = tokenizer_of(kind)
        table, encoding = ByteTable.from_tokenizer(tokenizer), tokenizer.encode(text)
        behind = encoding.tokens[encoding.tokens.index("<s>") + 1]
        assert behind.startswith("▁") == with_prefix
        spans = table.spans(text, encoding.ids)
        assert (spans.starts[spans.special].tolist(), spans.ends[spans.special].tolist()) == ([1], [4])
        assert spans.ends[-1] == 5


def test_dropped_white_space_lies_in_no_token():
    tokenizer = characters("ab", pre_tokenizer=pre_tokenizers.WhitespaceSplit())
    assert places(tokenizer, " a \n b ") == [(1, 2), (5, 6)]
    plain = characters("ab \n")
    tables = ByteTable.from_tokenizer(tokenizer), ByteTable.from_tokenizer(plain)
    text = "a \nb"
    aligned = align_chunks(tokenizer.encode(text).ids, plain.encode(text).ids, *tables, text=text)
    assert (aligned.student_chunks.tolist(), aligned.teacher_chunks.tolist()) == ([0, 1], [0, -1, -1, 1])
    assert (aligned.starts.tolist(), aligned.ends.tolist()) == ([0, 3], [1, 4])


def test_a_prefix_in_place_of_white_space_is_that_white_space():
    tokenizer = characters(
        "ab",
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
    )
    assert places(tokenizer, "a b") == [(0, 0), (0, 1), (1, 2), (2, 3)]
    assert places(tokenizer, "a \n b ") == [(0, 0), (0, 1), (1, 4), (4, 5)]


def test_runs_of_blanks_are_cut_where_the_tokenizer_reads_them_apart():
    joins = normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(" ", "▁")])
    tokenizer = characters("ab\n", normalizer=joins)
    assert places(tokenizer, "a\n   b") == [(0, 1), (1, 2), (2, 5), (5, 6)]


def test_units_that_act_on_each_other_are_one():
    """Two characters that are replaced together, with nothing about them in common."""
    tokenizer = characters("ab'\"", normalizer=normalizers.Replace("''", '"'))
    assert places(tokenizer, "a''b") == [(0, 1), (1, 3), (3, 4)]
    spans = ByteTable.from_tokenizer(tokenizer).spans("ab''ab" * 2, tokenizer.encode("ab''ab" * 2).ids)
    assert oracle.respell(spans.text, oracle.edits_of(spans)) == b'ab"ab' * 2
    assert oracle.edits_of(spans) == [(2, 4, b'"'), (8, 10, b'"')]


@pytest.mark.parametrize("kind", [NFC, PREFIX, FIRST, WORDS, WORDPIECE])
def test_special_tokens_in_the_text_and_added_ones(kind):
    tokenizer = tokenizer_of(kind)
    end, begin = tokenizer.token_to_id("<|end|>"), tokenizer.token_to_id("<s>")
    text = "the<|end|>the"
    spans = ByteTable.from_tokenizer(tokenizer).spans(text, [begin, *tokenizer.encode(text).ids, end, end])
    where = zip(spans.starts[spans.special].tolist(), spans.ends[spans.special].tolist(), strict=True)
    assert list(where) == [(0, 0), (3, 10), (13, 13), (13, 13)]
    assert not spans.has_bytes[spans.special].any()


def test_special_tokens_swallow_the_spaces_beside_them():
    tokenizer = characters("ab ")
    tokenizer.add_special_tokens([AddedToken("<m>", lstrip=True, rstrip=True)])
    assert places(tokenizer, "a  <m> b") == [(0, 1), (1, 7), (7, 8)]


def test_added_tokens_that_are_not_special_are_text():
    tokenizer = characters("abc", normalizer=normalizers.Lowercase())
    tokenizer.add_tokens([AddedToken("<T>", normalized=False)])
    spans = ByteTable.from_tokenizer(tokenizer).spans("A<T>C", tokenizer.encode("A<T>C").ids)
    assert (spans.starts.tolist(), spans.ends.tolist()) == ([0, 1, 4], [1, 4, 5])
    assert spans.has_bytes.all()


def test_within_keeps_whole_tokens_and_counts_from_the_stretch():
    table = ByteTable([b"ab", b"c", b"<s>"], special_ids=[2], special_text={2: b"<s>"})
    spans = table.spans("abc<s>abc", [0, 1, 2, 0, 1])
    inner, kept = spans.within(1, 8)
    assert kept == slice(1, 4)
    assert (inner.text, inner.starts.tolist(), inner.ends.tolist()) == (b"bc<s>ab", [1, 2, 5], [2, 5, 7])
    # What a token of one side covers only in part is no chunk.
    other, _ = table.spans("abc<s>abc", [0, 1, 2, 0, 1]).within(1, 8)
    bytewise = ByteTable([b"b", b"c", b"a", b"<s>"], [3], {3: b"<s>"}).spans("bc<s>ab", [0, 1, 3, 2, 0])
    assert align_spans(inner, other).num_chunks == 2
    aligned = align_spans(bytewise, inner)
    assert aligned.student_chunks.tolist() == [-1, 0, -1, 1, 1]
    assert aligned.teacher_chunks.tolist() == [0, -1, 1]
    for start, end in ((-1, 2), (3, 2), (0, 10)):
        with pytest.raises(ValueError, match=r"within: a stretch must satisfy 0 <= start <= end <= 9"):
            spans.within(start, end)


@pytest.mark.parametrize(
    ("stretch", "blanks_from", "kept", "starts"),
    [
        ((4, 8), None, slice(2, 3), [2]),
        ((4, 8), 2, slice(1, 3), [0, 2]),  # " \nab" reaches in with white space alone
        ((4, 8), 3, slice(2, 3), [2]),  # it begins before the place where blanks may
        ((5, 8), 0, slice(2, 3), [1]),  # "a" of it stands before the stretch
        ((3, 8), 0, slice(1, 3), [0, 3]),
        ((6, 8), 0, slice(2, 3), [0]),  # it ends where the stretch begins
        ((4, 5), 0, slice(1, 1), []),  # it runs over the end
        ((11, 12), 8, slice(4, 4), []),  # a special token is no part of a text
    ],
)
def test_a_token_that_begins_with_white_space_before_the_stretch(stretch, blanks_from, kept, starts):
    entries = [b"xy", b" \nab", b"cd", b"e", b" <s>"]
    table = ByteTable(entries, special_ids=[4], special_text={4: b" <s>"})
    spans = table.spans("xy \nabcd <s>e", [0, 1, 2, 4, 3])
    inner, found = cut(spans, stretch, blanks_from)
    assert (found, inner.starts.tolist()) == (kept, starts)
    assert inner.text == spans.text[slice(*stretch)] and len(inner.special) == len(starts)


def test_a_blank_of_many_bytes_may_stand_before_the_stretch():
    spans = ByteTable([b"a", "\u3000b".encode()]).spans("a\u3000b", [0, 1])
    inner, kept = cut(spans, (4, 5), 1)
    assert (kept, inner.starts.tolist(), inner.ends.tolist()) == (slice(1, 2), [0], [1])


def test_of_a_token_in_a_respelled_stretch_across_the_edge_no_part_is_taken():
    tokenizer = tokenizer_of("Unigram, NFKC, runs of spaces joined")
    text = "a   in"
    spans = ByteTable.from_tokenizer(tokenizer).spans(text, tokenizer.encode(text).ids)
    assert (1, 4, b" ") in oracle.edits_of(spans)
    blank = spans.starts.tolist().index(1)
    for start, first in ((1, blank), (2, blank + 1), (4, blank + 1)):
        _, kept = cut(spans, (start, len(text)), 1)
        assert kept.start == first


def test_a_respelled_stretch_across_the_edge_takes_its_tokens_along():
    tokenizer = characters(
        "ab", pre_tokenizer=pre_tokenizers.WhitespaceSplit(), normalizer=normalizers.Lowercase()
    )
    spans = ByteTable.from_tokenizer(tokenizer).spans("A \n  b", tokenizer.encode("A \n  b").ids)
    inner, kept = spans.within(3, 6)
    assert (kept, inner.starts.tolist(), oracle.edits_of(inner)) == (
        slice(1, 2),
        [2],
        [(0, 2, b"")],
    )


def test_text_that_the_tokens_do_not_spell_names_the_place():
    table = ByteTable([b"ab", b"c"])
    with pytest.raises(ValueError, match=r"spell the text .* byte 2 of the text: tokens b'abc' \(token 1\)"):
        table.spans("abd", [0, 1])
    with pytest.raises(ValueError, match=r"ByteTable.spans: .* must spell the text"):
        table.spans("ab", [0, 1])
    tokenizer = tokenizer_of(NFC)
    with pytest.raises(ValueError, match=r"ByteTable.spans: .* must spell the text"):
        ByteTable.from_tokenizer(tokenizer).spans("e\u0301", tokenizer.encode("other").ids)
    with pytest.raises(ValueError, match=r"ByteTable.spans: .* must spell the text"):
        ByteTable.from_tokenizer(tokenizer).spans("", tokenizer.encode("other").ids)
    with pytest.raises(ValueError, match=r"ByteTable.spans: ids must lie in \[0, 2\)"):
        table.spans("ab", [2])


def test_an_unknown_token_is_refused():
    tokenizer = tokenizer_of(WORDPIECE)
    table = ByteTable.from_tokenizer(tokenizer)
    for text in ("the \U0001f9ff word", "the \U0001f9ff"):
        with pytest.raises(
            ValueError, match=r"could not spell a stretch of the text: id 0 at position . is its unk"
        ):
            table.spans(text, tokenizer.encode(text).ids)
    # Written out, it is an added token like others.
    assert places(tokenizer, "t[UNK]t") == [(0, 1), (1, 6), (6, 7)]


def test_an_added_token_that_was_not_recognised_is_refused():
    tokenizer = characters("ab<s>", normalizer=normalizers.Lowercase())
    tokenizer.add_special_tokens(["<s>"])
    special, table = tokenizer.token_to_id("<s>"), ByteTable.from_tokenizer(tokenizer)
    ids = [tokenizer.token_to_id(c) for c in "a<s>b"]
    with pytest.raises(ValueError, match=r"(added token of id|must spell the text)"):
        table.spans("A<s>b", [*ids, special])


def test_sides_of_different_texts_are_refused():
    table = ByteTable([b"ab", b"c"])
    with pytest.raises(
        ValueError, match=r"align_spans: both sides must hold the same text; got b'ab' and b'c'"
    ):
        align_spans(table.spans("ab", [0]), table.spans("c", [1]))


def test_joining_units_stops_at_special_tokens():
    tokenizer = characters("ab'\"", normalizer=normalizers.Replace("''", '"'))
    tokenizer.add_special_tokens(["<|end|>"])
    text = "a''<|end|><|end|>''b"
    assert places(tokenizer, text) == [(0, 1), (1, 3), (3, 10), (10, 17), (17, 19), (19, 20)]
