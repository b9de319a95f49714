"""Tiny tokenizers, models and checkpoints that take no time to make. A plugin: tests/conftest.py names it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tide.data import TextRow

END, MASK = "<|end|>", "<|mask|>"
ROWS = (
    TextRow("def add(first, second):\n", "    return first + second\n"),
    TextRow(
        "def size(values):\n",
        "    count = 0\n    for value in values:\n        count += 1\n    return count\n",
    ),
    TextRow("class Node:\n", "    def __init__(self, value):\n        self.value = value\n"),
    TextRow("def read(path):\n", "    with open(path) as handle:\n        return handle.read()\n"),
    TextRow("", "import sys, json\ndata = json.load(sys.stdin)\n"),
    TextRow("# naïve café ☕\n", "print('über Straße', 12345)\n"),
    TextRow("def first(values):\n", "    return values[0] if values else None\n"),
    TextRow("for index in range(3):\n", "    print(index, index * index)\n"),
)


def make_tokenizer(
    vocab_size: int, *, words: bool = True, end: str | None = END, mask: str | None = MASK
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of exactly `vocab_size` entries, of which the first two are END and MASK.

    Args:
        vocab_size: 258 (bytes and specials) or more.
        words: split words from their punctuation and digits; otherwise tokens run across words and lines.
        end, mask: None leaves the role unset; its token stays in the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
        if words
        else byte_level
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([row.prompt + row.completion for row in ROWS] * 4, trainer)
    assert tokenizer.get_vocab_size() == vocab_size
    roles = {"eos_token": end, "mask_token": mask}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{role: token for role, token in roles.items() if token is not None}
    )


def make_model(vocab_size: int, *, seed: int = 0, **config: object) -> Qwen3ForCausalLM:
    """A random two-layer Qwen3 of width 32 in fp32, in evaluation mode. `config` overrides its settings.

    Weights are drawn ten times wider than usual: attention is then far from uniform, and what a token sees
    shows in every output.
    """
    values = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(**{**values, **config}))
    return model.eval()


def save_checkpoint(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **config: object
) -> Path:
    """A random model with its tokenizer in `folder`, as `save_pretrained` writes them."""
    make_model(len(tokenizer), seed=seed, **config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: Sequence[TextRow] = ROWS) -> Path:
    """Rows as JSON lines."""
    lines = [
        json.dumps({"prompt": row.prompt, "completion": row.completion}, ensure_ascii=False) for row in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class TinyCheckpoints:
    """Folders with model and tokenizer, and training rows. Read only: tests copy what they change.

    Attributes:
        student: tokenizer of 300 entries.
        teacher: other weights and width, the student's tokenizer.
        other_teacher: another tokenizer, of 340 entries.
        rows: JSON lines of ROWS.
    """

    student: Path
    teacher: Path
    other_teacher: Path
    rows: Path


def save_checkpoints(
    folder: Path, words: PreTrainedTokenizerFast, lines: PreTrainedTokenizerFast
) -> TinyCheckpoints:
    """All of them in `folder`."""
    return TinyCheckpoints(
        student=save_checkpoint(folder / "student", words, seed=1),
        teacher=save_checkpoint(folder / "teacher", words, seed=2, hidden_size=48),
        other_teacher=save_checkpoint(folder / "other_teacher", lines, seed=3, hidden_size=48),
        rows=write_rows(folder / "rows.jsonl"),
    )


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    """300 entries; words, single digits."""
    return make_tokenizer(300)


@pytest.fixture(scope="session")
def line_tokenizer() -> PreTrainedTokenizerFast:
    """340 entries; tokens run across words and lines, so neither side's tokens refine the other's."""
    return make_tokenizer(340, words=False)


@pytest.fixture(scope="session")
def tiny_checkpoints(
    tmp_path_factory: pytest.TempPathFactory,
    word_tokenizer: PreTrainedTokenizerFast,
    line_tokenizer: PreTrainedTokenizerFast,
) -> TinyCheckpoints:
    return save_checkpoints(tmp_path_factory.mktemp("checkpoints"), word_tokenizer, line_tokenizer)
