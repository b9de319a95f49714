"""linear_token_logprob: log softmax of a head's logits at one token per row; its mean, negated, is the
cross-entropy.

    python -m pytest -c benchmarks/pytest.ini benchmarks/bench_linear_token_logprob.py

Unavoidable products: the head forward, 2 N V d operations; the gradients of hidden states and head, 4 N V d.
(For most shapes ours recomputes the logits in backward, 2 N V d more: a chunk objective knows the factor of a
row only then.) Least bytes, e bytes per number: forward reads hidden states and head, (N + V) d e; backward
reads them again and writes their gradients, 2 (N + V) d e. Near-converged inputs: a student that is certain
of its tokens.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import official_formulas
from benchmarks._cases import MODES, TOKEN_HEADS, Case, linear_cases
from benchmarks._heads import LOGITS, head_inputs, linear_op, student_logits
from benchmarks._op import Contestant, Loss, Tensors, backend_contestants, liger, peer
from benchmarks._session import report
from tide_kernels import linear_token_logprob
from tide_kernels.token_logprob.reference import token_logprob_reference

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import Tensor

    from benchmarks._session import Measurements

# At V = 152k and logits of deviation 2 the other entries then share about 1e-7 of the mass.
SURE_LOGIT = 32.0
# Rows at a time of torch's op. For heads this wide its own choice is a few rows: minutes per step on a CPU.
TORCH_CHUNK = 1024


def _cases(device: str, shapes: tuple[int, int] | None) -> list[Case]:
    name = "linear_token_logprob"
    return linear_cases(name, name, device, TOKEN_HEADS, modes=MODES, shapes=shapes)


def _inputs(case: Case, device: torch.device, near: bool) -> Tensors:
    tensors, generator = head_inputs(case, device)
    ids = torch.randint(case.vocab, (case.rows,), generator=generator, device=device)
    if near:
        with torch.no_grad():
            # A row of the head times itself has the variance of the logits.
            tensors["hidden"] += tensors["weight"][ids] * (SURE_LOGIT / LOGITS**2)
    return {**tensors, "ids": ids}


def _row_losses(case: Case, tensors: Tensors) -> Tensor:
    return -token_logprob_reference(student_logits(tensors), tensors["ids"])


def _wide(case: Case, tensors: Tensors) -> Tensor:
    return -token_logprob_reference(student_logits(tensors).float(), tensors["ids"]).mean()


def _ours(backend: str, case: Case, tensors: Tensors) -> Tensor:
    log_p = linear_token_logprob(tensors["hidden"], tensors["weight"], tensors["ids"], backend=backend)
    return -log_p.mean()


def _official(case: Case, tensors: Tensors) -> Tensor:
    return -official_formulas.eager_token_log_probs(student_logits(tensors), tensors["ids"]).mean()


def _liger(case: Case) -> Loss:
    package: Any = importlib.import_module("liger_kernel.transformers")
    cross_entropy = package.LigerFusedLinearCrossEntropyLoss()

    def loss(tensors: Tensors) -> Tensor:
        value: Tensor = cross_entropy(tensors["weight"], tensors["hidden"], tensors["ids"])
        return value

    return loss


def _cut_cross_entropy(case: Case) -> Loss:
    package: Any = importlib.import_module("cut_cross_entropy")

    def loss(tensors: Tensors) -> Tensor:
        value: Tensor = package.linear_cross_entropy(tensors["hidden"], tensors["weight"], tensors["ids"])
        return value

    return loss


def _torch(chunk: int | None) -> Contestant:
    """F.linear_cross_entropy, `chunk` rows at a time; None for torch's choice."""

    def build(case: Case) -> Loss:
        nn: Any = torch.nn  # older versions lack both names
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)

        def loss(tensors: Tensors) -> Tensor:
            value: Tensor = nn.functional.linear_cross_entropy(
                tensors["hidden"], tensors["weight"], tensors["ids"], options=options
            )
            return value

        return loss

    def absent(case: Case, device: torch.device) -> str | None:
        if not hasattr(torch.nn.functional, "linear_cross_entropy"):
            return f"torch {torch.__version__} has no F.linear_cross_entropy"
        if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
            return f"F.linear_cross_entropy of torch {torch.__version__} does not chunk"
        if chunk is None and device.type == "cpu":
            return "it chooses a row or two at a time, which takes minutes per step on a CPU"
        return None

    name = f"torch_linear_cross_entropy{f'_{chunk}' if chunk else ''}"
    return Contestant(name, build, absent=absent, headline_only=chunk is None)


OP = linear_op(
    "linear_token_logprob",
    cases=_cases,
    inputs=_inputs,
    row_losses=_row_losses,
    wide_loss=_wide,
    official=_official,
    contestants=(
        _torch(TORCH_CHUNK),
        _torch(None),
        peer("cut_cross_entropy", "cut_cross_entropy", _cut_cross_entropy),
        liger("liger_fused_cross_entropy", _liger),
        *backend_contestants(_ours, reference_in_sweeps=False),
    ),
    shared=("weight",),
)


def bench_linear_token_logprob(
    case: Case, contestant: str, measurements: Measurements, benchmark: BenchmarkFixture
) -> None:
    """One contestant on one case; see the module."""
    report(measurements, OP, case, contestant, benchmark)
