"""Divergence between the chunk likelihoods of B sequences, and its slope, in one launch.

Forward: one program per BLOCK_C chunks of a sequence. It compares the chunk ids of all tokens with its own,
BLOCK_L at a time, and sums the matches; a chunk has one owner and one order of summation, so no atomics. It
writes the loss and d loss / d (sum of the student's log-probabilities). Backward: one program per BLOCK_L
tokens; each token looks up the slope of its chunk. 12 bytes per token and program, negligible beside logits.

Arithmetic is fp64: 1 - P of a likely chunk is inaccurate in fp32, and chunks are few.
Legend: B sequences, C chunks, L tokens of a side.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def expm1_fp64(x):
    """e^x - 1 with a small relative error: rounding errors of e^x - 1 and log(e^x) cancel (Kahan)."""
    u = tl.exp(x)
    log_u = tl.log(u)
    return tl.where(u == 1.0, x, (u - 1.0) * (x / tl.where(u == 1.0, 1.0, log_u)))


@triton.jit
def log1p_fp64(x):
    """log(1 + x) with a small relative error, by the same method."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def likelihood(log_p, low, high):
    """(P, 1 - P, log P, log(1 - P)) of log P clamped to [low, high]. NaN propagates."""
    log_p = tl.where(log_p < low, low, tl.where(log_p > high, high, log_p))
    p = tl.exp(log_p)
    not_p = -expm1_fp64(log_p)
    return p, not_p, log_p, tl.where(p > 0.5, tl.log(not_p), log1p_fp64(-p))


@triton.jit
def span_sums(
    log_probs_ptr, chunks_ptr, start_of_row, length, chunks, BLOCK_C: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """[BLOCK_C] fp64: sum of the token log-probabilities of each of `chunks`."""
    lanes = tl.arange(0, BLOCK_L)
    sums = tl.zeros((BLOCK_C, BLOCK_L), tl.float64)
    for start in range(0, length, BLOCK_L):
        in_row = start + lanes < length
        ids = tl.load(chunks_ptr + start_of_row + start + lanes, mask=in_row, other=-1).to(tl.int32)
        log_p = tl.load(log_probs_ptr + start_of_row + start + lanes, mask=in_row, other=0.0).to(tl.float32)
        # Selected, not multiplied by 0: tokens that are not read may be NaN.
        sums += tl.where(ids[None, :] == chunks[:, None], log_p.to(tl.float64)[None, :], 0.0)
    return tl.sum(sums, 1)


@triton.jit
def chunk_likelihood_fwd_kernel(
    student_ptr,  # [B, student_length] fp32, bf16 or fp16
    teacher_ptr,  # [B, teacher_length]
    student_chunks_ptr,  # [B, student_length] integers
    teacher_chunks_ptr,  # [B, teacher_length]
    mask_ptr,  # [B, C] bool
    lambda_ptr,  # [B] fp64
    loss_ptr,  # [B, C] fp32, nats
    slope_ptr,  # [B, C] fp64
    student_length, teacher_length, num_chunks,
    # fp64: fp32 would round log eps by 1e-6.
    temperature: tl.float64,
    low: tl.float64,  # log(eps)
    high: tl.float64,  # log(1 - eps)
    OBJECTIVE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(num_chunks, BLOCK_C)
    sequence = (tl.program_id(0) // blocks).to(tl.int64)
    chunks = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_mask = chunks < num_chunks
    out = sequence * num_chunks + chunks
    active = tl.load(mask_ptr + out, mask=in_mask, other=0) != 0
    # -2 matches no token.
    wanted = tl.where(active, chunks, -2)
    log_s = span_sums(
        student_ptr, student_chunks_ptr, sequence * student_length, student_length, wanted, BLOCK_C, BLOCK_L
    )
    log_t = span_sums(
        teacher_ptr, teacher_chunks_ptr, sequence * teacher_length, teacher_length, wanted, BLOCK_C, BLOCK_L
    )
    log_s = log_s / temperature
    log_t = log_t / temperature
    inside = tl.where(log_s >= low, tl.where(log_s <= high, 1, 0), 0)
    s, not_s, log_s, log_not_s = likelihood(log_s, low, high)
    t, not_t, log_t, log_not_t = likelihood(log_t, low, high)
    if OBJECTIVE == "reverse":
        loss = -(s * log_t + not_s * log_not_t)
        slope = s * (log_not_t - log_t)
    elif OBJECTIVE == "kl":
        loss = s * (log_s - log_t) + not_s * (log_not_s - log_not_t)
        slope = s * ((log_s - log_t) - (log_not_s - log_not_t))
    else:
        # s - t without cancellation, whichever of P and 1 - P is small.
        slope = (s * not_t - t * not_s) / not_s
        if OBJECTIVE == "interpolated":
            # The target is held constant: its share of the student adds nothing to the slope.
            share = tl.load(lambda_ptr + sequence)
            slope = share * slope
            t = share * t + (1.0 - share) * s
            not_t = share * not_t + (1.0 - share) * not_s
        loss = -(t * log_s + not_t * log_not_s)
    slope = tl.where(inside != 0, slope / temperature, 0.0)
    tl.store(loss_ptr + out, tl.where(active, loss, 0.0).to(tl.float32), mask=in_mask)
    tl.store(slope_ptr + out, tl.where(active, slope, 0.0), mask=in_mask)


@triton.jit
def chunk_likelihood_bwd_kernel(
    chunks_ptr,  # [B, L] integers
    slope_ptr,  # [B, C] fp64
    d_loss_ptr,  # [B, C] fp32
    d_student_ptr,  # [B, L], the student's dtype
    length, num_chunks, BLOCK_L: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(length, BLOCK_L)
    sequence = (tl.program_id(0) // blocks).to(tl.int64)
    token = (tl.program_id(0) % blocks) * BLOCK_L + tl.arange(0, BLOCK_L)
    in_row = token < length
    ids = tl.load(chunks_ptr + sequence * length + token, mask=in_row, other=-1).to(tl.int32)
    chunk = sequence * num_chunks + ids
    # Ids are not checked on a GPU.
    in_chunk = (ids >= 0) & (ids < num_chunks)
    slope = tl.load(slope_ptr + chunk, mask=in_chunk, other=0.0)
    d_loss = tl.load(d_loss_ptr + chunk, mask=in_chunk, other=0.0).to(tl.float64)
    # Drops an upstream NaN of an inactive chunk.
    d_student = tl.where(slope == 0.0, 0.0, slope * d_loss).to(tl.float32)
    tl.store(
        d_student_ptr + sequence * length + token, d_student.to(d_student_ptr.dtype.element_ty), mask=in_row
    )
