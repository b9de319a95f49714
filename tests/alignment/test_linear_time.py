"""Time grows with a text's length, not faster, whatever the tokenizer makes of it.

Mutants that these tests kill: a search of all that is left behind every difference; a run of marks or blanks
normalized once for each of its characters.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable

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


def least(run: Callable[[], object]) -> float:
    """Processor seconds of the fastest of four runs: a busy machine slows some of them."""
    taken = []
    for _ in range(4):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def seconds(tokenizer: Tokenizer, text: str) -> float:
    table, ids = ByteTable.from_tokenizer(tokenizer), tokenizer.encode(text).ids

    def align() -> None:
        spans = table.spans_of([text], [ids])
        align_spans(spans, spans)

    return least(align)


@pytest.mark.parametrize("name", HARD)
def test_four_times_the_text_takes_about_four_times_as_long(name):
    kind, piece = HARD[name]
    tokenizer = tokenizer_of(kind)
    size = 30_000 // len(unicodedata.normalize("NFKC", piece).encode())
    seconds(tokenizer, piece * 100)
    small, large = (seconds(tokenizer, piece * (size * times)) for times in (1, 4))
    assert large < 8 * small + 0.02, f"{small:.3f} s, then {large:.3f} s"


def test_blanks_that_no_swallowing_token_stands_beside_take_linear_time():
    tokenizer = Tokenizer.from_str(tokenizer_of(NFC).to_str())
    tokenizer.add_special_tokens([AddedToken("<m>", lstrip=True, rstrip=True)])
    text = "<m>a" + " " * 50_000
    small, large = seconds(tokenizer, text), seconds(tokenizer, "<m>a" + " " * 200_000)
    assert large < 8 * small + 0.02


@pytest.mark.parametrize("text", ["e\u0301x", None])
def test_many_added_special_tokens_take_linear_time(text):
    tokenizer = tokenizer_of(NFC)
    end = tokenizer.token_to_id("<|end|>")
    table = ByteTable.from_tokenizer(tokenizer)

    def seconds_of(count: int) -> float:
        whole = text or "<|end|>" * count + "e\u0301x"
        ids = [end] * count + tokenizer.encode(whole).ids
        return least(lambda: table.spans_of([whole], [ids]))

    seconds_of(1_000)
    small, large = seconds_of(2_000), seconds_of(8_000)
    assert large < 8 * small + 0.05
