"""Tokenizers of every type that alignment reads, trained on a little text."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.alignment.samples import ALPHABET, SAMPLES

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIALS = ["<|end|>", "<s>"]
TIKTOKEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
WORDS = r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_level(vocab_size, samples, *, normalizer=None, pre_tokenizer=None, word_end=None):
    marks = {"end_of_word_suffix": word_end} if word_end else {}
    tokenizer = Tokenizer(models.BPE(**marks))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False,
        **marks,
    )  # fmt: skip
    tokenizer.train_from_iterator(samples, trainer)
    # Every byte may end a word.
    return with_entries(tokenizer, [c + word_end for c in alphabet] if word_end else [])


def sentencepiece_bpe(vocab_size, samples, *, normalizer=None, pre_tokenizer=None):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIALS, "<unk>", *BYTES],
        limit_alphabet=50,
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples, trainer)
    return without_added(tokenizer, BYTES)


def unigram(vocab_size, samples, *, normalizer, pre_tokenizer):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", *SPECIALS, *BYTES],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples, trainer)
    document = json.loads(without_added(tokenizer, BYTES).to_str())
    document["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(document))


def wordpiece(vocab_size, samples):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=["[UNK]", *SPECIALS], show_progress=False
    )
    tokenizer.train_from_iterator(samples, trainer)
    characters = sorted(set(tokenizer.normalizer.normalize_str(ALPHABET).replace(" ", "")))
    return with_entries(tokenizer, [mark + c for c in characters for mark in ("", "##")])


def with_entries(tokenizer, entries):
    document = json.loads(tokenizer.to_str())
    vocab = document["model"]["vocab"]
    for entry in entries:
        vocab.setdefault(entry, len(vocab))
    return Tokenizer.from_str(json.dumps(document))


def without_added(tokenizer, contents):
    """The same vocabulary, in which these entries are no longer found in the text itself."""
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [a for a in document["added_tokens"] if a["content"] not in set(contents)]
    return Tokenizer.from_str(json.dumps(document))


def sequence(*steps):
    of = normalizers if isinstance(steps[0], normalizers.Normalizer) else pre_tokenizers
    return of.Sequence(list(steps))


CODE, PROSE = SAMPLES[:4] * 4, SAMPLES[2:] * 4
KINDS = {
    "byte-level": lambda: byte_level(340, CODE),
    "byte-level, NFC, split as tiktoken does": lambda: byte_level(
        420, PROSE, normalizer=normalizers.NFC(),
        pre_tokenizer=sequence(
            pre_tokenizers.Split(Regex(TIKTOKEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ),
    ),
    "byte-level, NFKC, prefix space": lambda: byte_level(
        400, CODE, normalizer=normalizers.NFKC(),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)
    ),
    "BPE, byte fallback, prefix by normalizer": lambda: sentencepiece_bpe(
        520, PROSE, normalizer=sequence(normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"))
    ),
    "BPE, byte fallback, prefix at the beginning": lambda: sentencepiece_bpe(
        500, CODE, pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    ),
    "Unigram, NFKC, runs of spaces joined": lambda: unigram(
        540, PROSE,
        normalizer=sequence(normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always"),
    ),
    "Unigram, words with a prefix each": lambda: unigram(
        520, CODE,
        normalizer=sequence(normalizers.Nmt(), normalizers.NFKC(), normalizers.Strip()),
        pre_tokenizer=sequence(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()),
    ),
    "WordPiece, lower case without accents": lambda: wordpiece(300, PROSE),
    "byte-level, lower case, word ends marked": lambda: byte_level(
        600, PROSE, word_end="</w>",
        normalizer=sequence(
            normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()
        ),
        pre_tokenizer=sequence(
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ),
    ),
}  # fmt: skip


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return KINDS[kind]()
