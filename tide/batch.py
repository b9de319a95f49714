"""The records that travel between stages: Example -> Batch -> NoisedBatch -> Layout -> HiddenRows.

Legend: B sequences, L tokens of a text (padded), K noised views, R rows of W tokens in a model's input,
C chunks, N masked tokens, d hidden size, V vocabulary entries.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_Record = TypeVar("_Record", bound="_TensorRecord")


class _TensorRecord:
    """Base of the records that move between devices."""

    # Not named `to`, which data loaders call unasked.
    def on_device(self: _Record, device: torch.device | str) -> _Record:
        """Copy the record with every tensor on `device`."""
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
        loss_mask: [L] bool; tokens that diffusion noises and losses read: the answer, not the prompt.
        chunks: [L] int64, chunk id of each token, −1 for none.
    """

    token_ids: Int[Tensor, "L"]
    loss_mask: Bool[Tensor, "L"]
    chunks: Int[Tensor, "L"]


@dataclass(frozen=True)
class Example:
    """A text tokenized for the student and, if there is one, the teacher, with `num_chunks` shared chunks."""

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
        student, teacher: the two tokenizations; `teacher` is None without a teacher.
        chunk_exists: [B, C] bool, the chunk ids that a sequence has.
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
        views: [B, K, L] int64, x_t: masked tokens replaced by the mask id; K = 0 for a model of clean text.
        rows: [N] int64, ascending; flat index into [B, L] of the tokens to predict. Made on the host: their
            number is known without waiting for the device.
        row_views: [N] int64; the view that predicts each row; 0 without views.
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
    """A batch after masking, complete for the forward passes and the losses.

    Attributes:
        student, teacher: noised tokens of either side. Within one vocabulary, the teacher's rows are those
            of the student's that are distilled; across tokenizers, the tokens of the chunks that count. A
            text without a row of the teacher is not valid there.
        t: [B] fp32 diffusion time in (0, 1].
        diffusion_weight: [B] or [B, L_s] fp32, −α'(t) / (1 − α(t)), the cross-entropy weight of a masked
            token.
        loss_mask: [B, L_s] bool, of the student.
        student_chunks, teacher_chunks: [B, L] int64, −1 for none.
        chunk_mask: [B, C] bool, chunks that both sides mask whole.
    """

    student: NoisedTokens
    teacher: NoisedTokens | None
    t: Float[Tensor, "B"]
    diffusion_weight: Float[Tensor, "B *L"]
    loss_mask: Bool[Tensor, "B L"]
    student_chunks: Int[Tensor, "B L"]
    teacher_chunks: Int[Tensor, "B M"] | None
    chunk_mask: Bool[Tensor, "B C"]


@dataclass(frozen=True)
class Layout(_TensorRecord):
    """The input of one forward pass. Several texts may share a row of its grid.

    Attributes:
        token_ids: [R, W] int64.
        positions: [R, W] int64, of every token in its text.
        text: [R, W] int64, the number of the text in the batch. Padding is negative, and no two tokens of it
            are alike in a row.
        segment: [R, W] int64; 0 is x_0, noised views are 1, 2, ...
        block: [R, W] int64, of every token in its text.
        masked: [R, W] bool, mask tokens.
        rows: [N] int64; flat index into [R, W] of the hidden rows that count, one for every token to predict.
        mask: the model's attention rule, which makes `attends` of the tensors above.
        causal: True if that rule is causal attention within each segment of a text.
        starts: [S] int32; where that rule is attention within each segment, the flat starts of segments and
            of padding tokens, and the end; else None.
    """

    token_ids: Int[Tensor, "R W"]
    positions: Int[Tensor, "R W"]
    text: Int[Tensor, "R W"]
    segment: Int[Tensor, "R W"]
    block: Int[Tensor, "R W"]
    masked: Bool[Tensor, "R W"]
    rows: Int[Tensor, "N"]
    mask: Callable[[Layout], MaskFunction]
    causal: bool = False
    starts: Int[Tensor, "S"] | None = None

    @property
    def attends(self) -> MaskFunction:
        """attends(row, head, query, key) is True where the query may attend to the key.

        All four are integer tensors that broadcast. The signature of FlexAttention's mask functions.
        """
        return self.mask(self)


@dataclass(frozen=True)
class Layouts(_TensorRecord):
    """The inputs of a step's forward passes; `teacher` is None without a teacher."""

    student: Layout
    teacher: Layout | None

    def metrics(self, num_examples: int) -> dict[str, Float[Tensor, ""]]:
        """By side, the tokens that a forward pass computes per example, and the grid's share of padding."""
        metrics = {}
        for side, layout in (("student", self.student), ("teacher", self.teacher)):
            if layout is not None:
                used = (layout.text >= 0).float()
                metrics[f"{side}_tokens"] = used.sum() / num_examples
                metrics[f"{side}_padding"] = 1 - used.mean()
        return metrics


class Head(NamedTuple):
    """An output head: logits are softcap * tanh(z / softcap), z = logit_scale * (hidden @ weight.T + bias).

    Attributes:
        weight: [V, d].
        bias: [V] or None.
        logit_scale: factor of the logits.
        softcap: None does not cap.
    """

    weight: Float[Tensor, "V d"]
    bias: Float[Tensor, "V"] | None = None
    logit_scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Float[Tensor, "N d"]) -> Float[Tensor, "N V"]:
        """Logits of all rows at once, in the dtype of `hidden`."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        logits = torch.nn.functional.linear(hidden, self.weight.to(hidden.dtype), bias)
        if self.logit_scale != 1:
            logits = self.logit_scale * logits
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def on_device(self, device: torch.device) -> Head:
        """Copy the head to `device`, where it is not there."""
        bias = None if self.bias is None else self.bias.to(device)
        return self._replace(weight=self.weight.to(device), bias=bias)


class HiddenRows(NamedTuple):
    """A model's masked rows before its head.

    Attributes:
        hidden: [N, d].
        head: its output head.
    """

    hidden: Float[Tensor, "N d"]
    head: Head

    def on_device(self, device: torch.device) -> HiddenRows:
        """Copy hidden rows and head to `device`, where they are not there."""
        return HiddenRows(self.hidden.to(device), self.head.on_device(device))
