"""calm: the chunk objective from logits or hidden states of both sides, as `tide.losses` composes it.

N tokens as N / 2 chunks of two tokens; the published alignments give one to four. The tokens are the
likeliest of each side: chunks stay inside the clamp and have gradients. There are no near-converged inputs:
the binary cross-entropy of equal sides is no small number.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import official_formulas
from benchmarks._cases import Case
from benchmarks._op import Tensors
from benchmarks.ops._vocabulary import TEMPERATURE, inputs_of, logits, sides, trained, vocabulary_ops
from tide_kernels.chunk_likelihood.reference import chunk_likelihood_reference
from tide_kernels.token_logprob.reference import token_logprob_reference

if TYPE_CHECKING:
    from torch import Tensor

TOKENS_PER_CHUNK = 2
# Rows at a time: losses from hidden states hold no logits, which would raise their peak.
ROWS_AT_ONCE = 4


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    tensors = inputs_of(case, device, near=False)
    with torch.no_grad():
        ids = [
            [side.argmax(-1) for side in logits(case, part)]
            for start in range(0, case.rows, ROWS_AT_ONCE)
            for part in [_rows(tensors, slice(start, start + ROWS_AT_ONCE))]
        ]
    tensors["ids"], tensors["teacher_ids"] = (torch.cat(side) for side in zip(*ids, strict=True))
    # [N, ...] to [chunks, tokens, ...]: the first axis is what the gate takes a part of.
    folded = {
        name: x if name.endswith("weight") else x.detach().unflatten(0, (-1, TOKENS_PER_CHUNK))
        for name, x in tensors.items()
    }
    for name in trained(case):
        folded[name].requires_grad_()
    chunks = torch.zeros_like(folded["ids"])
    return folded | {"chunks": chunks, "mask": chunks[:, :1] == 0}


def _rows(tensors: Tensors, rows: slice) -> Tensors:
    return {name: x if name.endswith("weight") else x[rows] for name, x in tensors.items()}


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    student, teacher = (
        token_logprob_reference(side.flatten(0, 1), ids.flatten()).view_as(ids)
        for side, ids in zip(logits(case, tensors), _ids(tensors), strict=True)
    )
    chunks, mask, eps = tensors["chunks"], tensors["mask"], official_formulas.CHUNK_EPS
    return chunk_likelihood_reference(
        student, teacher, chunks, chunks, mask, "forward", None, TEMPERATURE, eps
    )[:, 0]


def _ids(tensors: Tensors) -> tuple[Tensor, Tensor]:
    return tensors["ids"], tensors["teacher_ids"]


def _official(case: Case, tensors: Tensors) -> Tensor:
    matrix, mask = (tensors["chunks"] == 0)[..., None], tensors["mask"]
    both = logits(case, tensors)
    return official_formulas.eager_calm(*both, *_ids(tensors), matrix, matrix, mask, TEMPERATURE)


def _tide(case: Case, tensors: Tensors) -> Tensor:
    losses: Any = importlib.import_module("tide.losses")
    given, (ids, teacher_ids) = sides(case, tensors), _ids(tensors)
    log_p = losses.linear_token_log_probs if case.student_hidden else losses.token_log_probs
    width = len(given) // 2
    both = log_p(*given[:width], ids), log_p(*given[width:], teacher_ids)
    chunks = tensors["chunks"]
    loss: Tensor = losses.calm_loss(*both, chunks, chunks, tensors["mask"], temperature=TEMPERATURE)
    return loss


OPS = vocabulary_ops(
    "calm", ("calm",), inputs=_inputs, row_losses=_row_losses, official=_official, tide=_tide
)
