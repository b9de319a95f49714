"""Two byte-level BPE tokenizers of different size, trained on small texts that overlap."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.alignment.samples import SAMPLES
from tide.alignment import ByteTable

SPECIALS = ("<|mask|>", "<|end|>")


def train(
    vocab_size: int, pre_tokenizer: pre_tokenizers.PreTokenizer, samples: tuple[str, ...] = SAMPLES
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples * 4, trainer)
    assert tokenizer.get_vocab_size() == vocab_size
    return tokenizer


@pytest.fixture(scope="session")
def student_tokenizer() -> Tokenizer:
    """Words without their digits; mostly code, so that some of its tokens are longer than the teacher's."""
    steps = [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return train(340, pre_tokenizers.Sequence(steps), SAMPLES[:4])


@pytest.fixture(scope="session")
def teacher_tokenizer() -> Tokenizer:
    """Tokens that run across words and lines, so that neither side's tokens refine the other's."""
    return train(420, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), SAMPLES[1:])


@pytest.fixture(scope="session")
def student_table(student_tokenizer) -> ByteTable:
    return ByteTable.from_tokenizer(student_tokenizer)


@pytest.fixture(scope="session")
def teacher_table(teacher_tokenizer) -> ByteTable:
    return ByteTable.from_tokenizer(teacher_tokenizer)


@pytest.fixture(scope="session")
def encode(student_tokenizer, teacher_tokenizer) -> Callable[[str], tuple[list[int], list[int]]]:
    return lambda text: (student_tokenizer.encode(text).ids, teacher_tokenizer.encode(text).ids)


@pytest.fixture
def byte_level() -> Callable[[], Tokenizer]:
    """Makes a small tokenizer that a test may change."""
    return lambda: train(280, pre_tokenizers.ByteLevel(add_prefix_space=False))
