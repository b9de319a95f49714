"""token_logprob: log softmax at one entry per row; its mean, negated, is the cross-entropy.

From hidden states ours recomputes the logits in backward for most shapes, 2 N V d operations beyond the
unavoidable: a chunk objective knows the factor of a row only then. Near-converged inputs: a student that is
certain of its tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks import official_formulas
from benchmarks._cases import MODES, TOKEN_HEADS, Case
from benchmarks._op import Contestant, Loss, Tensors, peer
from benchmarks.ops._vocabulary import (
    PEER_ROWS,
    SPREAD,
    cut,
    inputs_of,
    prefix,
    student_logits,
    vocabulary_ops,
)
from tide_kernels import linear_token_logprob, token_logprob
from tide_kernels.token_logprob.reference import token_logprob_reference

if TYPE_CHECKING:
    from torch import Tensor

# At V = 152k the other entries then share about 1e-8 of the mass, from hidden states 1e-7.
SURE_LOGIT = 32.0


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    tensors = inputs_of(case, device, near, teacher=False)
    generator = torch.Generator(device).manual_seed(1)
    ids = torch.randint(case.vocab, (case.rows,), generator=generator, device=device)
    if near:
        with torch.no_grad():
            if case.student_hidden:
                # A row of the head times itself has the variance of the logits.
                tensors["hidden"] += tensors["weight"][ids] * (SURE_LOGIT / SPREAD**2)
            else:
                tensors["student"].scatter_(1, ids[:, None], SURE_LOGIT)
    return tensors | {"ids": ids}


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    return -token_logprob_reference(student_logits(case, tensors), tensors["ids"])


def _official(case: Case, tensors: Tensors) -> Tensor:
    return -official_formulas.eager_token_log_probs(student_logits(case, tensors), tensors["ids"]).mean()


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    ids = tensors["ids"]
    if case.student_hidden:
        return -linear_token_logprob(tensors["hidden"], tensors["weight"], ids, backend=backend).mean()
    return -token_logprob(tensors["student"], ids, backend=backend, **prefix(case)).mean()


def _liger(case: Case, package: Any) -> Loss:
    cross_entropy = package.LigerCrossEntropyLoss()
    return lambda tensors: cross_entropy(cut(case, tensors["student"]), tensors["ids"])


def _liger_fused(case: Case, package: Any) -> Loss:
    cross_entropy = package.LigerFusedLinearCrossEntropyLoss()
    return lambda tensors: cross_entropy(tensors["weight"], tensors["hidden"], tensors["ids"])


def _cut_cross_entropy(case: Case, package: Any) -> Loss:
    return lambda tensors: package.linear_cross_entropy(tensors["hidden"], tensors["weight"], tensors["ids"])


def _torch(case: Case) -> Loss:
    nn: Any = torch.nn  # older versions lack both names
    # For heads this wide its own choice is a few rows at a time.
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=PEER_ROWS)
    return lambda tensors: nn.functional.linear_cross_entropy(
        tensors["hidden"], tensors["weight"], tensors["ids"], options=options
    )


def _torch_absent(case: Case, device: torch.device) -> str | None:
    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        return f"torch {torch.__version__} has no F.linear_cross_entropy"
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return f"F.linear_cross_entropy of torch {torch.__version__} does not chunk"
    return None


OPS = vocabulary_ops(
    "token_logprob",
    ("token_logprob",),
    inputs=_inputs,
    row_losses=_row_losses,
    official=_official,
    ours=_ours,
    peers=(peer("liger_cross_entropy", "liger_kernel.transformers", _liger, overwrites=True),),
    hidden_peers=(
        Contestant("torch_linear_cross_entropy", _torch, absent=_torch_absent),
        peer("cut_cross_entropy", "cut_cross_entropy", _cut_cross_entropy),
        peer("liger_fused_cross_entropy", "liger_kernel.transformers", _liger_fused),
    ),
    num_sides=1,
    heads=TOKEN_HEADS,
    hidden_modes=MODES,  # a teacher runs no backward
)
