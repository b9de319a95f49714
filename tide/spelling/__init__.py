"""The bytes that a tokenizer's tokens spell, and where they lie in a text."""

from __future__ import annotations

from tide.spelling.byte_table import ByteTable
from tide.spelling.resuming import is_blank
from tide.spelling.token_spans import Stretches, TokenSpans, byte_places

__all__ = ["ByteTable", "Stretches", "TokenSpans", "byte_places", "is_blank"]
