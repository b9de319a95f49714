"""Code shared by the benchmarks over hidden states and output heads.

Legend: N rows, V vocabulary entries, d_s, d_t hidden sizes of student and teacher (d_t = 0: no teacher), e
bytes per number. Inputs by name: hidden [N, d_s] and weight [V, d_s], trained; teacher_hidden [N, d_t] and
teacher_weight [V, d_t].
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import torch

from benchmarks._bounds import hidden_in
from benchmarks._cases import BOTH, Case
from benchmarks._op import Contestant, Loss, Op, Tensors, compiled, eager, normal, peer, seeded
from benchmarks._pairs import TEMPERATURE

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TRAINED = ("hidden", "weight")
TEACHER = ("teacher_hidden", "teacher_weight")
# Standard deviation of the logits, the same as with logits as inputs.
LOGITS = 2.0
# Standard deviation of teacher - student, nats, near convergence. Products over a few thousand terms err by
# up to 1e-5 of a logit: 1 % of the noise that the logits-in benchmarks use.
NEAR_NOISE = 1e-2
# A step takes tens of milliseconds, and a dozen contestants alternate.
LEAST_ROUNDS = 7
# Rows at a time of liger-kernel's chunked JSD: its default, a smaller and a larger value.
LIGER_CHUNKS = (256, 1024, 4096)
LIGER_DEFAULT_CHUNK = 1024


def head_inputs(case: Case, device: torch.device) -> tuple[Tensors, torch.Generator]:
    """({hidden, weight}, both trained; the generator, for further inputs)."""
    generator = seeded(device)
    hidden, weight = _side(case, case.student_hidden, LOGITS, generator)
    return {"hidden": hidden.requires_grad_(), "weight": weight.requires_grad_()}, generator


def head_pair(case: Case, device: torch.device, near: bool) -> tuple[Tensors, torch.Generator]:
    """({both sides, all-true mask [N]}, generator). Needs d_t > d_s.

    With `near` the teacher's first d_s columns are the student's; the others add noise of NEAR_NOISE.
    """
    tensors, generator = head_inputs(case, device)
    own, width = case.student_hidden, case.teacher_hidden
    deviation = NEAR_NOISE * (width / (width - own)) ** 0.5 if near else LOGITS
    hidden, weight = _side(case, width, deviation, generator)
    if near:
        hidden[:, :own] = tensors["hidden"].detach()
        weight[:, :own] = tensors["weight"].detach()
    mask = torch.ones(case.rows, dtype=torch.bool, device=device)
    return tensors | {"teacher_hidden": hidden, "teacher_weight": weight, "mask": mask}, generator


def student_logits(tensors: Tensors) -> Tensor:
    """[N, V] in the inputs' dtype, as from an eager head."""
    return torch.nn.functional.linear(tensors["hidden"], tensors["weight"])


