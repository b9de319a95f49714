"""Work of ``benchmarks.cpu_losses``: inputs of every loss, and one step of every side.

A step runs forward and backward; it returns the loss and leaves the gradients on the inputs. `floor` is no
loss: a copy of both logits, or the four products with the heads that no side can leave out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from benchmarks import official_formulas as eager
from tide import losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LOGITS_CASES = ("tidal", "forward_kl", "reverse_kl", "calm")
LINEAR_CASES = ("linear_tidal", "linear_forward_kl", "linear_reverse_kl", "linear_calm")
LOSSES = ("eager", "compile", "tide")  # `compile`: torch.compile of the eager formula
SIDES = (*LOSSES, "floor")
TEMPERATURE = 2.0
# Tokens per chunk of the chunk objectives; the published alignments give one to four.
TOKENS_PER_CHUNK = 2
EVERY_ROW = slice(None)


@dataclass(frozen=True)
class Sizes:
    """N rows, V vocabulary entries, hidden widths of student and teacher, and the dtype's name."""

    rows: int
    vocab: int
    student_width: int
    teacher_width: int
    dtype: str

    @property
    def unit_bytes(self) -> int:
        """One fp32 [N, V] tensor."""
        return self.rows * self.vocab * 4


@dataclass(frozen=True)
class Work:
    """One case built: ``steps[side]()`` runs it, ``parameters`` receive the gradients."""

    steps: dict[str, Callable[[], Tensor]]
    parameters: tuple[Tensor, ...]

    def clear(self) -> None:
        """Drop the gradients, so that the next step writes them afresh."""
        for parameter in self.parameters:
            parameter.grad = None


def build(case: str, sizes: Sizes, seed: int = 0) -> Work:
    """Create a case's inputs and the steps of its sides.

    Args:
        case: one of LOGITS_CASES or LINEAR_CASES.
        sizes: shapes and dtype.
        seed: of the inputs.

    Raises:
        ValueError: unknown case.
    """
    if case not in LOGITS_CASES + LINEAR_CASES:
        raise ValueError(
            f"build: case must be one of {', '.join(LOGITS_CASES + LINEAR_CASES)}; got {case!r}."
        )
    generator = torch.Generator().manual_seed(seed)
    name = case.removeprefix("linear_")
    if case in LOGITS_CASES:
        student, teacher = (_normal((sizes.rows, sizes.vocab), 2.0, sizes, generator) for _ in range(2))
        return _with_steps(name, _Logits(student.requires_grad_(), teacher), sizes, generator)
    # Logits of unit-scale heads have a standard deviation of 2.
    student_hidden = _normal((sizes.rows, sizes.student_width), 1.0, sizes, generator).requires_grad_()
    teacher_hidden = _normal((sizes.rows, sizes.teacher_width), 1.0, sizes, generator)
    student_weight = _normal(
        (sizes.vocab, sizes.student_width), 2.0 * sizes.student_width**-0.5, sizes, generator
    )
    teacher_weight = _normal(
        (sizes.vocab, sizes.teacher_width), 2.0 * sizes.teacher_width**-0.5, sizes, generator
    )
    heads = _Hidden(student_hidden, student_weight.requires_grad_(), teacher_hidden, teacher_weight)
    return _with_steps(name, heads, sizes, generator)


class _Logits:
    """Logits are the inputs."""

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        self.parameters = (student,)
        self.student, self.teacher = student, teacher

    def logits(self, rows: slice = EVERY_ROW) -> tuple[Tensor, Tensor]:
        return self.student[rows], self.teacher[rows]

    def floor(self) -> Tensor:
        return self.student.detach().clone()[0, 0] + self.teacher.clone()[0, 0]

    def divergence(self, name: str, mask: Tensor, **options: Tensor | float) -> Tensor:
        function: Callable[..., Tensor] = getattr(losses, f"{name}_loss")
        return function(self.student, self.teacher, mask, **options)

    def log_probs(self, student_ids: Tensor, teacher_ids: Tensor) -> tuple[Tensor, Tensor]:
        return losses.token_log_probs(self.student, student_ids), losses.token_log_probs(
            self.teacher, teacher_ids
        )


