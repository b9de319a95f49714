"""Tokenizers whose every token is written down, and rows aligned between them."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tide.config import DataConfig
from tide.inspection import AlignedRow, Aligner

STUDENT = [("u", "n"), ("h", "a"), ("p", "p"), ("ha", "pp"), ("happ", "y")]
TEACHER = [("u", "n"), ("un", "h"), ("a", "p"), ("ap", "p"), ("app", "y")]


def of_merges(merges, normalizer=None):
    """Byte-level BPE with these merges and no others."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {entry: at for at, entry in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def fixed_aligner(merging="none"):
    """un|happy on one side, unh|appy on the other."""
    return Aligner(of_merges(STUDENT), of_merges(TEACHER), merging=DataConfig(chunk_merging=merging))


def aligned(align, row) -> AlignedRow:
    (found,) = align([row])
    assert isinstance(found, AlignedRow), found
    return found


def texts_of(tokens):
    return [token.text for token in tokens]
