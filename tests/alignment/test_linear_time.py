"""Time grows with a text's length, not faster, whatever the tokenizer makes of it.

Mutants that these tests kill: a search of all that is left behind every difference; one more normalization of a
run of marks or blanks for each of its characters.
"""

from __future__ import annotations

import time

import pytest
from tokenizers import AddedToken, Tokenizer

from tests.alignment.zoo import tokenizer_of
from tide.alignment import ByteTable, align_spans

NFC = "byte-level, NFC, split as tiktoken does"
NFKC = "byte-level, NFKC, prefix space"
JOINED = "Unigram, NFKC, runs of spaces joined"
WORDS = "Unigram, words with a prefix each"
WORDPIECE = "WordPiece, lower case without accents"
HARD = {
    "everything respelled": (NFKC, "ｆｕｌｌ　ｗｉｄｔｈ"),
    "one character": (NFC, "a"),
    "one respelled character": (NFKC, "ﷺ"),
    "one blank": (JOINED, " "),
    "blanks in turn": (WORDS, " \n\t"),
    "blanks and letters": (JOINED, "a  b \n"),
    "decomposed letters": (NFC, "e\u0301"),
    "marks alone": (NFC, "\u0301\u0323"),
    "unknown tokens": (WORDPIECE, "the \u2603 word "),
    "unknown tokens apart": (WORDPIECE, "\u2603 a"),
    "special tokens": (JOINED, "in<|end|> \n"),
}


def seconds(tokenizer: Tokenizer, text: str) -> float:
    """The least of three runs."""
    table, ids = ByteTable.from_tokenizer(tokenizer), tokenizer.encode(text).ids
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        spans = table.spans_of([text], [ids])
        align_spans(spans, spans)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("name", HARD)
def test_twice_the_text_takes_about_twice_the_time(name):
    kind, piece = HARD[name]
    tokenizer = tokenizer_of(kind)
    size = 100_000 // len(piece)
    seconds(tokenizer, piece * 100)
    small, large = (seconds(tokenizer, piece * (size * times)) for times in (1, 4))
    assert large < 10 * small + 0.05, f"{small:.3f} s, then {large:.3f} s"
    assert large < 4.0


def test_blanks_that_no_swallowing_token_stands_beside_take_linear_time():
    tokenizer = Tokenizer.from_str(tokenizer_of(NFC).to_str())
    tokenizer.add_special_tokens([AddedToken("<m>", lstrip=True, rstrip=True)])
    text = "<m>a" + " " * 100_000
    small, large = seconds(tokenizer, text), seconds(tokenizer, "<m>a" + " " * 400_000)
    assert large < 10 * small + 0.05
