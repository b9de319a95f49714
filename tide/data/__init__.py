"""Data: rows of text, token ids, batches."""

from tide.data.buckets import LengthBuckets
from tide.data.collate import Collator
from tide.data.rows import TextRow, read_rows
from tide.data.tokenize import tokenize_rows

__all__ = ["Collator", "LengthBuckets", "TextRow", "read_rows", "tokenize_rows"]
