"""What operations over a vocabulary share, from logits and from hidden states with heads.

Legend: N rows, V vocabulary entries, d_s, d_t hidden sizes of student and teacher (0: no teacher), e bytes
per number. Inputs from logits: student [N, width], trained, teacher [N, width]. From hidden states: hidden
[N, d_s] and weight [V, d_s], trained; teacher_hidden [N, d_t] and teacher_weight [V, d_t]. Both: mask [N].

Least bytes from logits: each side is read, N V e; backward reads it again and writes the gradient over the
whole width, N width e. In bf16 at width = V that is 4 and 10 bytes per entry with a teacher, 2 and 6 without.
From hidden states: (N + V) (d_s + d_t) e forward; backward reads the student's again and writes their
gradients, 2 (N + V) d_s e. Unavoidable products: both heads, 2 N V (d_s + d_t) operations; the gradients of
hidden states and of the student's head, 4 N V d_s.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

from benchmarks._cases import (
    BOTH,
    DIVERGENCE_HEADS,
    HIDDEN_SWEEPS,
    LOGITS,
    MODES,
    SWEEPS,
    Case,
    Layout,
    cases_of,
    hidden_layouts,
)
from benchmarks._op import Contestant, Formula, Loss, Op, Tensors, contestants, peer
from benchmarks._targets import HIDDEN_IN, LOGITS_IN

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TEMPERATURE = 2.0
HEADS = ("hidden", "weight", "teacher_hidden", "teacher_weight")
# Standard deviation of the logits.
SPREAD = 2.0
# Of teacher - student near convergence, nats. Products over a few thousand terms err by up to 1e-5 of a
# logit: 1 % of the noise of logits.
NEAR_NOISE, NEAR_HIDDEN_NOISE = 1e-3, 1e-2
# Row block of the peers that take one.
PEER_ROWS = 1024


def inputs_of(case: Case, device: torch.device, near: bool, *, teacher: bool = True) -> Tensors:
    """Both sides, the mask and lambda_t [N]; with `near` the teacher is the student plus noise."""
    generator = torch.Generator(device).manual_seed(0)
    draw = functools.partial(_normal, dtype=getattr(torch, case.dtype), generator=generator)
    tensors: Tensors = {}
    if case.student_hidden:
        own, width = case.student_hidden, case.teacher_hidden
        tensors["hidden"] = draw(case.rows, own, 1.0)
        tensors["weight"] = draw(case.vocab, own, SPREAD * own**-0.5)
        if teacher:
            # Near: the first d_s columns are the student's, the others (d_t > d_s) add the noise.
            spread = NEAR_HIDDEN_NOISE * (width / (width - own)) ** 0.5 if near else SPREAD
            tensors["teacher_hidden"] = draw(case.rows, width, 1.0)
            tensors["teacher_weight"] = draw(case.vocab, width, spread * width**-0.5)
            if near:
                tensors["teacher_hidden"][:, :own] = tensors["hidden"]
                tensors["teacher_weight"][:, :own] = tensors["weight"]
    else:
        tensors["student"] = draw(case.rows, case.width, SPREAD)
        if teacher:
            tensors["teacher"] = draw(case.rows, case.width, NEAR_NOISE if near else SPREAD)
            if near:
                tensors["teacher"] += tensors["student"]
    for name in trained(case):
        tensors[name].requires_grad_()
    tensors["lambda_t"] = 0.1 + 0.8 * torch.rand(case.rows, generator=generator, device=device)
    tensors["mask"] = torch.ones(case.rows, dtype=torch.bool, device=device)
    return tensors


def trained(case: Case) -> tuple[str, ...]:
    """Inputs that get a gradient."""
    return HEADS[:2] if case.student_hidden else ("student",)


def student_logits(case: Case, tensors: Tensors) -> Tensor:
    """[N, V] in the inputs' dtype; heads are multiplied out."""
    if case.student_hidden:
        return linear(tensors["hidden"], tensors["weight"])
    return cut(case, tensors["student"])


