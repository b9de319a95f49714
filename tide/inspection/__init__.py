"""Show how two tokenizers align on a text and on a data set."""

from tide.inspection.aligned_rows import AlignedRow, Aligner, Column, ShownToken
from tide.inspection.inputs import MixedRows, sampled, typed_row
from tide.inspection.page import alignment_page
from tide.inspection.statistics import ChunkStatistics
from tide.inspection.tables import DataSet, merging_text
from tide.inspection.terminal import print_row, print_statistics

__all__ = [
    "AlignedRow",
    "Aligner",
    "ChunkStatistics",
    "Column",
    "DataSet",
    "MixedRows",
    "ShownToken",
    "alignment_page",
    "merging_text",
    "print_row",
    "print_statistics",
    "sampled",
    "typed_row",
]
