"""Which tokens of one tokenizer cover the same bytes as which tokens of another."""

from __future__ import annotations

from tide.alignment.byte_table import ByteTable
from tide.alignment.chunks import align_chunks, align_spans
from tide.alignment.merging import check_merging
from tide.alignment.token_spans import ChunkAlignment, Stretches, TokenSpans

__all__ = [
    "ByteTable",
    "ChunkAlignment",
    "Stretches",
    "TokenSpans",
    "align_chunks",
    "align_spans",
    "check_merging",
]