def teacher_logits(case: Case, tensors: Tensors) -> Tensor:
    """[N, V] in the inputs' dtype; heads are multiplied out."""
    if case.student_hidden:
        return linear(tensors["teacher_hidden"], tensors["teacher_weight"])
    return cut(case, tensors["teacher"])


def logits(case: Case, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Of both sides."""
    return student_logits(case, tensors), teacher_logits(case, tensors)


def sides(case: Case, tensors: Tensors) -> Any:
    """The inputs of both sides, as ops and losses take them."""
    return tuple(tensors[name] for name in (HEADS if case.student_hidden else ("student", "teacher")))


def cut(case: Case, logits: Tensor) -> Tensor:
    """The columns in use, for code without a vocab_size argument."""
    return logits if case.vocab == case.width else logits[:, : case.vocab]


def prefix(case: Case) -> dict[str, Any]:
    """``vocab_size`` of a case that reads a prefix of wider logits."""
    return {} if case.vocab == case.width else {"vocab_size": case.vocab}


def vocabulary_ops(
    name: str,
    variants: tuple[str, ...],
    *,
    inputs: Callable[[Case, torch.device, bool], Tensors],
    row_losses: Formula,
    official: Formula,
    ours: Callable[[str, Case, Tensors], Tensor] | None = None,
    tide: Formula | None = None,
    peers: tuple[Contestant, ...] = (),
    hidden_peers: tuple[Contestant, ...] = (),
    num_sides: int = 2,
    heads: tuple[Layout, ...] = DIVERGENCE_HEADS,
    hidden_modes: tuple[str, ...] = (BOTH,),
) -> tuple[Op, Op]:
    """An operation from logits, and the same from hidden states, `linear_<name>`.

    variants: the first has sweeps, the others the headline. num_sides: sides whose logits are read. heads: of
    the hidden states, the headline's first. hidden_modes: of that headline. Others: see ``contestants``.
    """

    def cases(hidden: bool, device: str, shape: tuple[int, int] | None) -> list[Case]:
        prefix = "linear_" if hidden else ""
        layouts = hidden_layouts(heads, device) if hidden else LOGITS
        return [
            case
            for variant in variants
            for case in cases_of(
                prefix + name,
                prefix + variant,
                (HIDDEN_SWEEPS if hidden else SWEEPS)[device],
                layouts,
                shape,
                modes=hidden_modes if hidden else MODES,
                headline_only=variant != variants[0],
            )
        ]

    def least_bytes(case: Case) -> int:
        size: int = getattr(torch, case.dtype).itemsize
        read = num_sides * case.rows * case.vocab * size
        return read if case.mode != BOTH else 2 * read + case.rows * case.width * size

    def op(prefix: str, floor: tuple[str, Formula], others: tuple[Contestant, ...], **options: Any) -> Op:
        entered = contestants(prefix + name, official, *others, ours=ours, tide=tide, floor=floor)
        return Op(name=prefix + name, inputs=inputs, row_losses=row_losses, contestants=entered, **options)

    return (
        op(
            "",
            ("copy", _copies),
            peers,
            cases=functools.partial(cases, False),
            least_bytes=least_bytes,
            targets=LOGITS_IN if ours else (),
        ),
        op(
            "linear_",
            ("gemms", _products),
            hidden_peers,
            cases=functools.partial(cases, True),
            least_bytes=_head_bytes,
            least_flops=_head_flops,
            trained=HEADS[:2],
            shared=("weight", "teacher_weight")[:num_sides],
            targets=HIDDEN_IN if ours else (),
        ),
    )


def divergence_loss(case: Case, tensors: Tensors) -> Tensor:
    """The loss of `tide.losses` that has the variant's name."""
    losses: Any = importlib.import_module("tide.losses")
    options: dict[str, Any] = {"temperature": TEMPERATURE, **prefix(case)}
    if case.variant.endswith("tidal"):
        options["lambda_t"] = tensors["lambda_t"]
    loss: Tensor = getattr(losses, f"{case.variant}_loss")(*sides(case, tensors), tensors["mask"], **options)
    return loss


def log_p_peer(name: str, make: Callable[[Any], Any], target: Formula) -> Contestant:
    """A divergence of liger-kernel on log-probabilities in the logits' dtype, as documented.

    make: the package to the divergence of (log_p, log_target). target: its log-probabilities [N, V].
    """

    def build(case: Case, package: Any) -> Loss:
        divergence = make(package)

        def loss(tensors: Tensors) -> Tensor:
            log_p = torch.log_softmax(cut(case, tensors["student"]) / TEMPERATURE, dim=-1)
            log_target = target(case, tensors).to(log_p.dtype)
            value: Tensor = divergence(log_p, log_target) * TEMPERATURE**2
            return value

        return loss

    return peer(name, "liger_kernel.transformers", build)


def divergence_peers(
    beta: float, differs: Callable[[Case], str | None] = lambda case: None
) -> tuple[Contestant, ...]:
    """Generalised JSDs from hidden states: forward KL at beta = 0, reverse KL at 1, both without T²."""

    def fused(case: Case, liger: Any) -> Loss:
        divergence = liger.LigerFusedLinearJSD(jsd_beta=beta, temperature=TEMPERATURE)
        return lambda tensors: divergence(*sides(case, tensors), None) * TEMPERATURE**2

    def chunked(case: Case, liger: Any) -> Loss:
        divergence = liger.LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0,
            weight_soft_loss=1.0,
            beta=beta,
            temperature=TEMPERATURE,
            chunk_size=PEER_ROWS,
        )
        # Required labels, which select the rows: here all.
        return lambda tensors: divergence(*sides(case, tensors), tensors["mask"].long()) * TEMPERATURE**2

    def trl(case: Case, kernels: Any) -> Loss:
        def loss(tensors: Tensors) -> Tensor:
            hidden, weight, teacher_hidden, teacher_weight = sides(case, tensors)
            rows, _ = kernels.ChunkedDivergenceFunction.apply(
                hidden, weight, None, teacher_hidden, teacher_weight, None, beta, TEMPERATURE
            )
            mean: Tensor = rows.mean() * TEMPERATURE**2
            return mean

        return loss

    return (
        peer("liger_fused_jsd", "liger_kernel.transformers", fused, differs=differs),
        peer("liger_chunked_jsd", "liger_kernel.chunked_loss", chunked, differs=differs),
        peer(
            "trl_chunked_divergence", "trl.kernels.chunked_divergence", trl, gpu_only=False, differs=differs
        ),
    )


