"""What alignment gives: the chunk of every token on both sides, and where chunks lie in the text.

Legend: L_s, L_t tokens; C chunks.
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
        starts: [C] int64, the first byte of the text that both sides share in each chunk.
        ends: [C] int64, the byte after the last. Chunks that meet inside a character that both tokenizers
            respell alike both span it.
    """

    student_chunks: Int32[np.ndarray, " L_s"]
    teacher_chunks: Int32[np.ndarray, " L_t"]
    num_chunks: int
    starts: Int64[np.ndarray, " C"]
    ends: Int64[np.ndarray, " C"]
