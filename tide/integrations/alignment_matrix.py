"""Dense alignment matrices to chunk ids: [B, L, C] tokens by chunks to [B, L], 1/C of the memory.

Legend: B sequences, L positions (Ls, Lt: student's, teacher's), C chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.losses.options import check_choice

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor


def chunk_ids_from_matrix(matrix: Bool[Tensor, "B L C"]) -> Int[Tensor, "B L"]:
    """The chunk of each token, -1 for none, as ``tide.losses`` takes it.

    The check waits for the device.

    Args:
        matrix: [B, L, C] bool, True where a token belongs to a chunk.

    Returns:
        [B, L] int64 in [-1, C).

    Raises:
        ValueError: not boolean [B, L, C], or a token in two chunks.
    """
    function = "chunk_ids_from_matrix"
    _check_matrix(function, "matrix", matrix)
    _check_shared_tokens(function, "matrix", matrix)
    return _ids(matrix)


def chunks_of_both(
    function: str,
    alignment_matrix_student: Bool[Tensor, "B Ls C"],
    alignment_matrix_teacher: Bool[Tensor, "B Lt C"],
    chunk_mask: Bool[Tensor, "B C"],
    empty_chunks: str,
) -> tuple[Int[Tensor, "B Ls"], Int[Tensor, "B Lt"], Bool[Tensor, "B C"]]:
    """Chunk ids of both sides and the chunks that count, from what the official collator gives.

    Arguments and errors are those of ``compute_alm_loss``; ``function`` names the caller. The checks of
    values read one boolean back from the device.
    """
    check_choice(function, "empty_chunks", empty_chunks, ("error", "drop"))
    matrices = {"student": alignment_matrix_student, "teacher": alignment_matrix_teacher}
    for side, matrix in matrices.items():
        name = f"alignment_matrix_{side}"
        _check_matrix(function, name, matrix)
        if chunk_mask.dtype != torch.bool or chunk_mask.shape != matrix.shape[::2]:
            raise ValueError(
                f"{function}: chunk_mask must be bool of shape {tuple(matrix.shape[::2])}, the sequences and "
                f"chunks of {name}; got {chunk_mask.dtype} {tuple(chunk_mask.shape)}."
            )
    empty = {side: chunk_mask & ~matrix.any(dim=1) for side, matrix in matrices.items()}
    faults = [(matrix.sum(dim=-1) > 1).any() for matrix in matrices.values()]
    if empty_chunks == "error":
        faults += [chunks.any() for chunks in empty.values()]
    if bool(torch.stack(faults).any()):
        for side, matrix in matrices.items():
            _check_shared_tokens(function, f"alignment_matrix_{side}", matrix)
        for side, chunks in empty.items():
            for sequence, chunk in chunks.nonzero().tolist():
                raise ValueError(
                    f"{function}: active chunk {chunk} of sequence {sequence} has no {side} token (cut off "
                    f"by the {side}'s maximal length?), so its likelihood would be 1. Clear it in "
                    "chunk_mask, or pass empty_chunks='drop', an option of patch() too."
                )
    active = chunk_mask & ~empty["student"] & ~empty["teacher"]
    return _ids(alignment_matrix_student), _ids(alignment_matrix_teacher), active


def tokens_of(chunks: Int[Tensor, "B L"], chunk_mask: Bool[Tensor, "B C"]) -> Bool[Tensor, "B L"]:
    """True on the tokens of active chunks; ``chunks`` holds ids, -1 for none."""
    # -1 points to an inactive chunk appended at the end, which also covers C = 0.
    padded = torch.cat([chunk_mask, chunk_mask.new_zeros(len(chunk_mask), 1)], dim=1)
    return padded.gather(1, chunks.remainder(padded.shape[1]))


def _check_matrix(function: str, name: str, matrix: Tensor) -> None:
    if matrix.dtype != torch.bool or matrix.ndim != 3:
        raise ValueError(
            f"{function}: {name} must be bool [B, L, C], tokens by chunks; got {matrix.dtype} "
            f"{tuple(matrix.shape)}. Compare a numeric matrix with 0."
        )


def _check_shared_tokens(function: str, name: str, matrix: Tensor) -> None:
    for sequence, token in (matrix.sum(dim=-1) > 1).nonzero().tolist():
        chunks = matrix[sequence, token].nonzero().flatten().tolist()
        raise ValueError(
            f"{function}: a token belongs to at most one chunk; in {name}, token {token} of sequence "
            f"{sequence} belongs to chunks {', '.join(map(str, chunks))}. Merge these into one chunk, or "
            "align with tide.alignment.align_chunks; compute_alm_loss(exact=False) sums such a token into "
            "every chunk."
        )


def _ids(matrix: Tensor) -> Tensor:
    if matrix.shape[2] == 0:
        return matrix.new_full(matrix.shape[:2], -1, dtype=torch.long)
    # argmax does not take bool; the view is free.
    return torch.where(matrix.any(dim=-1), matrix.contiguous().view(torch.uint8).argmax(dim=-1), -1)
