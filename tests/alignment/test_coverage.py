"""Of real text, at least 999 bytes in 1,000 stay aligned for tokenizers that spell what they read."""

from __future__ import annotations

import sysconfig
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, normalizers, pre_tokenizers

from tests.alignment import oracle, zoo
from tide.alignment import ByteTable, align_spans

MULTILINGUAL = unicodedata.normalize(
    "NFC",
    """\
天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。寒来暑往，秋收冬藏。「東京は日本の首都です」と、かれは言った。カタカナとひらがな。
안녕하세요. 오늘은 날씨가 좋습니다. 훈민정음은 우리말을 적는 글자입니다.
السَّلَامُ عَلَيْكُمْ، كيف حالك اليوم؟ هذا نص بالعربية مع علامات التشكيل.
नमस्ते दुनिया! यह हिन्दी में लिखा हुआ एक वाक्य है, जिसमें मात्राएँ और संयुक्ताक्षर क्षत्रिय ज्ञान हैं।
שָׁלוֹם עֲלֵיכֶם, זה משפט בעברית. Привет, мир! Γειά σου Κόσμε. Tiếng Việt có nhiều dấu: ở, ữ, ẵ, ặ.
Çok güzel! Größe, œuvre, naïve, façade, señor, Ångström, x̄ and q̃ and m̂ have no composed form.
😀 👍🏽 👩‍💻 🇩🇪 ❤️ 🏳️‍🌈 and text in between, ☕ twice: ☕☕. ½ × 2 ≠ 3 — “quoted”… กำลัง ภาษาไทย
""",
)


def standard_library(num_characters: int) -> str:
    """Source of the interpreter's standard library, every file's first part."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    share = 1 + num_characters // len(files)
    return "".join(file.read_text(encoding="utf-8", errors="ignore")[:share] for file in files)[
        :num_characters
    ]


TIKTOKEN = zoo.sequence(
    pre_tokenizers.Split(Regex(zoo.TIKTOKEN_SPLIT), behavior="isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
)
SPACES = zoo.sequence(normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"))
TOKENIZERS = {
    "byte-level BPE": lambda text: zoo.byte_level(1200, text),
    "byte-level BPE, NFC": lambda text: zoo.byte_level(
        1500, text, normalizer=normalizers.NFC(), pre_tokenizer=TIKTOKEN
    ),
    "SentencePiece BPE": lambda text: zoo.sentencepiece_bpe(1400, text, normalizer=SPACES),
    "Unigram": lambda text: zoo.unigram(
        1000, text, normalizer=normalizers.NFC(), pre_tokenizer=pre_tokenizers.Metaspace()
    ),
}


@cache
def tokenizer_of(name: str):
    sample = [*standard_library(20_000).splitlines(keepends=True), *MULTILINGUAL.splitlines(keepends=True)]
    return TOKENIZERS[name](sample)


def assert_covered(text: str) -> None:
    sides = []
    for name in TOKENIZERS:
        tokenizer = tokenizer_of(name)
        table, ids = ByteTable.from_tokenizer(tokenizer), tokenizer.encode(text).ids
        spans = table.spans(text, ids)
        oracle.assert_right(spans, table.token_bytes(ids))
        assert np.diff([0, *spans.ends[spans.has_bytes]]).sum() == len(text.encode())
        sides.append(spans)
    for student in sides:
        for teacher in sides:
            alignment = align_spans(student, teacher)
            aligned = int((alignment.ends - alignment.starts).sum())
            assert aligned >= 0.999 * len(text.encode())


def test_the_standard_library_stays_aligned():
    assert_covered(standard_library(200_000))


@pytest.mark.slow
def test_a_large_part_of_the_standard_library_stays_aligned():
    assert_covered(standard_library(1_000_000))


@pytest.mark.parametrize("copies", [1, 20])
def test_text_in_many_scripts_stays_aligned(copies):
    assert_covered(MULTILINGUAL * copies)


def test_a_respelled_character_costs_no_other_chunk():
    tokenizer = zoo.tokenizer_of("byte-level, NFKC, prefix space")
    plain = zoo.tokenizer_of("byte-level")
    text = "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。ｆｕｌｌ ﬁn 1"
    sides = [ByteTable.from_tokenizer(of).spans(text, of.encode(text).ids) for of in (tokenizer, plain)]
    alignment = align_spans(*sides)
    respelled = sum(len(c.encode()) for c in text if unicodedata.normalize("NFKC", c) != c)
    aligned = int((alignment.ends - alignment.starts).sum())
    assert len(text.encode()) - aligned <= respelled + 6  # and the tokens that reach over them
    assert alignment.num_rejected == oracle.rejected(*sides).__len__() > 0
