"""Dense alignment matrices to chunk ids.

A [B, L, C] matrix of tokens by chunks is C times the memory of the [B, L] ids that say the same, as long as
no token belongs to two chunks.

Legend: B sequences, L positions (Ls, Lt: student's, teacher's), C chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

EMPTY_CHUNKS = ("error", "drop")


def chunk_ids_from_matrix(matrix: Bool[Tensor, "B L C"]) -> Int[Tensor, "B L"]:
    """The chunk of every token, -1 for none, as the losses of ``tide.losses`` take it.

    Reads one boolean back from the device, to check the rule.

    Args:
        matrix: [B, L, C] bool, True where a token belongs to a chunk.

    Returns:
        [B, L] int64 in [-1, C).

    Raises:
        ValueError: not boolean [B, L, C], or a token in two chunks.
    """
    function = "chunk_ids_from_matrix"
    _check_matrix(function, "matrix", matrix)
    if bool(_shared_tokens(matrix).any()):
        raise ValueError(_shared_message(function, "matrix", matrix))
    return _ids(matrix)


def chunks_of_both(
    function: str,
    alignment_matrix_student: Bool[Tensor, "B Ls C"],
    alignment_matrix_teacher: Bool[Tensor, "B Lt C"],
    chunk_mask: Bool[Tensor, "B C"],
    empty_chunks: str,
) -> tuple[Int[Tensor, "B Ls"], Int[Tensor, "B Lt"], Bool[Tensor, "B C"]]:
    """Chunk ids of both sides and the chunks that count, from what the official collator gives.

    All rules on values are read back from the device as one boolean.

    Args:
        function: name of the caller, for the message.
        alignment_matrix_student: [B, Ls, C] bool.
        alignment_matrix_teacher: [B, Lt, C] bool.
        chunk_mask: [B, C] bool, True on the active chunks.
        empty_chunks: ``error`` refuses an active chunk without a token on either side, ``drop`` makes it
            inactive.

    Returns:
        [B, Ls] and [B, Lt] ids, -1 for none; [B, C] chunks that count.

    Raises:
        ValueError: shapes or dtypes that do not fit, an unknown ``empty_chunks``, a token in two chunks, or,
            with ``error``, an active chunk without a token.
    """
    if empty_chunks not in EMPTY_CHUNKS:
        raise ValueError(
            f"{function}: empty_chunks must be one of {', '.join(EMPTY_CHUNKS)}; got {empty_chunks!r}."
        )
    matrices = {
        "alignment_matrix_student": alignment_matrix_student,
        "alignment_matrix_teacher": alignment_matrix_teacher,
    }
    for name, matrix in matrices.items():
        _check_matrix(function, name, matrix)
        if chunk_mask.dtype != torch.bool or chunk_mask.shape != matrix.shape[::2]:
            raise ValueError(
                f"{function}: chunk_mask must be bool of shape {tuple(matrix.shape[::2])}, the sequences and "
                f"chunks of {name}; got {chunk_mask.dtype} {tuple(chunk_mask.shape)}."
            )
    no_token = [~matrix.any(dim=1) for matrix in matrices.values()]
    faults = [_shared_tokens(matrix).any() for matrix in matrices.values()]
    if empty_chunks == "error":
        faults += [(chunk_mask & empty).any() for empty in no_token]
    if bool(torch.stack(faults).any()):
        for name, matrix in matrices.items():
            if bool(_shared_tokens(matrix).any()):
                raise ValueError(_shared_message(function, name, matrix))
        for side, empty in zip(("student", "teacher"), no_token, strict=True):
            for sequence, chunk in (chunk_mask & empty).nonzero().tolist():
                raise ValueError(
                    f"{function}: active chunk {chunk} of sequence {sequence} has no {side} token (cut off "
                    f"by the {side}'s maximal length?), so its likelihood would be 1. Clear it in chunk_mask "
                    "or leave such chunks out with empty_chunks='drop', an option of patch() too."
                )
    if empty_chunks == "drop":
        chunk_mask = chunk_mask & ~(no_token[0] | no_token[1])
    return _ids(alignment_matrix_student), _ids(alignment_matrix_teacher), chunk_mask


def tokens_of(chunks: Int[Tensor, "B L"], chunk_mask: Bool[Tensor, "B C"]) -> Bool[Tensor, "B L"]:
    """The tokens of active chunks.

    Args:
        chunks: [B, L] ids, -1 for none.
        chunk_mask: [B, C], True on the active chunks.

    Returns:
        [B, L] bool.
    """
    # One inactive chunk at the end is what -1 points to; no chunk at all is then no special case.
    padded = torch.cat([chunk_mask, chunk_mask.new_zeros(len(chunk_mask), 1)], dim=1)
    return padded.gather(1, chunks.remainder(padded.shape[1]))


def _check_matrix(function: str, name: str, matrix: Tensor) -> None:
    if matrix.dtype != torch.bool or matrix.ndim != 3:
        raise ValueError(
            f"{function}: {name} must be bool [B, L, C], tokens by chunks; got {matrix.dtype} "
            f"{tuple(matrix.shape)}. Compare a numeric matrix with 0."
        )


def _shared_tokens(matrix: Tensor) -> Tensor:
    """[B, L], True where a token belongs to more than one chunk."""
    return matrix.sum(dim=-1) > 1


def _shared_message(function: str, name: str, matrix: Tensor) -> str:
    sequence, token = _shared_tokens(matrix).nonzero()[0].tolist()
    chunks = matrix[sequence, token].nonzero().squeeze(1).tolist()
    return (
        f"{function}: a token belongs to one chunk or to none; in {name}, token {token} of sequence "
        f"{sequence} belongs to chunks {', '.join(map(str, chunks))}. Merge these into one chunk, or align "
        "with tide.alignment.align_chunks; compute_alm_loss(exact=False) sums such a token into every chunk."
    )


def _ids(matrix: Tensor) -> Tensor:
    if matrix.shape[2] == 0:
        return matrix.new_full(matrix.shape[:2], -1, dtype=torch.long)
    # argmax knows no bool; the view costs nothing.
    return torch.where(matrix.any(dim=-1), matrix.contiguous().view(torch.uint8).argmax(dim=-1), -1)
