"""Where tokens lie: written out by hand for every way in which a tokenizer leaves the text as it stands."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from tests.alignment.oracle import within
from tests.alignment.zoo import tokenizer_of
from tide.alignment import ByteTable, align_chunks, align_spans
from tide.spelling.token_spans import Stretches

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


def spans_of(tokenizer, text, ids=None):
    return ByteTable.from_tokenizer(tokenizer).spans(text, tokenizer.encode(text).ids if ids is None else ids)


def places(tokenizer, text):
    """Start and end of each token; None for rejected ones."""
    spans = spans_of(tokenizer, text)
    return [
        (int(start), int(end)) if has_bytes or special else None
        for start, end, has_bytes, special in zip(
            spans.starts, spans.ends, spans.has_bytes, spans.special, strict=True
        )
    ]


def rejected(spans):
    return np.flatnonzero(spans.rejected).tolist()


def cut(spans, stretch, blanks_from):
    """One stretch of spans, and the positions of its tokens."""
    stretches = Stretches.of([stretch], None if blanks_from is None else [blanks_from])
    (first,), (after,) = found = spans.positions(stretches)
    inner, tokens = spans.gathered(stretches, *found)
    assert tokens.tolist() == list(range(first, after))
    return inner, slice(int(first), int(after))


def test_a_normalizer_moves_what_comes_behind():
    tokenizer = characters("abé", normalizer=normalizers.NFC())
    text = "ae\u0301" + "babbaaba"
    assert places(tokenizer, text) == [(0, 1), None, *((at, at + 1) for at in range(4, 12))]
    assert rejected(spans_of(tokenizer, text)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (WORDPIECE, "internationalization\u2603 INTERNATIONALIZATIÖN"),
        (WORDPIECE, "developer\u2603 and déveloper here"),
        (WORDPIECE, "\u200bß''\u200bß''ß\xa0''é\xa0\u200b"),
        ("byte-level, NFKC, prefix space", "ａｂｃｄｅｆｇｅ①abcdefge\u0301①x"),
    ],
)
def test_a_token_never_lies_on_another_occurrence_of_its_bytes(kind, text):
    tokenizer = tokenizer_of(kind)
    encoding, spans = tokenizer.encode(text), spans_of(tokenizer, text)
    for token in np.flatnonzero(spans.has_bytes).tolist():
        start, end = (len(text.encode()[: int(of[token])].decode()) for of in (spans.starts, spans.ends))
        library_start, library_end = encoding.offsets[token]
        assert start < library_end and library_start < end, f"token {token}"


def test_a_run_that_a_rule_shortens_is_left_out():
    tokenizer = characters("abcdefghijk-", normalizer=normalizers.Replace(Regex("-{2}"), "-"))
    assert places(tokenizer, "a---b--cdefghijk")[:5] == [(0, 1), None, None, None, None]


def test_an_added_special_token_is_not_its_literal_in_the_text():
    tokenizer = Tokenizer.from_str(tokenizer_of(NFC).to_str())
    tokenizer.add_special_tokens(["<s>"])
    begin, text = tokenizer.token_to_id("<s>"), "ab<s>ab e\u0301"
    tokenizer.encode_special_tokens = True
    spans = spans_of(tokenizer, text, [begin, *tokenizer.encode(text).ids])
    first = int(np.flatnonzero(spans.has_bytes)[0])
    assert first == 1 and spans.starts[first] == 0


def test_added_special_tokens_behind_respelled_text_stand_in_order():
    tokenizer = tokenizer_of(NFC)
    end = tokenizer.token_to_id("<|end|>")
    spans = spans_of(tokenizer, "xe\u0301", [*tokenizer.encode("xe\u0301").ids, end])
    assert (np.diff(spans.starts) >= 0).all() and (np.diff(spans.ends) >= 0).all()
    assert spans.starts[-1] == spans.ends[-1]


def test_a_text_that_is_respelled_whole_is_still_of_its_ids():
    assert not spans_of(tokenizer_of(NFC), "e\u0301").has_bytes.any()


def test_a_respelled_character_is_rejected_with_the_tokens_over_it():
    tokenizer = tokenizer_of("byte-level, NFKC, prefix space")
    ligature = "x\ufb03y is one character"
    spans = spans_of(tokenizer, ligature)
    assert rejected(spans)[:3] == [1, 2, 3] and places(tokenizer, ligature)[-1] is not None
    plain = spans_of(tokenizer_of("byte-level"), ligature)
    alignment = align_spans(spans, plain)
    assert alignment.num_rejected == 1 and alignment.num_chunks > 2
    # Also where both respell it alike.
    assert align_spans(spans, spans).num_rejected == 1


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


def test_dropped_whitespace_is_rejected():
    tokenizer = characters("ab", pre_tokenizer=pre_tokenizers.WhitespaceSplit())
    assert places(tokenizer, " a \n b ") == [(1, 2), (5, 6)]
    plain = characters("ab \n")
    tables = ByteTable.from_tokenizer(tokenizer), ByteTable.from_tokenizer(plain)
    text = "a \nb"
    aligned = align_chunks(tokenizer.encode(text).ids, plain.encode(text).ids, *tables, text=text)
    assert (aligned.student_chunks.tolist(), aligned.teacher_chunks.tolist()) == ([0, 1], [0, -1, -1, 1])
    assert (aligned.starts.tolist(), aligned.ends.tolist()) == ([0, 3], [1, 4])
    assert aligned.rejected.tolist() == [1]


def test_a_prefix_in_place_of_a_space_is_that_space():
    tokenizer = characters(
        "ab",
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
    )
    assert places(tokenizer, "a b") == [None, (0, 1), (1, 2), (2, 3)]
    assert places(tokenizer, "a \n b ") == [None, (0, 1), None, (4, 5)]


def test_a_run_of_blanks_that_is_collapsed_is_rejected():
    joins = normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(" ", "▁")])
    tokenizer = characters("ab\n", normalizer=joins)
    assert places(tokenizer, "a b   b") == [(0, 1), (1, 2), (2, 3), None, (6, 7)]


def test_agreement_resumes_behind_a_step_that_acts_across_characters():
    tokenizer = characters("abcdefghij'\"", normalizer=normalizers.Replace("''", '"'))
    text = "ab''cdefghij"
    assert places(tokenizer, text) == [(0, 1), (1, 2), None, *((at, at + 1) for at in range(4, 12))]
    # Of two places that could be meant, none is taken.
    twice = "ab''cdefghij''cdefghij''a"
    assert [place for place in places(tokenizer, twice) if place] == [(0, 1), (1, 2), (24, 25)]


def test_bytes_that_could_stand_on_either_side_of_a_difference_are_left_out():
    tokenizer = characters("abcdefghi-'", normalizer=normalizers.Replace("--'", "-'"))
    # The hyphen that is left may be the first or the second one.
    text = "a--'bcdefghi"
    found = places(tokenizer, text)
    assert found[0] == (0, 1) and found[1] is None and found[3:] == [(at, at + 1) for at in range(4, 12)]


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
    assert places(tokenizer, "a  <m> b") == [(0, 1), (3, 6), (7, 8)]
    assert rejected(spans_of(tokenizer, "a  <m> b")) == [1, 2, 6]
    plain = characters("ab ")
    plain.add_special_tokens(["<m>"])
    aligned = align_spans(spans_of(tokenizer, "a  <m> b"), spans_of(plain, "a  <m> b"))
    assert aligned.student_chunks.tolist() == [0, -1, 1]
    assert aligned.teacher_chunks.tolist() == [0, -1, -1, -1, -1, 1]


def test_added_tokens_that_are_not_special_are_text():
    tokenizer = characters("abc", normalizer=normalizers.Lowercase())
    tokenizer.add_tokens([AddedToken("<T>", normalized=False)])
    assert places(tokenizer, "a<T>C") == [(0, 1), (1, 4), None]


def test_a_stretch_keeps_whole_tokens_and_counts_from_its_start():
    table = ByteTable([b"ab", b"c", b"<s>"], special_ids=[2], special_text={2: b"<s>"})
    spans = table.spans("abc<s>abc", [0, 1, 2, 0, 1])
    inner, kept = within(spans, 1, 8)
    assert kept == slice(1, 4)
    assert (inner.text, inner.starts.tolist(), inner.ends.tolist()) == (b"bc<s>ab", [1, 2, 5], [2, 5, 7])
    # What a token of one side covers only in part is no chunk.
    other, _ = within(table.spans("abc<s>abc", [0, 1, 2, 0, 1]), 1, 8)
    bytewise = ByteTable([b"b", b"c", b"a", b"<s>"], [3], {3: b"<s>"}).spans("bc<s>ab", [0, 1, 3, 2, 0])
    assert align_spans(inner, other).num_chunks == 2
    aligned = align_spans(bytewise, inner)
    assert aligned.student_chunks.tolist() == [-1, 0, -1, 1, 1]
    assert aligned.teacher_chunks.tolist() == [0, -1, 1]


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
def test_a_token_that_begins_with_whitespace_before_the_stretch(stretch, blanks_from, kept, starts):
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


def test_a_rejected_token_across_the_edge_is_left_out_and_its_bytes_stay_rejected():
    tokenizer = tokenizer_of("Unigram, NFKC, runs of spaces joined")
    spans = spans_of(tokenizer, "a   in")
    inner, kept = cut(spans, (2, 6), 1)
    assert spans.starts[kept.start] == 4 and rejected(inner) == [0, 1]


def test_ids_of_another_text_are_refused_where_they_differ():
    table = ByteTable([b"ab", b"c"])
    with pytest.raises(ValueError, match=r"ByteTable.spans: .* differ at 2: tokens b'abc' \(token 1\)"):
        table.spans("abd", [0, 1])
    with pytest.raises(ValueError, match=r"ByteTable.spans: the ids must be of the text"):
        table.spans("ab", [0, 1])
    for text in ("e\u0301", ""):
        with pytest.raises(ValueError, match=r"ByteTable.spans: the ids must be of the text"):
            spans_of(tokenizer_of(NFC), text, tokenizer_of(NFC).encode("other").ids)
    with pytest.raises(ValueError, match=r"ByteTable.spans: ids must lie in \[0, 2\)"):
        table.spans("ab", [2])


def test_an_unknown_token_is_rejected_with_what_it_may_stand_for():
    tokenizer = tokenizer_of(WORDPIECE)
    text = "the \u2603 word is here"
    spans = spans_of(tokenizer, text)
    held = "".join(
        text.encode()[s:e].decode()
        for s, e in zip(spans.starts[spans.has_bytes], spans.ends[spans.has_bytes], strict=True)
    )
    assert held == "thewordishere"
    assert set(range(3, 8)) <= set(rejected(spans))
    # Between two of them, words that occur twice cannot be told apart.
    twice = "a \u2603 word is here \u2603 word is here \u2603 a"
    assert spans_of(tokenizer, twice).has_bytes.sum() == 2
    # Written out, it is an added token like others.
    assert places(tokenizer, "t[UNK]t") == [(0, 1), (1, 6), (6, 7)]


def test_an_added_token_that_was_not_recognised_is_the_bytes_that_it_is_written_in():
    tokenizer = characters("ab<s>", normalizer=normalizers.Lowercase())
    tokenizer.add_special_tokens(["<s>"])
    special = tokenizer.token_to_id("<s>")
    ids = [tokenizer.token_to_id(c) for c in "a<s>b"]
    spans = ByteTable.from_tokenizer(tokenizer).spans_of(["b<s>b"], [[ids[-1], *ids[1:], special]])
    assert spans.has_bytes.tolist() == [True] * 5 + [False] and spans.starts.tolist() == [0, 1, 2, 3, 4, 5]


def test_sides_of_different_texts_are_refused():
    table = ByteTable([b"ab", b"c"])
    with pytest.raises(
        ValueError, match=r"align_spans: both sides must hold the same text; got b'ab' and b'c'"
    ):
        align_spans(table.spans("ab", [0]), table.spans("c", [1]))
