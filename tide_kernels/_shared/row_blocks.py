"""Process rows of logits in row blocks: a few rows at a time through reused buffers.

On a CPU fresh memory costs more than arithmetic: writing exp(x) into a new [256, 151936] fp32 tensor takes
ten times as long as writing it into a reused buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

Workspace = TypeVar("Workspace")
Result = TypeVar("Result")

# Per buffer. Three are live at once and should fit a core's L2 cache (1-2 MiB on servers): one row of 152k
# fp32 entries. Twice the size runs at half the speed.
CPU_BUFFER_BYTES = 640 << 10
# On a GPU a row block only has to hide the launches.
GPU_BUFFER_BYTES = 256 << 20


def rows_per_block(vocab: int, dtype: torch.dtype, device: torch.device) -> int:
    """Rows of `vocab` entries per buffer; at least 1."""
    budget = CPU_BUFFER_BYTES if device.type == "cpu" else GPU_BUFFER_BYTES
    return max(1, budget // (vocab * dtype.itemsize))


class Scratch(NamedTuple):
    """Three buffers [n, V] that the row formulas overwrite; nothing is kept between calls."""

    p: Float[Tensor, "n V"]
    w: Float[Tensor, "n V"]
    x: Float[Tensor, "n V"]

    @classmethod
    def allocate(cls, rows: int, vocab: int, dtype: torch.dtype, device: torch.device) -> Scratch:
        """Allocate buffers for up to `rows` rows; dtype is the accumulation dtype."""
        p, w, x = torch.empty((3, rows, vocab), dtype=dtype, device=device)
        return cls(p, w, x)

    def head(self, rows: int) -> Scratch:
        """The first `rows` rows of each buffer."""
        return self if rows == self.p.shape[0] else Scratch(self.p[:rows], self.w[:rows], self.x[:rows])


def map_blocks(
    blocks: Iterable[slice], run: Callable[[slice, Workspace], Result], workspace: Callable[[], Workspace]
) -> list[Result]:
    """Return [run(rows, buffers) for rows in blocks], without autograd; all share the buffers."""
    with torch.no_grad():
        buffers = workspace()
        return [run(rows, buffers) for rows in blocks]


def active_rows(mask: Bool[Tensor, " N"] | None) -> Int[Tensor, " A"] | None:
    """Indices of the active rows (mask True), in order; None if all are."""
    return None if mask is None else mask.nonzero().squeeze(1)


def clear_unread(d_x: Float[Tensor, "N V"], mask: Bool[Tensor, " N"] | None, vocab: int) -> None:
    """Zero the rows and columns that are not read: an in-place gradient still holds logits there."""
    d_x[:, vocab:].zero_()
    if mask is not None:
        d_x.masked_fill_(~mask[:, None], 0.0)


class RowBlocks:
    """Iterates over the active rows of [N, V] tensors: slices if all are active, else gathered rows.

    Inactive rows are never read.
    """

    def __init__(
        self,
        num_rows: int,
        active: Int[Tensor, " A"] | None,
        vocab: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_active = num_rows if active is None else active.shape[0]
        self.active = active
        self.vocab = vocab
        self.dtype = dtype
        self.device = device
        self.size = max(1, min(rows_per_block(vocab, dtype, device), self.num_active))

    def __iter__(self) -> Iterator[slice]:
        """Ranges of active rows; one empty range if there are none, so that callers need no special case."""
        for start in range(0, max(self.num_active, 1), self.size):
            yield slice(start, min(start + self.size, self.num_active))

    def buffer(self) -> Float[Tensor, "n V"]:
        """Allocate a buffer of one row block."""
        return torch.empty((self.size, self.vocab), dtype=self.dtype, device=self.device)

    def buffer_for(self, x: Float[Tensor, "N V"]) -> Float[Tensor, "n V"] | None:
        """Allocate the buffer that `load` copies rows of x into; None if x can be read in place."""
        in_place = self.active is None and x.dtype == self.dtype and x.stride(1) == 1
        return None if in_place else self.buffer()

    def load(
        self, x: Float[Tensor, "N V"], rows: slice, buffer: Float[Tensor, "n V"] | None
    ) -> Float[Tensor, "n V"]:
        """Rows of x, first `vocab` columns, in the accumulation dtype; a view without a buffer."""
        part = x[:, : self.vocab]
        part = part[rows] if self.active is None else part.index_select(0, self.active[rows])
        return part if buffer is None else buffer[: part.shape[0]].copy_(part)

    def target(
        self, d_x: Float[Tensor, "N V"], rows: slice, buffer: Float[Tensor, "n V"] | None
    ) -> Float[Tensor, "n V"]:
        """Destination of these rows' gradient: d_x itself, or a buffer that `store` copies."""
        return d_x[rows, : self.vocab] if buffer is None else buffer[: rows.stop - rows.start]

    def store(self, d_x: Float[Tensor, "N V"], rows: slice, buffer: Float[Tensor, "n V"] | None) -> None:
        """Copy the gradient of these rows from the buffer to d_x; no-op without a buffer."""
        if buffer is None:
            return
        part = buffer[: rows.stop - rows.start]
        if self.active is None:
            d_x[rows, : self.vocab].copy_(part)
        else:
            d_x[:, : self.vocab].index_copy_(0, self.active[rows], part.to(d_x.dtype))

    def gather(self, x: Float[Tensor, "N V"]) -> Float[Tensor, "A V"]:
        """All active rows of x in the accumulation dtype, differentiable: input of a definition."""
        part = x[:, : self.vocab]
        return (part if self.active is None else part.index_select(0, self.active)).to(self.dtype)

    def select(self, per_row: Tensor, rows: slice) -> Tensor:
        """Entries of a per-row tensor [N] for these rows."""
        return per_row[rows] if self.active is None else per_row[self.active[rows]]

    def scatter(self, per_active_row: Tensor, num_rows: int) -> Tensor:
        """Scatter [A] values of active rows to [N], 0 elsewhere."""
        if self.active is None:
            return per_active_row
        return per_active_row.new_zeros(num_rows).index_copy_(0, self.active, per_active_row)

    def gradient_like(self, x: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Allocate a contiguous gradient for x: zeros if rows or columns are skipped, else uninitialised."""
        covered = self.active is None and self.vocab == x.shape[1]
        gradient = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return gradient if covered else gradient.zero_()
