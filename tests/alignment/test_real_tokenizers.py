"""Tokenizers of released models: what holds for trained ones holds for them."""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.alignment import oracle, real
from tests.alignment.samples import PIECES, SAMPLES, texts
from tests.alignment.test_coverage import standard_library
from tide.alignment import ByteTable, align_spans

LONG = "".join((*SAMPLES, *PIECES))
PAIRS = [pair for pair in combinations_with_replacement(real.KINDS, 2)]


@cache
def table_of(kind):
    return ByteTable.from_tokenizer(real.KINDS[kind]())


def spans_of(kind, text):
    return table_of(kind).spans_of([text], [real.KINDS[kind]().encode(text).ids])


def test_the_converted_sentencepiece_model_is_the_model():
    model, tokenizer = real.sentencepiece_model(), real.sentencepiece_bpe()
    for text in SAMPLES[:5]:
        assert tokenizer.encode(text, add_special_tokens=False).ids == model.encode(text)


@pytest.mark.parametrize("pair", PAIRS, ids=" | ".join)
@settings(deadline=None, max_examples=30)
@given(text=texts)
@example(text=LONG)
def test_chunks_are_the_shortest_common_spans(pair, text):
    student, teacher = (spans_of(kind, text) for kind in pair)
    alignment = align_spans(student, teacher)
    found = [
        tuple(
            np.flatnonzero(side == chunk).tolist()
            for side in (alignment.student_chunks, alignment.teacher_chunks)
        )
        for chunk in range(alignment.num_chunks)
    ]
    assert found == oracle.chunks(student, teacher)


@pytest.mark.parametrize("kind", real.KINDS)
@settings(deadline=None, max_examples=50)
@given(text=texts, copies=st.integers(1, 2))
def test_tokens_lie_over_their_own_bytes(kind, text, copies):
    joined = "<|end|>".join([text] * copies)
    spans, ids = spans_of(kind, joined), real.KINDS[kind]().encode(joined).ids
    oracle.assert_right(spans, table_of(kind).token_bytes(ids))
    assert spans.special.sum() == copies - 1
    assert (spans.ends - spans.starts)[spans.special].tolist() == [len("<|end|>")] * (copies - 1)


@pytest.mark.parametrize("kind", real.KINDS)
def test_the_standard_library_stays_aligned(kind):
    text = standard_library(60_000)
    spans = spans_of(kind, text)
    assert (spans.ends - spans.starts)[spans.has_bytes].sum() >= 0.999 * len(
        text.encode()
    ) or "Unigram" in kind
    oracle.assert_right(spans, table_of(kind).token_bytes(real.KINDS[kind]().encode(text).ids))


def test_a_rendered_conversation_and_its_beginning_of_text():
    """Specials stand in the text as their literal text; one that is added spans nothing."""
    tokenizer, table = real.compatibility_forms(), table_of("byte-level, NFKC")
    text = "<META_START>user<META_END>Ünïcode\ufb01<EOT>"
    ids = [tokenizer.token_to_id("<SOS>"), *tokenizer.encode(text).ids]
    spans = table.spans(text, ids)
    places = list(zip(spans.starts[spans.special].tolist(), spans.ends[spans.special].tolist(), strict=True))
    size = len(text.encode())
    assert places == [(0, 0), (0, 12), (16, 26), (size - 5, size)]
