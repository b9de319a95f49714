"""The records that travel between stages: Example -> Batch -> NoisedBatch -> HiddenRows.

Legend: B sequences, L tokens of a sequence (padded), K noised views, C chunks, N masked rows,
d hidden size, V vocabulary entries.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_Record = TypeVar("_Record", bound="_TensorRecord")


class _TensorRecord:
    """Moves every tensor of a dataclass; the method is not called `to`, which data loaders call unasked."""

    def on_device(self: _Record, device: torch.device | str) -> _Record:
        """The same record with every tensor on `device`."""
        moved = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                value = value.to(device, non_blocking=True)
            elif isinstance(value, _TensorRecord):
                value = value.on_device(device)
            moved[field.name] = value
        return type(self)(**moved)


@dataclass(frozen=True)
class TokenSequence:
    """One text in one tokenization.

    Attributes:
        token_ids: [L] int64.
        loss_mask: [L] bool; the tokens that diffusion noises and losses read (the answer, not the prompt).
        chunks: [L] int64; chunk id of each token, −1 for none.
    """

    token_ids: Int[Tensor, "L"]
    loss_mask: Bool[Tensor, "L"]
    chunks: Int[Tensor, "L"]


@dataclass(frozen=True)
class Example:
    """A text as the student and, where one runs, the teacher tokenizes it, with `num_chunks` shared spans."""

    student: TokenSequence
    teacher: TokenSequence | None = None
    num_chunks: int = 0


@dataclass(frozen=True)
class TokenBatch(_TensorRecord):
    """B token sequences, padded at the end to a common length.

    Attributes:
        token_ids: [B, L] int64.
        valid: [B, L] bool, False on padding.
        loss_mask: [B, L] bool.
        chunks: [B, L] int64, −1 for none.
    """

    token_ids: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]
    loss_mask: Bool[Tensor, "B L"]
    chunks: Int[Tensor, "B L"]


@dataclass(frozen=True)
class Batch(_TensorRecord):
    """A collated batch, not yet noised.

    Attributes:
        student, teacher: the two tokenizations; `teacher` is None where no teacher runs.
        chunk_exists: [B, C] bool; which chunk ids a sequence has.
    """

    student: TokenBatch
    teacher: TokenBatch | None
    chunk_exists: Bool[Tensor, "B C"]


@dataclass(frozen=True)
class NoisedTokens(_TensorRecord):
    """Token sequences with K noised views of each.

    Attributes:
        token_ids: [B, L] int64, the clean text x_0.
        valid: [B, L] bool.
        views: [B, K, L] int64, x_t: masked tokens replaced by the mask id.
        rows: [N] int64; flat index into [B, L] of the tokens whose outputs count, ascending. Known on the
            host, so that gathering them never waits for the device.
        row_views: [N] int64; the view whose output counts for each row.
    """

    token_ids: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]
    views: Int[Tensor, "B K L"]
    rows: Int[Tensor, "N"]
    row_views: Int[Tensor, "N"]

    @property
    def labels(self) -> Int[Tensor, "N"]:
        """The clean token of every row."""
        return self.token_ids.flatten()[self.rows]


@dataclass(frozen=True)
class NoisedBatch(_TensorRecord):
    """A batch after masking: everything that the forward passes and the losses read.

    Attributes:
        student, teacher: noised tokens of either side.
        t: [B] fp32 diffusion time in (0, 1].
        diffusion_weight: [B] fp32, −α'(t) / (1 − α(t)); the cross-entropy weight of a masked token at the
            mask rate that was applied.
        loss_mask: [B, L_s] bool, of the student.
        student_chunks, teacher_chunks: [B, L] int64, −1 for none.
        chunk_mask: [B, C] bool; chunks that are whole under the masks of both sides.
    """

    student: NoisedTokens
    teacher: NoisedTokens | None
    t: Float[Tensor, "B"]
    diffusion_weight: Float[Tensor, "B"]
    loss_mask: Bool[Tensor, "B L"]
    student_chunks: Int[Tensor, "B L"]
    teacher_chunks: Int[Tensor, "B M"] | None
    chunk_mask: Bool[Tensor, "B C"]


class Head(NamedTuple):
    """An output head: logits are softcap * tanh(scale * (hidden @ weight.T + bias) / softcap).

    Attributes:
        weight: [V, d].
        bias: [V] or None.
        logit_scale: factor of the logits.
        softcap: cap of the scaled logits; None for none.
    """

    weight: Float[Tensor, "V d"]
    bias: Float[Tensor, "V"] | None = None
    logit_scale: float = 1.0
    softcap: float | None = None


class HiddenRows(NamedTuple):
    """One model's masked rows before its head.

    Attributes:
        hidden: [N, d].
        head: turns them into logits.
    """

    hidden: Float[Tensor, "N d"]
    head: Head
