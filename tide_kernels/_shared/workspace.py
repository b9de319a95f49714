"""Rows and columns of logits that a hidden-in op holds at once, from a budget in bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import torch

from tide_kernels._shared.checks import check_integer

if TYPE_CHECKING:
    from torch import Tensor

WORKSPACE_VARIABLE = "TIDE_WORKSPACE_BYTES"
# At V = 152k about 130 rows of logits of both sides; the gradient overwrites the student's. Products of that
# height run as fast as taller ones; half the height takes a third longer.
CPU_WORKSPACE_BYTES = 160 << 20
# At V = 152k about 330 rows of both sides in fp32 and 1,300 rows of gradient in bf16. With the fp32 gradient
# of a 1,024-wide head the peak stays below 1.5 GB.
GPU_WORKSPACE_BYTES = 768 << 20
# Logits of a run of columns on a CPU: they should stay in cache between product and formulas.
CPU_RUN_BYTES = 8 << 20
# Rows of a tile of a GPU's products: the last tile of 342 rows would be two thirds idle, 11 % of the product.
PRODUCT_ROWS = 128
# Rows of logits are 16-byte aligned in every dtype if their stride is a multiple of this.
ALIGNED_ENTRIES = 16


def workspace(function: str, workspace_bytes: int | None, device: torch.device) -> int:
    """The budget in bytes: the argument, the environment variable TIDE_WORKSPACE_BYTES, or the default.

    Raises:
        ValueError: the budget is not a positive integer.
    """
    if workspace_bytes is not None:
        check_integer(function, "workspace_bytes", workspace_bytes, "It counts bytes: 1 GiB is 1 << 30.")
        if workspace_bytes <= 0:
            raise ValueError(
                f"{function}: workspace_bytes must be positive; got {workspace_bytes}. Omit it for the "
                "default."
            )
        return workspace_bytes
    text = os.environ.get(WORKSPACE_VARIABLE)
    if not text:
        return CPU_WORKSPACE_BYTES if device.type == "cpu" else GPU_WORKSPACE_BYTES
    if not text.isdigit() or int(text) == 0:
        raise ValueError(
            f"{function}: the environment variable {WORKSPACE_VARIABLE} must be a positive number of "
            f"bytes; got {text!r}. Set e.g. {WORKSPACE_VARIABLE}={CPU_WORKSPACE_BYTES}, or unset it."
        )
    return int(text)


class RowPlan(NamedTuple):
    """Rows per gradient block, whose gradients are collected, and per row block, whose logits coexist."""

    gradient_block: int
    block: int


def plan_rows(num_rows: int, gradient_bytes: int, logits_bytes: int, ratio: int, budget: int) -> RowPlan:
    """Rows per gradient block and row block: nearly equal parts within the budget, at least one row.

    Args:
        num_rows: rows in all.
        gradient_bytes: per row of a gradient block.
        logits_bytes: per row of a row block, beside its gradient.
        ratio: row blocks in a gradient block. A gradient block costs one pass over the gradient of a head, a
            row block one pass over the heads.
        budget: bytes.
    """
    block = max(1, budget // (logits_bytes + ratio * gradient_bytes))
    gradient_block = _even(num_rows, max(1, min(num_rows, ratio * block)))
    # A gradient block below its share (evened, or of all rows) leaves the rest to the row block.
    block = min(gradient_block, max(block, (budget - gradient_block * gradient_bytes) // logits_bytes))
    return RowPlan(gradient_block, _even(gradient_block, block))


def _even(num_rows: int, most: int) -> int:
    """Rows per part: nearly equal parts of at most `most` rows, multiples of PRODUCT_ROWS where they fit."""
    parts = max(1, -(-num_rows // most))
    size = max(1, -(-num_rows // parts))
    whole = -(-size // PRODUCT_ROWS) * PRODUCT_ROWS
    return whole if parts > 1 and whole <= most else size


def column_runs(
    vocab: int, bytes_per_column: int, budget: int, device: torch.device
) -> tuple[int, list[slice]]:
    """(columns per run, runs), within the budget and a CPU's caches; at least one column."""
    if device.type == "cpu":
        budget = min(budget, CPU_RUN_BYTES)
    most = max(1, budget // max(bytes_per_column, 1))
    if most > ALIGNED_ENTRIES:
        most -= most % ALIGNED_ENTRIES
    size = min(most, vocab)
    return size, row_steps(vocab, size)


def row_steps(rows: slice | int, step: int) -> list[slice]:
    """Slices of `step` rows that cover `rows`, or the first `rows` rows."""
    first, last = (0, rows) if isinstance(rows, int) else (rows.start, rows.stop)
    return [slice(start, min(start + step, last)) for start in range(first, last, step)]


def aligned_rows(num_rows: int, vocab: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Allocate [num_rows, vocab], uninitialised, with 16-byte aligned rows."""
    width = -(-vocab // ALIGNED_ENTRIES) * ALIGNED_ENTRIES
    return torch.empty((num_rows, width), dtype=dtype, device=device)[:, :vocab]
