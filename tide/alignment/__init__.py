"""Which tokens of one tokenizer cover the same bytes as which tokens of another."""

from __future__ import annotations

from tide.alignment.byte_table import ByteTable
from tide.alignment.chunks import ChunkAlignment, align_chunks

__all__ = ["ByteTable", "ChunkAlignment", "align_chunks"]
