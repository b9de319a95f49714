"""linear_token_logprob by runs of columns: logits of all rows over a part of the vocabulary at a time.

One token per row does not need a whole row: maxima and sums of the runs are merged, and from them the
gradient of any run follows. So each entry of the head is read once per pass, each entry of its gradient is
written once, and the logits of a run fit a cache. The factor of a row is unknown in forward (a chunk
objective needs the whole span first), so backward recomputes the logits of a run, or takes them from forward
if all fit the workspace. The gradient overwrites the logits, or on the `triton` backend goes to a buffer in
the dtype of the products that follow.
Legend: N rows, V vocabulary entries of this process, v entries of a run.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tide_kernels._shared.backends import BACKENDS
from tide_kernels._shared.head import (
    ROUNDED_PARTS,
    Head,
    HeadOptions,
    product_dtype,
    rounding_buffer,
    rounding_bytes,
)
from tide_kernels._shared.head_gradient import GradientByColumns
from tide_kernels._shared.label import (
    LabelStatistics,
    label_coefficients,
    label_rest,
    label_statistics_from,
    write_label_gradient,
)
from tide_kernels._shared.vocabulary import VocabularyRun, vocabulary_of
from tide_kernels._shared.workspace import aligned_rows, column_runs

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class TokenLogprobArguments(NamedTuple):
    """Tensor arguments, the head as given."""

    hidden: Float[Tensor, "N d"]
    weight: Float[Tensor, "V d"]
    bias: Float[Tensor, " V"] | None
    token_ids: Int[Tensor, " N"]


class TokenLogprobSettings(NamedTuple):
    """Other arguments, in the order of the op's schema."""

    logit_scale: float
    softcap: float  # 0 for none
    vocab: int  # entries in use, over all processes
    workspace_bytes: int
    logits_dtype: torch.dtype
    dtype: torch.dtype  # accumulation dtype
    autocast_dtype: torch.dtype | None
    vocab_group: str  # name of the process group that shares the head; empty for none
    backend: str
    needed: list[bool]  # gradients of hidden, weight, bias
    keep: bool  # keep all logits from forward to backward

    @property
    def kept_dtype(self) -> torch.dtype:
        """dtype of the logits; the formulas of `torch` need the accumulation dtype."""
        return self.logits_dtype if self.backend == "triton" else self.dtype


