"""The output head of hidden-in ops: products with a [V, d] weight, a few rows of logits at a time.

Logits are made in the dtype of accumulation and never in the model's: rounding them to bf16 alone costs 2 to
16 % of the gradient. Where the processor has no product of bf16 inputs with fp32 output, the weight is
converted in tiles that are used at once and overwritten, so that no second copy of a head exists.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from tide_kernels._shared.checks import check_frozen, check_matrix, check_same_length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor

WORKSPACE_VARIABLE = "TIDE_WORKSPACE_BYTES"
# About 200 rows of student and teacher logits at V = 152k: enough for a product to run at the processor's
# full rate.
CPU_WORKSPACE_BYTES = 256 << 20
GPU_WORKSPACE_BYTES = 2 << 30
# A converted tile of the weight; it should stay in the last-level cache between conversion and product.
TILE_BYTES = 8 << 20


class Head:
    """One output head. ``weight`` is [V, d] and ``bias`` [V] or None, both already cut to the vocabulary in
    use."""

    def __init__(
        self, weight: Float[Tensor, "V d"], bias: Float[Tensor, " V"] | None, dtype: torch.dtype
    ) -> None:
        self.weight = weight
        self.bias = None if bias is None else bias.to(dtype)
        self.dtype = dtype
        self.tile = weight.shape[0]
        self.converted = None
        if weight.dtype != dtype:
            width = max(weight.shape[1], 1)
            self.tile = min(self.tile, max(1, TILE_BYTES // (width * dtype.itemsize)))
            self.converted = torch.empty((self.tile, weight.shape[1]), dtype=dtype, device=weight.device)

    def logits(self, hidden: Float[Tensor, "n d"], out: Float[Tensor, "n V"]) -> Float[Tensor, "n V"]:
        """hidden @ weight.T + bias, written into ``out``; hidden in the dtype of accumulation."""
        for columns, tile in self._tiles():
            torch.mm(hidden, tile.T, out=out[:, columns])
        return out if self.bias is None else out.add_(self.bias)

    def hidden_gradient(self, d_logits: Float[Tensor, "n V"], out: Float[Tensor, "n d"]) -> None:
        """d_logits @ weight, written into ``out``."""
        if self.converted is None:
            torch.mm(d_logits, self.weight, out=out)
            return
        out.zero_()
        for columns, tile in self._tiles():
            out.addmm_(d_logits[:, columns], tile)

    def _tiles(self) -> Iterator[tuple[slice, Float[Tensor, "v d"]]]:
        for start in range(0, self.weight.shape[0], self.tile):
            columns = slice(start, min(start + self.tile, self.weight.shape[0]))
            part = self.weight[columns]
            yield columns, part if self.converted is None else self.converted[: part.shape[0]].copy_(part)


class HeadGradient:
    """Gradients of the student's side, accumulated over row chunks in the dtype of accumulation.

    Only what is ``needed``, of hidden states, weight and bias, is allocated or computed.
    """

    def __init__(
        self,
        head: Head,
        hidden: Float[Tensor, "N d"],
        needed: tuple[bool, bool, bool],
    ) -> None:
        self.head = head
        options: dict[str, Any] = {"dtype": head.dtype, "device": hidden.device}
        # Rows of the weight's gradient are added to, rows of the hidden states' are written once.
        self.d_hidden = torch.empty(hidden.shape, **options) if needed[0] else None
        self.d_weight = torch.zeros(head.weight.shape, **options) if needed[1] else None
        self.d_bias = torch.zeros(head.weight.shape[0], **options) if needed[2] else None

    @property
    def made(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of the hidden states, the weight and the bias."""
        return self.d_hidden, self.d_weight, self.d_bias

    @property
    def wanted(self) -> bool:
        """Whether any gradient is."""
        return self.d_hidden is not None or self.d_weight is not None or self.d_bias is not None

    def add(self, rows: slice, hidden: Float[Tensor, "n d"], d_logits: Float[Tensor, "n V"]) -> None:
        """Take in one chunk: its hidden states (in the dtype of accumulation) and its logits' gradient."""
        if self.d_hidden is not None:
            self.head.hidden_gradient(d_logits, self.d_hidden[rows])
        if self.d_weight is not None:
            # The first chunk is written, not added to zeros that would have to be read.
            self.d_weight.addmm_(d_logits.T, hidden, beta=0 if rows.start == 0 else 1)
        if self.d_bias is not None:
            self.d_bias.add_(d_logits.sum(0))


def cut_to_vocabulary(x: Float[Tensor, "V ..."], vocab: int) -> Float[Tensor, "v ..."]:
    """The first ``vocab`` rows; x itself if that is all: a slice's gradient is a second copy of the head."""
    return x if x.shape[0] == vocab else x[:vocab]


def cache_steps(num_rows: int, step: int) -> list[slice]:
    """The rows of a chunk, ``step`` at a time."""
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def head_chunks(
    num_rows: int, bytes_per_row: int, workspace_bytes: int | None, device: torch.device
) -> tuple[int, list[slice]]:
    """Rows per chunk and the chunks, of nearly equal size, so that their logits fit the workspace.

    The workspace is the argument, the environment variable TIDE_WORKSPACE_BYTES, or the device's default; one
    row is taken even where it does not fit.
    """
    if workspace_bytes is None:
        default = CPU_WORKSPACE_BYTES if device.type == "cpu" else GPU_WORKSPACE_BYTES
        workspace_bytes = _workspace_from_environment() or default
    most = max(1, workspace_bytes // bytes_per_row)
    count = max(1, -(-num_rows // most))
    size = max(1, -(-num_rows // count))
    return size, [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def _workspace_from_environment() -> int | None:
    text = os.environ.get(WORKSPACE_VARIABLE)
    if not text:
        return None
    if not text.isdigit() or int(text) == 0:
        raise ValueError(
            f"tide_kernels: the environment variable {WORKSPACE_VARIABLE} must be a positive number of "
            f"bytes; got {text!r}. Set e.g. {WORKSPACE_VARIABLE}={CPU_WORKSPACE_BYTES}, or unset it."
        )
    return int(text)


def check_workspace(function: str, workspace_bytes: int | None) -> None:
    """workspace_bytes is positive."""
    if workspace_bytes is not None and workspace_bytes <= 0:
        raise ValueError(
            f"{function}: workspace_bytes must be positive; got {workspace_bytes}. Leave it out for the "
            "default."
        )


def check_head(
    function: str,
    side: str,
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    bias: Float[Tensor, " V"] | None,
    *,
    frozen: bool,
) -> None:
    """Hidden states and a head that fit together; ``side`` is the prefix of the arguments' names."""
    check_matrix(function, f"{side}hidden", hidden)
    check_matrix(function, f"{side}weight", weight)
    if hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{function}: {side}hidden [N, d] and {side}weight [V, d] must share d; got "
            f"{tuple(hidden.shape)} and {tuple(weight.shape)}. Pass the head as torch.nn.Linear stores it, "
            "one row per token."
        )
    if weight.device != hidden.device:
        raise ValueError(
            f"{function}: {side}weight is on {weight.device}, {side}hidden on {hidden.device}; move one of "
            "them."
        )
    if bias is not None:
        if bias.dim() != 1 or not bias.is_floating_point():
            raise ValueError(
                f"{function}: {side}bias must be floating [V]; got {bias.dtype} {tuple(bias.shape)}."
            )
        check_same_length(function, f"{side}bias", bias, weight.shape[0], hidden.device)
    if frozen:
        for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
            check_frozen(function, f"{side}{name}", tensor)
