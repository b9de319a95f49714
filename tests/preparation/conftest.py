"""Tokenizers of two chat models."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tests.chat import make_chat_tokenizer, make_other_chat_tokenizer


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The student's."""
    return make_chat_tokenizer()


@pytest.fixture
def other_chat_tokenizer() -> PreTrainedTokenizerFast:
    """The teacher's."""
    return make_other_chat_tokenizer()
