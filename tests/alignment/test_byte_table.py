"""The bytes of a token are those that the tokenizer's own decoder produces."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tide.alignment import ByteTable, align_chunks
from tide.spelling.tokenizer_spec import read_spec
from tide.spelling.vocabulary import byte_alphabet

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_byte_alphabet_is_that_of_the_tokenizers_library():
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    # Visible, space, newline, the first and the last that moved, and a visible one beyond ASCII.
    assert [alphabet[c] for c in "A~\u0120\u010a\u0100\u0143\u00e9"] == [65, 126, 32, 10, 0, 173, 233]


def test_every_token_decodes_to_its_bytes(teacher_tokenizer):
    table = ByteTable.from_tokenizer(teacher_tokenizer)
    assert len(table) == teacher_tokenizer.get_vocab_size() == len(table.lengths) == len(table.special)
    for token_id, token in enumerate(table.tokens):
        decoded = teacher_tokenizer.decode([token_id], skip_special_tokens=True)
        assert token.decode(errors="replace") == decoded
        assert table.lengths[token_id] == len(token)
    assert table.lengths.dtype == np.int32
    assert sorted(token for token in table.tokens if len(token) == 1) == [
        bytes([byte]) for byte in range(256)
    ]


@settings(deadline=None)
@given(text=texts)
def test_joined_token_bytes_are_the_text(student_tokenizer, teacher_tokenizer, text):
    for tokenizer in (student_tokenizer, teacher_tokenizer):
        table = ByteTable.from_tokenizer(tokenizer)
        ids = tokenizer.encode(text).ids
        assert b"".join(table.token_bytes(ids)) == text.encode()
        assert table.lengths[ids].sum() == len(text.encode())


def test_special_tokens_have_no_bytes_and_added_words_have_theirs(byte_level):
    tokenizer = byte_level()
    size = tokenizer.get_vocab_size()
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("\n\n  é", normalized=True)])
    tokenizer.add_special_tokens(["<|new|>"])
    table = ByteTable.from_tokenizer(tokenizer)
    assert np.flatnonzero(table.special).tolist() == [0, 1, size + 2]
    assert table.token_bytes([0, size, size + 1, size + 2]) == [b"", b"<think>", "\n\n  é".encode(), b""]
    assert table.lengths[[1, size, size + 1, size + 2]].tolist() == [0, 7, 6, 0]

    text = "a<think>b\n\n  é c"
    ids = tokenizer.encode(text).ids
    assert {size, size + 1} <= set(ids)
    assert b"".join(table.token_bytes(ids)) == text.encode()


def test_a_plain_word_is_special_only_where_the_tokenizer_says_so(byte_level):
    """`user` and `system` look like template words; as ordinary tokens they are text."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["user"])
    tokenizer.add_special_tokens(["system"])
    table = ByteTable.from_tokenizer(tokenizer)
    ids = [tokenizer.token_to_id("user"), tokenizer.token_to_id("system")]
    assert table.token_bytes(ids) == [b"user", b""]
    assert table.special[ids].tolist() == [False, True]


def test_unused_ids_are_empty_and_not_special():
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "\u0120b": 4}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    table = ByteTable.from_tokenizer(tokenizer)
    assert table.tokens == (b"a", b"", b"", b"", b" b")
    assert not table.special.any()


def test_raw_text_in_the_vocabulary_reads_as_the_decoder_reads_it():
    tokenizer = Tokenizer(models.BPE(vocab={"a b": 0, "\u0120": 1, "\uff5cx": 2}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    table = ByteTable.from_tokenizer(tokenizer)
    assert table.tokens == (b"a b", b" ", "\uff5cx".encode())
    assert [tokenizer.decode([i]) for i in range(3)] == [token.decode() for token in table.tokens]


def test_transformers_tokenizer_gives_the_table_of_its_backend(teacher_tokenizer):
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=teacher_tokenizer, mask_token="<|mask|>", pad_token="<|pad|>"
    )
    table, plain = ByteTable.from_tokenizer(wrapped), ByteTable.from_tokenizer(teacher_tokenizer)
    assert table.tokens == (*plain.tokens, b"")
    assert np.flatnonzero(table.special).tolist() == [0, 1, wrapped.pad_token_id]


def test_sequences_of_byte_preserving_steps_are_accepted(byte_level):
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,3}|\s+"), behavior="isolated"),
            pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    table = ByteTable.from_tokenizer(tokenizer)
    text = "x = 12345  +\n\té"
    assert b"".join(table.token_bytes(tokenizer.encode(text).ids)) == text.encode()