def _normal(
    rows: int, width: int, spread: float, *, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    # Drawn in the final dtype: an fp32 copy would raise a measured peak.
    values = torch.empty((rows, width), dtype=dtype, device=generator.device)
    return values.normal_(0.0, spread, generator=generator)


def _head_bytes(case: Case) -> int:
    entries: int = (case.rows + case.vocab) * getattr(torch, case.dtype).itemsize
    forward = entries * (case.student_hidden + case.teacher_hidden)
    return forward if case.mode != BOTH else forward + 2 * entries * case.student_hidden


def _head_flops(case: Case) -> int:
    product = 2 * case.rows * case.vocab
    forward = product * (case.student_hidden + case.teacher_hidden)
    return forward if case.mode != BOTH else forward + 2 * product * case.student_hidden


def _copies(case: Case, tensors: Tensors) -> Tensor:
    """A copy of the logits."""
    made = [tensors[name].detach().clone() for name in ("student", "teacher") if name in tensors]
    return made[0]


def _products(case: Case, tensors: Tensors) -> Tensor:
    """Products of the heads and, in mode forward+backward, of both gradients, in the inputs' dtype."""
    with torch.no_grad():
        hidden, weight = tensors["hidden"].flatten(0, -2), tensors["weight"]
        made = hidden.new_empty((case.rows, case.vocab))
        if case.teacher_hidden:
            torch.mm(tensors["teacher_hidden"].flatten(0, -2), tensors["teacher_weight"].T, out=made)
        torch.mm(hidden, weight.T, out=made)
        if case.mode == BOTH:
            torch.mm(made, weight, out=torch.empty_like(hidden))
            torch.mm(made.T, hidden, out=torch.empty_like(weight))
    return made
