"""log softmax(hidden @ weight.T)[token] of N rows over V entries; no logit is written.

Grid: one program per BLOCK_N rows and tile of BLOCK_V entries. The product of [BLOCK_N, d] and [d, BLOCK_V]
stays in registers; per row the epilogue keeps the maximum, the sum of the other exponentials and, if the tile
holds it, the token's logit. Two numbers per row and tile go to memory: 8 / BLOCK_V bytes per entry instead of
4. A second kernel joins them in a fixed order. Programs of one tile are adjacent: each entry of the weight is
read once per launch, and the hidden states stay in the L2 cache. If the parts of all rows exceed the
workspace, launch.py passes slices of rows.

Backward computes logits by runs of columns and uses the kernel of `token_logprob`.
Legend: N rows, V vocabulary entries in use, d hidden size, T = ceil(V / BLOCK_V) tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tide_kernels._shared.label_kernels import label_value_of
from tide_kernels._shared.math_kernels import LOG2E, tanh
from tide_kernels.token_logprob.kernels import store_token_statistics


@triton.jit
def product_tile(
    hidden_ptr, weight_ptr, hidden_stride_n, weight_stride_v, rows, cols, N, V, d,
    WIDEN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N, BLOCK_V] fp32: hidden rows times weight rows; 0 beyond N and V."""
    lanes = tl.arange(0, BLOCK_D)
    hidden_start = hidden_ptr + rows[:, None] * hidden_stride_n
    weight_start = weight_ptr + cols[None, :] * weight_stride_v
    in_rows, in_vocab = (rows < N)[:, None], (cols < V)[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    for start in range(0, d, BLOCK_D):
        at = start + lanes
        in_width = at < d
        h = tl.load(hidden_start + at[None, :], mask=in_rows & in_width[None, :], other=0.0)
        w = tl.load(weight_start + at[:, None], mask=in_vocab & in_width[:, None], other=0.0)
        if WIDEN:
            h, w = h.to(tl.float32), w.to(tl.float32)
        # "ieee": with tf32, log p of fp32 inputs would err by 1e-3.
        total = tl.dot(h, w, total, input_precision="ieee")
    return total


# Not specialised: N differs from batch to batch, and each variant is a compilation; V strides no load.
@triton.jit(do_not_specialize=["N", "V"])
def linear_token_logprob_fwd_kernel(
    hidden_ptr,  # [N, d] fp32, bf16 or fp16
    weight_ptr,  # [V, d] same dtype
    bias_ptr,  # [V] any float
    token_ids_ptr,  # [N] int64
    label_logit_ptr,  # [N] fp32; written if the token is in the vocabulary
    parts_ptr,  # [T, 2, N] fp32: max x log2(e), sum of the other exponentials
    hidden_stride_n, weight_stride_v, N, V, d,
    logit_scale, softcap,
    HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    ROUNDED: tl.constexpr,  # round logits to the dtype of the hidden states
    WIDEN: tl.constexpr,  # convert inputs to fp32 before the product
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    num_row_blocks = tl.cdiv(N, BLOCK_N)
    tile = tl.program_id(0) // num_row_blocks
    # int64: row * stride passes 2**31 at entry 524,288 of a 4,096-wide head, and at such a row.
    rows = ((tl.program_id(0) % num_row_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    cols = (tile * BLOCK_V + tl.arange(0, BLOCK_V)).to(tl.int64)
    in_rows, in_vocab = rows < N, cols < V
    x = product_tile(
        hidden_ptr, weight_ptr, hidden_stride_n, weight_stride_v, rows, cols, N, V, d,
        WIDEN, BLOCK_N, BLOCK_V, BLOCK_D,
    )  # fmt: skip
    if HAS_BIAS:
        x += tl.load(bias_ptr + cols, mask=in_vocab, other=0.0).to(tl.float32)[None, :]
    x *= logit_scale
    if HAS_SOFTCAP:
        x = tanh(x / softcap) * softcap
    if ROUNDED:
        x = x.to(hidden_ptr.dtype.element_ty).to(tl.float32)
    x = tl.where(in_vocab[None, :], x, float("-inf"))
    label = tl.load(token_ids_ptr + rows, mask=in_rows, other=-1)
    is_label = (cols[None, :] == label[:, None]) & in_vocab[None, :]
    mk = tl.max(x, 1) * LOG2E
    e = tl.exp2(x * LOG2E - tl.where(mk == float("-inf"), 0.0, mk)[:, None])
    part_ptr = parts_ptr + tile.to(tl.int64) * 2 * N + rows
    tl.store(part_ptr, mk, mask=in_rows)
    tl.store(part_ptr + N, tl.sum(tl.where(is_label, 0.0, e), 1), mask=in_rows)
    here = tl.max(is_label.to(tl.int32), 1) != 0
    tl.store(label_logit_ptr + rows, tl.max(tl.where(is_label, x, float("-inf")), 1), mask=in_rows & here)


@triton.jit(do_not_specialize=["N"])
def linear_token_logprob_join_kernel(
    token_ids_ptr, label_logit_ptr, parts_ptr,
    log_p_ptr,  # [N] fp32, nats
    statistics_ptr,  # [N, 4] fp32, as in token_logprob/kernels.py
    N, V, T,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """One program joins the tiles of BLOCK_N rows, BLOCK_T at a time."""
    rows = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    in_rows = rows < N
    lanes = tl.arange(0, BLOCK_T)
    mk = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    rest = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, T, BLOCK_T):
        tiles = start + lanes
        known = (tiles < T)[:, None] & in_rows[None, :]
        part_ptr = parts_ptr + tiles.to(tl.int64)[:, None] * 2 * N + rows[None, :]
        mk_tiles = tl.load(part_ptr, mask=known, other=float("-inf"))
        rest_tiles = tl.load(part_ptr + N, mask=known, other=0.0)
        new_mk = tl.maximum(mk, tl.max(mk_tiles, 0))
        base = tl.where(new_mk == float("-inf"), 0.0, new_mk)
        rest = rest * tl.exp2(mk - base) + tl.sum(rest_tiles * tl.exp2(mk_tiles - base[None, :]), 0)
        mk = new_mk
    label = tl.load(token_ids_ptr + rows, mask=in_rows, other=-1)
    known = in_rows & (label >= 0) & (label < V)
    # NaN for a token outside the vocabulary, which is not checked on a GPU.
    label_logit = tl.load(label_logit_ptr + rows, mask=known, other=float("nan"))
    log_p, inverse, share = label_value_of(label_logit, mk, rest, LOG2E, 1.0)
    tl.store(log_p_ptr + rows, log_p, mask=in_rows)
    store_token_statistics(statistics_ptr, rows, mk, inverse, share, in_rows)