@pytest.mark.parametrize("strip", ["lstrip", "rstrip"])
def test_a_word_that_swallows_blanks_stands_in_its_texts_alone(byte_level, strip):
    tokenizer = byte_level()
    plain, text = ByteTable.from_tokenizer(tokenizer), "x y"
    expected = plain.spans(text, tokenizer.encode(text).ids)
    tokenizer.add_tokens([AddedToken("<x>", normalized=False, **{strip: True})])
    table = ByteTable.from_tokenizer(tokenizer)
    spans = table.spans(text, tokenizer.encode(text).ids)
    assert spans.has_bytes.all() and spans.ends.tolist() == expected.ends.tolist()
    # Where it stands, it spans its own text, and what it swallowed is of no token.
    ids = tokenizer.encode("ab <x> cd").ids
    spans = table.spans("ab <x> cd", ids)
    at = ids.index(tokenizer.token_to_id("<x>"))
    assert (spans.starts[at], spans.ends[at]) == (3, 6) and not spans.has_bytes[at]
    held = b"".join(
        spans.text[start:end]
        for start, end, has in zip(spans.starts, spans.ends, spans.has_bytes, strict=True)
        if has
    )
    assert held == b"ab cd"


def test_a_word_of_two_readings_is_unknown_where_it_stands(byte_level):
    """The model spells byte 0xE9 by the entry that is also the added word."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["é"])
    table, text = ByteTable.from_tokenizer(tokenizer), "ab é cd<|end|>"
    assert table.spans("x y", tokenizer.encode("x y").ids).has_bytes.all()
    ids = tokenizer.encode(text).ids
    spans = table.spans(text, ids)
    assert spans.has_bytes[0] and not spans.has_bytes[ids.index(tokenizer.token_to_id("é"))]
    assert spans.located[-2] and spans.text[spans.starts[-2] : spans.ends[-2]].endswith(b"d")


def test_words_found_in_normalized_text_leave_other_texts_alone(byte_level):
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens([AddedToken("Foo", normalized=True)])
    table, new = ByteTable.from_tokenizer(tokenizer), tokenizer.token_to_id("Foo")
    assert table.spans("x y", tokenizer.encode("x y").ids).has_bytes.all()
    for text, is_held in (("a Foo b", True), ("a fOO b", False)):
        ids = tokenizer.encode(text).ids
        spans, at = table.spans(text, ids), ids.index(new)
        assert (spans.starts[at], spans.ends[at], spans.has_bytes[at]) == (2, 5, is_held)
        assert np.delete(spans.has_bytes, at).all()


def test_other_models_are_refused_by_name():
    spec = json.dumps({"model": {"type": "CharLM"}})
    with pytest.raises(ValueError, match="model is CharLM; supported are BPE, Unigram, WordPiece, WordLevel"):
        read_spec(spec)


def test_words_of_a_word_level_model_are_their_text():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "é": 1, "b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    spans = ByteTable.from_tokenizer(tokenizer).spans("é x b", tokenizer.encode("é x b").ids)
    assert spans.has_bytes.tolist() == [True, False, True]
    assert spans.starts[[0, 2]].tolist() == [0, 5] and spans.ends[[0, 2]].tolist() == [2, 6]


def test_an_object_without_a_rust_backend_is_refused_by_name():
    with pytest.raises(ValueError, match="from_tokenizer: dict has no Rust backend"):
        ByteTable.from_tokenizer({"a": 0})


def test_steps_written_in_python_are_refused(byte_level):
    class Upper:
        def normalize(self, normalized):
            normalized.map(str.upper)

    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Normalizer.custom(Upper())
    with pytest.raises(ValueError, match="from_tokenizer: the tokenizer has no serialised form"):
        ByteTable.from_tokenizer(tokenizer)


def test_a_table_is_made_once_per_content(byte_level):
    tokenizer = byte_level()
    table = ByteTable.from_tokenizer(tokenizer)
    assert ByteTable.from_tokenizer(Tokenizer.from_str(tokenizer.to_str())) is table
    tokenizer.add_tokens(["<new>"])
    assert ByteTable.from_tokenizer(tokenizer).tokens[-1] == b"<new>"


def test_a_table_is_pickled_with_what_it_knows_of_the_tokenizer(byte_level):
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    table = ByteTable.from_tokenizer(tokenizer)
    copy = pickle.loads(pickle.dumps(table))
    ids = tokenizer.encode("cafe\u0301 <|end|>").ids
    for one, other in zip(
        table.spans("cafe\u0301 <|end|>", ids).__dict__.values(),
        copy.spans("cafe\u0301 <|end|>", ids).__dict__.values(),
        strict=True,
    ):
        if isinstance(one, np.ndarray):
            assert one.tolist() == other.tolist()
    assert copy.tokens == table.tokens


def entries(document, *texts):
    """The bytes that entries of a vocabulary stand for."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
    table = ByteTable.from_tokenizer(tokenizer)
    return [table.tokens[tokenizer.token_to_id(text)] for text in texts]


