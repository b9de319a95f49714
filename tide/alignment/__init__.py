"""Which tokens of one tokenizer cover the same bytes as which tokens of another."""

from __future__ import annotations

from tide.alignment.chunk_alignment import ChunkAlignment
from tide.alignment.chunks import align_chunks, align_spans
from tide.alignment.merging import check_merging
from tide.spelling import ByteTable, Stretches, TokenSpans

__all__ = [
    "ByteTable",
    "ChunkAlignment",
    "Stretches",
    "TokenSpans",
    "align_chunks",
    "align_spans",
    "check_merging",
]