class _Hidden:
    """Hidden states and heads are the inputs; the eager side multiplies them out."""

    def __init__(self, student: Tensor, student_head: Tensor, teacher: Tensor, teacher_head: Tensor) -> None:
        self.parameters = (student, student_head)
        self.student, self.student_head, self.teacher, self.teacher_head = (
            student,
            student_head,
            teacher,
            teacher_head,
        )

    def logits(self, rows: slice = EVERY_ROW) -> tuple[Tensor, Tensor]:
        return self.student[rows] @ self.student_head.T, self.teacher[rows] @ self.teacher_head.T

    def floor(self) -> Tensor:
        student, head = (parameter.detach() for parameter in self.parameters)
        student_logits, teacher_logits = student @ head.T, self.teacher @ self.teacher_head.T
        return teacher_logits[0, 0] + (student_logits @ head)[0, 0] + (student_logits.T @ student)[0, 0]

    def divergence(self, name: str, mask: Tensor, **options: Tensor | float) -> Tensor:
        function: Callable[..., Tensor] = getattr(losses, f"linear_{name}_loss")
        return function(self.student, self.student_head, self.teacher, self.teacher_head, mask, **options)

    def log_probs(self, student_ids: Tensor, teacher_ids: Tensor) -> tuple[Tensor, Tensor]:
        return (
            losses.linear_token_log_probs(self.student, self.student_head, student_ids),
            losses.linear_token_log_probs(self.teacher, self.teacher_head, teacher_ids),
        )


def _with_steps(name: str, inputs: _Logits | _Hidden, sizes: Sizes, generator: torch.Generator) -> Work:
    forward = _calm(inputs, sizes) if name == "calm" else _divergence(name, inputs, sizes, generator)
    forward["compile"] = torch.compile(forward["eager"], dynamic=False)

    def step(side: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            loss = forward[side]()
            loss.backward()
            return loss.detach()

        return run

    return Work({side: step(side) for side in LOSSES} | {"floor": inputs.floor}, inputs.parameters)


def _divergence(
    name: str, inputs: _Logits | _Hidden, sizes: Sizes, generator: torch.Generator
) -> dict[str, Callable[[], Tensor]]:
    mask = torch.ones(sizes.rows, dtype=torch.bool)
    options: dict[str, Tensor | float] = {"temperature": TEMPERATURE}
    if name == "tidal":
        options["lambda_t"] = 0.1 + 0.8 * torch.rand(sizes.rows, generator=generator)
    eager_loss: Callable[..., Tensor] = getattr(eager, f"eager_{name}")
    return {
        "eager": lambda: eager_loss(*inputs.logits(), mask, **options),
        "tide": lambda: inputs.divergence(name, mask, **options),
    }


def _calm(inputs: _Logits | _Hidden, sizes: Sizes) -> dict[str, Callable[[], Tensor]]:
    ids = _likeliest(inputs, sizes.rows)
    chunks = (torch.arange(sizes.rows) // TOKENS_PER_CHUNK)[None]
    num_chunks = int(chunks.max()) + 1
    matrix = chunks[..., None] == torch.arange(num_chunks)
    active = torch.ones(1, num_chunks, dtype=torch.bool)

    def run_eager() -> Tensor:
        student, teacher = inputs.logits()
        return eager.eager_calm(
            student[None], teacher[None], ids[0][None], ids[1][None], matrix, matrix, active, TEMPERATURE
        )

    def run_tide() -> Tensor:
        student, teacher = inputs.log_probs(ids[0], ids[1])
        return losses.calm_loss(student[None], teacher[None], chunks, chunks, active, temperature=TEMPERATURE)

    return {"eager": run_eager, "tide": run_tide}


def _likeliest(inputs: _Logits | _Hidden, num_rows: int, rows_at_once: int = 4) -> tuple[Tensor, Tensor]:
    """The likeliest token of every row on both sides: its chunks stay inside the clamp and have gradients.

    A few rows at a time: hidden-in losses have no [N, V] logits, which would raise the peak.
    """
    with torch.no_grad():
        best = [
            tuple(logits.argmax(-1) for logits in inputs.logits(slice(start, start + rows_at_once)))
            for start in range(0, num_rows, rows_at_once)
        ]
    return torch.cat([student for student, _ in best]), torch.cat([teacher for _, teacher in best])


def _normal(shape: tuple[int, int], scale: float, sizes: Sizes, generator: torch.Generator) -> Tensor:
    # Drawn in the final dtype: an fp32 copy would raise the measured peak.
    values = torch.empty(shape, dtype=getattr(torch, sizes.dtype))
    return values.normal_(0.0, scale, generator=generator)
