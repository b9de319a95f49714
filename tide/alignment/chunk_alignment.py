"""The chunks of two tokenizations of one text.

Legend: L_s, L_t tokens; C chunks; J rejected spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int32, Int64


@dataclass(frozen=True, eq=False)
class ChunkAlignment:
    """The chunk of every token on both sides.

    Chunk ids run 0, 1, ..., num_chunks - 1 from left to right; each occurs on both sides.

    Attributes:
        student_chunks: [L_s] int32, -1 for tokens in no chunk.
        teacher_chunks: [L_t] int32, -1 for tokens in no chunk.
        num_chunks: number of chunks.
        starts: [C] int64, the first byte of each chunk in the text.
        ends: [C] int64, the byte after its last.
        rejected: [J] int64, the first byte of each shortest common span that is no chunk because a tokenizer
            respells some of it.
    """

    student_chunks: Int32[np.ndarray, " L_s"]
    teacher_chunks: Int32[np.ndarray, " L_t"]
    num_chunks: int
    starts: Int64[np.ndarray, " C"]
    ends: Int64[np.ndarray, " C"]
    rejected: Int64[np.ndarray, " J"]

    @property
    def num_rejected(self) -> int:
        """Spans that would be chunks if both tokenizers spelled the text."""
        return len(self.rejected)
