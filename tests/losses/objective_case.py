"""A noised batch with the rows of both models, and every method's objective from its definition in fp64.

Legend: B sequences, L tokens, N masked rows, C chunks, V vocabulary entries.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tide.batch import Head, HiddenRows, NoisedBatch, NoisedTokens
from tide.config import ObjectiveConfig
from tide.losses.objective import Objective
from tide.methods import METHODS
from tide_kernels.divergence.reference import cross_entropy, interpolated_kl_reference, reverse_kl_reference

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

V, TEACHER_V, STUDENT_D, TEACHER_D = 13, 17, 6, 8
MASK_ID = 1
TEMPERATURE, CHUNK_TEMPERATURE, PROGRESS = 2.0, 3.0, 0.25
TIMES = (0.3, 0.8)
# Two sequences of six student and seven teacher tokens. The first begins with prompt; the student's second is
# masked from its first token on and ends in padding.
# Chunk 1 is never whole: all of it is seen in the first sequence, and one token of it in the second.
STUDENT_MASKED = [[0, 1, 1, 0, 1, 1], [1, 1, 0, 1, 1, 0]]
STUDENT_MASKABLE = [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]
STUDENT_CHUNKS = [[-1, 0, 0, 1, 2, 2], [-1, 0, 1, 1, 2, -1]]
TEACHER_MASKED = [[0, 1, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]]
TEACHER_CHUNKS = [[-1, 0, 1, 1, 2, 2, 2], [-1, 0, 0, 1, 1, 2, 2]]
ACTIVE_CHUNKS = [[1, 0, 1], [1, 0, 1]]

SHARED = [name for name, method in METHODS.items() if method.teacher == "shared"]
CHUNKED = [name for name, method in METHODS.items() if method.teacher == "any"]
CALM = ["calm", "tide_cross"]


def noised_tokens(token_ids: Tensor, masked: Tensor) -> NoisedTokens:
    rows = masked.flatten().nonzero().flatten()
    views = token_ids.masked_fill(masked, MASK_ID)[:, None]
    return NoisedTokens(
        token_ids, torch.ones_like(token_ids, dtype=torch.bool), views, rows, torch.zeros_like(rows)
    )


def bools(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def batch(*, across: bool, empty: bool = False) -> NoisedBatch:
    """`across`: the teacher has another tokenization; `empty`: nothing is masked."""
    student_masked = bools(STUDENT_MASKED) & (not empty)
    student_ids = torch.randint(2, V, student_masked.shape)
    teacher_masked = bools(TEACHER_MASKED) & (not empty) if across else student_masked
    teacher_ids = torch.randint(2, TEACHER_V, teacher_masked.shape) if across else student_ids
    chunks = torch.tensor(STUDENT_CHUNKS) if across else torch.full_like(student_ids, -1)
    t = torch.tensor(TIMES)
    return NoisedBatch(
        student=noised_tokens(student_ids, student_masked),
        teacher=noised_tokens(teacher_ids, teacher_masked),
        t=t,
        diffusion_weight=1 / t,
        loss_mask=bools(STUDENT_MASKABLE),
        student_chunks=chunks,
        teacher_chunks=torch.tensor(TEACHER_CHUNKS) if across else chunks,
        chunk_mask=(bools(ACTIVE_CHUNKS) & (not empty)) if across else torch.zeros(2, 0, dtype=torch.bool),
    )


def masked_rows(
    tokens: NoisedTokens, vocab_size: int, width: int, *, trained: bool, **options: float
) -> HiddenRows:
    # Heads this small keep chunk probabilities away from 0 and 1.
    hidden, *head = (
        torch.randn(len(tokens.rows), width),
        torch.randn(vocab_size, width) / 3,
        torch.randn(vocab_size) / 3,
    )
    head = Head(*(x.requires_grad_(trained) for x in head), **options)
    return HiddenRows(hidden.requires_grad_(trained), head)


def trained_tensors(rows: HiddenRows) -> tuple[Tensor, Tensor, Tensor]:
    return rows.hidden, rows.head.weight, rows.head.bias


def _widened(rows: HiddenRows, *, trained: bool) -> HiddenRows:
    """The same rows and head in fp64."""
    hidden, weight, bias = (x.detach().double().requires_grad_(trained) for x in trained_tensors(rows))
    return HiddenRows(hidden, rows.head._replace(weight=weight, bias=bias))


class Case:
    """One batch with the rows of both models, and what the loss should be, in fp64."""

    def __init__(
        self, method: str, *, empty: bool = False, teacher_vocab: int | None = None, **head: float
    ) -> None:
        across = METHODS[method].teacher == "any"
        self.method = method
        self.noised = batch(across=across, empty=empty)
        teacher_vocab = teacher_vocab or (TEACHER_V if across else V)
        self.student = masked_rows(self.noised.student, V, STUDENT_D, trained=True, **head)
        self.teacher = masked_rows(self.noised.teacher, teacher_vocab, TEACHER_D, trained=False, **head)
        self.wide = _widened(self.student, trained=True)
        self.sequence = self.noised.student.rows // self.noised.loss_mask.shape[1]
        self.distilled: Tensor | None = None  # None: every row

    def objective(self, *, shared_vocab_size: int | None = None, **settings: object) -> Objective:
        settings = {"temperature": TEMPERATURE, "chunk_temperature": CHUNK_TEMPERATURE} | settings
        return Objective(
            METHODS[self.method], ObjectiveConfig(**settings), shared_vocab_size=shared_vocab_size
        )

    def logits(self, side: str, width: int | None = None) -> Float[Tensor, "N V"]:
        rows = self.wide if side == "student" else _widened(self.teacher, trained=False)
        head = rows.head
        logits = head.logit_scale * (rows.hidden @ head.weight.T + head.bias)
        return (logits if head.softcap is None else head.softcap * (logits / head.softcap).tanh())[:, :width]

    def cross_entropy(self) -> Float[Tensor, " N"]:
        return cross_entropy(self.logits("student"), self.noised.student.labels)

    def weighted_cross_entropy(
        self, normalizer: str = "token", width: int | None = None
    ) -> Float[Tensor, ""]:
        maskable = bools(STUDENT_MASKABLE)
        total = torch.zeros((), dtype=torch.float64)
        for row, ce in enumerate(self.cross_entropy()):
            sequence = int(self.sequence[row])
            count = {
                "token": int(maskable.sum()),
                "sequence": 2 * int(maskable[sequence].sum()),
                "batch": 2,
            }[normalizer]
            total = total + ce / TIMES[sequence] / count
        return total

    def distillation(self, width: int | None = None) -> Float[Tensor, ""]:
        """The method's distillation term, with every factor but `distill_weight`."""
        midrange = [math.exp(-((t - 0.5) ** 2) / (2 * 0.15**2)) for t in TIMES]
        by_sequence = midrange if METHODS[self.method].timestep_weight == "midrange" else [1.0, 1.0]
        weight = torch.tensor(by_sequence, dtype=torch.float64)
        if self.method in CHUNKED:
            active = self.noised.chunk_mask.nonzero()
            values = torch.stack([*self.chunk_values(), torch.zeros((), dtype=torch.float64)])[: len(active)]
            return (values * weight[active[:, 0]]).sum() / max(len(active), 1)
        kl, sequence = self.kl(width), self.sequence
        if self.distilled is not None:
            kl, sequence = kl[self.distilled], sequence[self.distilled]
        return TEMPERATURE**2 * (kl * weight[sequence]).sum() / max(len(kl), 1)

    def lambda_t(self) -> list[float]:
        """By sequence: λ_train(p) = 0.1 + 0.8 (1 − cos πp) / 2, times 1 − t but for TAID."""
        trained = 0.1 + 0.8 * (1 - math.cos(math.pi * PROGRESS)) / 2
        return [trained * (1.0 if self.method == "taid" else 1 - t) for t in TIMES]

    def kl(self, width: int | None = None) -> Float[Tensor, " N"]:
        student, teacher = self.logits("student", width), self.logits("teacher", width)
        if self.method == "reverse_kl":
            return reverse_kl_reference(student, teacher, TEMPERATURE)[0]
        by_sequence = [1.0, 1.0] if self.method == "kl" else self.lambda_t()
        lambda_t = torch.tensor(by_sequence, dtype=torch.float64)[self.sequence]
        return interpolated_kl_reference(student, teacher, lambda_t, TEMPERATURE)[0]

    def chunk_values(self, eps: float = 1e-7, divergence: str = "bce") -> list[Tensor]:
        """The divergence of every active chunk, one chunk at a time."""
        noised = self.noised
        student_log_p = -self.cross_entropy()
        teacher_log_p = -cross_entropy(self.logits("teacher"), noised.teacher.labels)
        values = []
        for sequence, chunk in noised.chunk_mask.nonzero().tolist():
            p_s, p_t = (
                (log_p[(chunks.flatten()[rows] == chunk) & (rows // chunks.shape[1] == sequence)].sum())
                .div(CHUNK_TEMPERATURE)
                .exp()
                .clamp(eps, 1 - eps)
                for log_p, chunks, rows in (
                    (student_log_p, noised.student_chunks, noised.student.rows),
                    (teacher_log_p, noised.teacher_chunks, noised.teacher.rows),
                )
            )
            if self.method == "tide_shared_chunks":
                share = self.lambda_t()[sequence]
                target = ((1 - share) * p_s + share * p_t).detach()
                values.append(-(target * p_s.log() + (1 - target) * (1 - p_s).log()))
                continue
            if self.method == "calm":
                value = -(p_t * p_s.log() + (1 - p_t) * (1 - p_s).log())
                entropy = -(p_t * p_t.log() + (1 - p_t) * (1 - p_t).log())
            else:
                value = -(p_s * p_t.log() + (1 - p_s) * (1 - p_t).log())
                entropy = -(p_s * p_s.log() + (1 - p_s) * (1 - p_s).log())
            values.append(value - entropy if divergence == "kl" else value)
        return values


def check(case: Case, loss: Tensor, expected: Tensor) -> None:
    """Loss and the gradients of the student's hidden rows and head."""
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-6)
    assert loss.dtype == torch.float32 and loss.shape == ()
    actual = torch.autograd.grad(loss, trained_tensors(case.student))
    wanted = torch.autograd.grad(expected, trained_tensors(case.wide))
    for name, gradient, truth in zip(("hidden", "weight", "bias"), actual, wanted, strict=True):
        worst = float((gradient.double() - truth).abs().max() / truth.abs().max())
        assert worst < 5e-6, f"gradient of {name}: {worst:.1e} of its largest entry"