class TokenLogprobCall:
    """Head, runs of columns and buffers of one call, for forward and backward."""

    def __init__(self, arguments: TokenLogprobArguments, settings: TokenLogprobSettings) -> None:
        hidden, weight, bias, _ = arguments
        self.arguments, self.settings = arguments, settings
        self.dtype, self.device, self.num_rows = settings.dtype, hidden.device, hidden.shape[0]
        self.vocabulary = vocabulary_of(weight.shape[0], settings.vocab, settings.vocab_group)
        self.head = Head(
            weight,
            bias,
            HeadOptions(settings.logit_scale, settings.softcap),
            self.dtype,
            product_dtype(hidden, weight, self.dtype, settings.autocast_dtype),
            settings.logits_dtype,
        ).columns(slice(0, self.vocabulary.size))
        # The kernels' gradient needs a buffer if its dtype differs from that of the logits.
        self.kernels = settings.backend != "torch"
        self.separate = self.kernels and self.head.gradient_dtype != settings.kept_dtype
        self.rounded = self.head.rounds_through(settings.kept_dtype)

    @functools.cached_property
    def of_logits(self) -> Any:
        """The backend over the logits of a run; `torch` stands on formulas that processes can share."""
        return BACKENDS["token_logprob"][self.settings.backend].load()

    @functools.cached_property
    def hidden(self) -> Float[Tensor, "N d"]:
        """Hidden states in the dtype of the logits' product, converted once for all runs."""
        return self.arguments.hidden.to(self.head.product_dtype)

    @functools.cached_property
    def hidden_for_gradient(self) -> Float[Tensor, "N d"]:
        """Hidden states in the dtype of the products with the logits' gradient."""
        wanted = self.head.gradient_dtype
        return self.hidden if wanted == self.head.product_dtype else self.arguments.hidden.to(wanted)

    @functools.cached_property
    def runs(self) -> tuple[int, list[slice]]:
        """(columns per run, runs)."""
        # Forward widens half logits; otherwise it overwrites them.
        kept = self.settings.kept_dtype
        forward = 0 if kept == self.dtype else self.dtype.itemsize
        through = 0 if self.rounded is None else -(-self.rounded.itemsize // ROUNDED_PARTS)
        entry = kept.itemsize + through + max(forward, self._backward_bytes())
        budget = self.settings.workspace_bytes
        return column_runs(self.vocabulary.size, self.num_rows * entry, budget, self.device)

    def fits(self) -> bool:
        """True if the workspace holds all logits and the buffers of one run."""
        size, _ = self.runs
        # The torch backend's exponentials need a buffer: kept logits cannot be overwritten.
        forward = rounding_bytes(size, self.rounded) + (0 if self.kernels else size * self.dtype.itemsize)
        kept = self.vocabulary.size * self.settings.kept_dtype.itemsize
        beside = max(forward, size * self._backward_bytes())
        return self.num_rows * (kept + beside) <= self.settings.workspace_bytes

    def _backward_bytes(self) -> int:
        """Bytes per entry of a run in backward beyond its logits."""
        gradient, slope = self.head.gradient_dtype, bool(self.settings.softcap) and not self.kernels
        apart = gradient != self.settings.kept_dtype  # written to a buffer, or copied for the products
        return apart * gradient.itemsize + slope * self.dtype.itemsize

    def buffer(self, columns: int, dtype: torch.dtype) -> Float[Tensor, "N v"]:
        """Allocate an uninitialised buffer for one run."""
        return aligned_rows(self.num_rows, columns, dtype, self.device)

    def logits(self, run: slice, out: Float[Tensor, "N v"]) -> Float[Tensor, "N v"]:
        """Write the logits of a run into `out`, rounded to `logits_dtype`."""
        return self.head.columns(run).logits(self.hidden, out, self._through)

    @functools.cached_property
    def _through(self) -> Float[Tensor, "N w"] | None:
        return rounding_buffer(self.num_rows, self.runs[0], self.rounded, self.device)

    def part(self, run: slice) -> VocabularyRun:
        """The run's place in the whole vocabulary."""
        return VocabularyRun(self.vocabulary.start + run.start, run.stop - run.start)


def forward(
    arguments: TokenLogprobArguments, settings: TokenLogprobSettings
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 4"], Float[Tensor, "N V"]]:
    """(log_p, statistics: the fields of LabelStatistics, all logits if kept, else empty)."""
    call = TokenLogprobCall(arguments, settings)
    size, runs = call.runs
    kept_shape = (call.num_rows, call.vocabulary.size) if settings.keep else (0, 0)
    kept = torch.empty(kept_shape, dtype=settings.kept_dtype, device=call.device)
    # For logits that are not kept, and for exponentials.
    buffer = call.buffer(0 if settings.keep and call.kernels else size, settings.kept_dtype)
    row_max = torch.full((call.num_rows,), -torch.inf, dtype=call.dtype, device=call.device)
    label_logit, rest = row_max.clone(), torch.zeros_like(row_max)
    for run in runs:
        width = run.stop - run.start
        logits = call.logits(run, kept[:, run] if settings.keep else buffer[:, :width])
        part, wide = call.part(run), logits.to(call.dtype)
        label_logit = torch.maximum(label_logit, part.at(wide, arguments.token_ids))
        if settings.backend == "native":
            here = arguments.token_ids - part.start  # one outside the run matches no column
            of_run = LabelStatistics(*call.of_logits.forward(wide, here, None, width)[1].unbind(1))
            row_max, rest = _merge(row_max, rest, of_run.row_max, of_run.rest)
            continue
        # The exponentials overwrite logits that are not kept.
        scratch = buffer[:, :width] if wide is logits else wide
        run_max = part.max(wide)
        run_rest = label_rest(wide, _finite(run_max), arguments.token_ids, part, scratch)
        row_max, rest = _merge(row_max, rest, run_max, run_rest)
    largest = call.vocabulary.largest(row_max.clone())
    rest = call.vocabulary.total(rest * (row_max - _finite(largest)).exp())
    statistics = label_statistics_from(call.vocabulary.largest(label_logit), largest, rest)
    # Not a view of the packed statistics: a tensor both returned and saved would keep itself alive.
    return statistics.log_p, torch.stack(statistics, 1), kept


def backward(
    arguments: TokenLogprobArguments,
    settings: TokenLogprobSettings,
    statistics: Float[Tensor, "N 4"],
    kept: Float[Tensor, "N V"],
    d_log_p: Float[Tensor, " N"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias, empty if not needed. Overwrites kept logits."""
    call = TokenLogprobCall(arguments, settings)
    needed = (settings.needed[0], settings.needed[1], settings.needed[2])
    gradient = GradientByColumns(call.head, *arguments[:3], needed)
    size, runs = call.runs
    buffer = None if kept.shape[0] else call.buffer(size, settings.kept_dtype)
    d_buffer = call.buffer(size, call.head.gradient_dtype) if call.separate else None
    # The gradient is in the product, not in the scaled logits.
    d_log_p = d_log_p * settings.logit_scale
    for run in runs:
        width = run.stop - run.start
        logits = kept[:, run] if buffer is None else call.logits(run, buffer[:, :width])
        out = logits if d_buffer is None else d_buffer[:, :width]
        _write_run_gradient(call, run, logits, statistics, d_log_p, out)
        gradient.add(run, call.hidden_for_gradient, out)
    return gradient.made(call.vocabulary)


def _write_run_gradient(
    call: TokenLogprobCall,
    run: slice,
    logits: Float[Tensor, "N v"],
    statistics: Float[Tensor, "N 4"],
    d_log_p: Float[Tensor, " N"],
    out: Float[Tensor, "N v"],
) -> None:
    """Write the gradient of a run's product; out may be the logits."""
    ids, softcap = call.arguments.token_ids, call.settings.softcap
    part = call.part(run)
    if call.kernels:
        # An id outside the run matches no column.
        given = (logits, ids - part.start, None, statistics, d_log_p, part.size, out)
        call.of_logits.backward(*given, softcap=softcap)
        return
    fields = LabelStatistics(*statistics.unbind(1))
    slope = call.head.slope(logits, torch.empty_like(logits)) if softcap else None
    write_label_gradient(logits, label_coefficients(fields, ids, d_log_p), part, out)
    if slope is not None:
        out.mul_(slope)


def _merge(max_a: Tensor, rest_a: Tensor, max_b: Tensor, rest_b: Tensor) -> tuple[Tensor, Tensor]:
    """Merge (maximum, sum of exponentials relative to it) of two sets of entries."""
    row_max = torch.maximum(max_a, max_b)
    base = _finite(row_max)
    return row_max, rest_a * (max_a - base).exp() + rest_b * (max_b - base).exp()


def _finite(row_max: Tensor) -> Tensor:
    """Replace a maximum of -inf, of entries that are all -inf, by 0."""
    return row_max.masked_fill(row_max == -torch.inf, 0.0)
