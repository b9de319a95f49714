"""The call of csrc/cpu/tokens.h, which token_logprob and token_scores share."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.native import Rows, pointer

if TYPE_CHECKING:
    from torch import Tensor


class TokensCall(ctypes.Structure):
    """`tide_tokens`."""

    _fields_ = (
        *((name, Rows) for name in ("logits", "gradient")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "token_ids",
                "mask",
                "d_log_p",
                "log_p",
                "statistics",
                "best",
                "entropy",
                "margin",
            )
        ),
        *((name, ctypes.c_int64) for name in ("num_rows", "vocab", "width")),
        ("softcap", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("num_threads", "unused")),
    )


def tokens_call(logits: Tensor, token_ids: Tensor | None, mask: Tensor | None, vocab: int) -> TokensCall:
    """The call; what it points to must outlive it."""
    return TokensCall(
        logits=Rows.of(logits),
        token_ids=pointer(token_ids),
        mask=pointer(mask),
        num_rows=logits.shape[0],
        vocab=vocab,
        width=logits.shape[1],
        num_threads=torch.get_num_threads(),
    )