def logits_of_both(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """[N, V] of student and teacher, in the inputs' dtype."""
    teacher = torch.nn.functional.linear(tensors["teacher_hidden"], tensors["teacher_weight"])
    return student_logits(tensors), teacher


def head_bytes(case: Case) -> int:
    """Least bytes: (N + V) (d_s + d_t) e forward; 2 (N + V) d_s e more backward, to read the student again
    and to write its gradients.
    """
    size: int = getattr(torch, case.dtype).itemsize
    num_entries = (case.rows + case.vocab) * size
    forward = num_entries * (case.student_hidden + case.teacher_hidden)
    return forward if case.mode != BOTH else forward + 2 * num_entries * case.student_hidden


def head_flops(case: Case) -> int:
    """2 N V (d_s + d_t) forward; 4 N V d_s more backward, for the gradients of hidden and weight."""
    one = 2 * case.rows * case.vocab
    forward = one * (case.student_hidden + case.teacher_hidden)
    return forward if case.mode != BOTH else forward + 2 * one * case.student_hidden


def linear_op(
    name: str,
    *,
    cases: Callable[[str, tuple[int, int] | None], list[Case]],
    inputs: Callable[[Case, torch.device, bool], Tensors],
    row_losses: Callable[[Case, Tensors], Tensor],
    wide_loss: Callable[[Case, Tensors], Tensor],
    official: Callable[[Case, Tensors], Tensor],
    contestants: tuple[Contestant, ...],
    shared: tuple[str, ...] = TRAINED[1:] + TEACHER[1:],
) -> Op:
    """An operation over hidden states, with the contestants that all of them have.

    Args:
        name, cases, inputs, row_losses, shared: as for ``Op``.
        wide_loss: (case, inputs) to the loss: products in the inputs' dtype, the definition in fp32.
        official: (case, inputs) to the published formula on logits in the inputs' dtype.
        contestants: further ones.
    """
    return Op(
        name=name,
        cases=cases,
        inputs=inputs,
        row_losses=row_losses,
        least_bytes=head_bytes,
        contestants=(
            Contestant("gemms", _products, products=True),
            eager(official),
            compiled("compile", wide_loss),
            compiled("compile_official", official, headline_only=True),
            *contestants,
        ),
        trained=TRAINED,
        shared=shared,
        least_flops=head_flops,
        least_rounds=LEAST_ROUNDS,
        bounds=hidden_in,
    )


def liger_jsd(
    beta: float, differs: Callable[[Case], str | None] = lambda case: None
) -> tuple[Contestant, ...]:
    """Liger-kernel's JSD over hidden states: fused, and chunked at several sizes.

    At beta = 0 both are forward KL, at beta = 1 reverse KL: mean over rows, without T².
    """

    def chunked(size: int) -> Contestant:
        return peer(
            f"liger_chunked_jsd_{size}",
            "liger_kernel",
            lambda case: _liger_chunked(beta, size, case),
            differs=differs,
            headline_only=size != LIGER_DEFAULT_CHUNK,
        )

    fused = peer("liger_fused_jsd", "liger_kernel", functools.partial(_liger_fused, beta), differs=differs)
    return (fused, *(chunked(size) for size in LIGER_CHUNKS))


def _side(case: Case, width: int, deviation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hidden states [N, width] and a head [V, width] whose logits have that standard deviation."""
    return (
        normal(case.rows, width, case.dtype, generator, 1.0),
        normal(case.vocab, width, case.dtype, generator, deviation * width**-0.5),
    )


def _products(case: Case) -> Loss:
    """Products of the heads and, in mode forward+backward, of both gradients, in the inputs' dtype and into
    existing buffers.
    """
    made: Tensors = {}

    def run(tensors: Tensors) -> Tensor:
        with torch.no_grad():
            hidden, weight = tensors["hidden"], tensors["weight"]
            if not made:
                logits = hidden.new_empty((case.rows, case.vocab))
                made.update(
                    logits=logits, d_hidden=torch.empty_like(hidden), d_weight=torch.empty_like(weight)
                )
            if case.teacher_hidden:
                torch.mm(tensors["teacher_hidden"], tensors["teacher_weight"].T, out=made["logits"])
            torch.mm(hidden, weight.T, out=made["logits"])
            if case.mode == BOTH:
                torch.mm(made["logits"], weight, out=made["d_hidden"])
                torch.mm(made["logits"].T, hidden, out=made["d_weight"])
        return made["logits"]

    return run


def _liger_fused(beta: float, case: Case) -> Loss:
    package: Any = importlib.import_module("liger_kernel.transformers")
    divergence = package.LigerFusedLinearJSD(jsd_beta=beta, temperature=TEMPERATURE)

    def loss(tensors: Tensors) -> Tensor:
        given = (tensors[name] for name in TRAINED + TEACHER)
        value: Tensor = divergence(*given, None) * TEMPERATURE**2
        return value

    return loss


def _liger_chunked(beta: float, size: int, case: Case) -> Loss:
    package: Any = importlib.import_module("liger_kernel.chunked_loss")
    divergence = package.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, temperature=TEMPERATURE, chunk_size=size
    )

    def loss(tensors: Tensors) -> Tensor:
        given = (tensors[name] for name in TRAINED + TEACHER)
        # Required labels, which select the rows: here all.
        value: Tensor = divergence(*given, tensors["mask"].long()) * TEMPERATURE**2
        return value

    return loss