def document(model, **steps):
    empty = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    return {"version": "1.0", "added_tokens": [], **empty, **steps, "model": model}


def test_bytes_of_sentencepiece_entries():
    vocab = {"▁a": 0, "a▁▁": 1, "<0xE2>": 2, "é": 3, "<unk>": 4}
    model = {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": True, "unk_token": "<unk>"}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    texts = [b" a", b"a  ", b"\xe2", "é".encode()]
    assert entries(document(model, pre_tokenizer=metaspace), *list(vocab)[:4]) == texts
    assert entries(document(model, normalizer=replace), *list(vocab)[:4]) == texts
    # Without byte fallback, and where a space is a space, entries are their text.
    plain = {**model, "byte_fallback": False}
    assert entries(document(plain), "▁a", "<0xE2>") == ["▁a".encode(), b"<0xE2>"]
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁a", -1.0], ["<0x0A>", -2.0]],
               "byte_fallback": True}  # fmt: skip
    assert entries(document(unigram, pre_tokenizer=metaspace), "▁a", "<0x0A>") == [b" a", b"\n"]


def test_bytes_of_entries_with_marks():
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "vocab": {"[UNK]": 0, "un": 1, "##do": 2, "###": 3}}  # fmt: skip
    model["max_input_chars_per_word"] = 100
    assert entries(document(model), "un", "##do", "###") == [b"un", b"do", b"#"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {"a": 0, "a</w>": 1, "Ã©</w>": 2}, "merges": [],
             "end_of_word_suffix": "</w>"}  # fmt: skip
    assert entries(document(model, pre_tokenizer=byte_level), "a", "a</w>", "Ã©</w>") == [
        b"a", b"a", "é".encode()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1, 3], r"\[0, 3\).*got 3 at position 2"),
        ([0, -100], r"got -100 at position 1"),
        ([[0, 1]], r"one row of integer token ids; got shape \(1, 2\)"),
        ([[0], [1, 2]], "rows of unequal length"),
        ([0.0, 1.0], "dtype float64"),
        ([True, False], "dtype bool"),
        (1, r"shape \(\)"),
    ],
)
def test_ids_that_are_not_one_row_of_the_vocabulary_are_refused(ids, message):
    with pytest.raises(ValueError, match=f"ByteTable.token_bytes: ids must .*{message}"):
        ByteTable([b"a", b"b", b"c"]).token_bytes(ids)


def test_table_from_known_bytes_drops_the_bytes_of_specials():
    table = ByteTable([b"a", b"<s>", b"\xc3"], special_ids={1})
    assert (table.tokens, table.lengths.tolist()) == ((b"a", b"", b"\xc3"), [1, 0, 1])
    assert table.token_bytes([]) == []
    with pytest.raises(ValueError, match=r"ByteTable: special_ids must lie in \[0, 3\)"):
        ByteTable([b"a", b"b", b"c"], special_ids=[3])


def test_special_text_is_of_special_ids():
    with pytest.raises(ValueError, match=r"special_text must be of special ids; got \[1\]"):
        ByteTable([b"a", b"<s>"], special_text={1: b"<s>"})


def test_text_that_a_normalizer_changes_needs_the_text(student_tokenizer, teacher_tokenizer):
    plain = student_tokenizer
    normalizing = Tokenizer.from_str(teacher_tokenizer.to_str())
    normalizing.normalizer = normalizers.NFC()
    tables = ByteTable.from_tokenizer(plain), ByteTable.from_tokenizer(normalizing)
    assert [table.spells_text for table in tables] == [True, False]
    composed, decomposed = "caf\u00e9 = 1", "cafe\u0301 = 1"
    aligned = align_chunks(plain.encode(composed).ids, normalizing.encode(composed).ids, *tables)
    assert aligned.num_chunks > 0
    ids = plain.encode(decomposed).ids, normalizing.encode(decomposed).ids
    with pytest.raises(ValueError, match=r"first differ at offset 3.* pass the text itself: text="):
        align_chunks(*ids, *tables)
    aligned = align_chunks(*ids, *tables, text=decomposed)
    assert aligned.ends[-1] == len(decomposed.encode())
    assert aligned.num_chunks > 0
