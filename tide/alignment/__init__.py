"""Which tokens of one tokenizer cover the same bytes as which tokens of another."""

from __future__ import annotations

from tide.alignment.byte_table import ByteTable
from tide.alignment.chunk_alignment import ChunkAlignment
from tide.alignment.chunks import align_chunks, align_spans
from tide.alignment.merging import check_merging
from tide.alignment.token_pairs import align_tokens
from tide.alignment.token_spans import Stretches, TokenSpans

__all__ = [
    "ByteTable",
    "ChunkAlignment",
    "Stretches",
    "TokenSpans",
    "align_chunks",
    "align_spans",
    "align_tokens",
    "check_merging",
]
