"""One distillation step: noised batch -> layouts -> masked rows of both models -> objective."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.batch import HiddenRows
from tide.layouts import block_diffusion_layout
from tide.models import output_head, run

if TYPE_CHECKING:
    from tide.batch import NoisedBatch, NoisedTokens
    from tide.losses.objective import Objective, ObjectiveOutput
    from tide.models import DiffusionModel


def distillation_step(
    student: DiffusionModel,
    teacher: DiffusionModel | None,
    noised: NoisedBatch,
    objective: Objective,
    progress: float,
) -> ObjectiveOutput:
    """Compute the loss and metrics of one noised batch.

    Args:
        student: trained.
        teacher: frozen; None without distillation. It reads its own views of the text: two complementary ones
            under CompDemo, one with whole chunks masked across tokenizers.
        noised: on the models' device.
        objective: cross-entropy and a distillation term.
        progress: share of training done, in [0, 1].
    """
    student_rows = _masked_rows(student, noised.student)
    teacher_rows = None
    if teacher is not None and noised.teacher is not None:
        with torch.no_grad():
            teacher_rows = _masked_rows(teacher, noised.teacher)
    return objective(student_rows, teacher_rows, noised, progress)


def _masked_rows(model: DiffusionModel, tokens: NoisedTokens) -> HiddenRows:
    hidden = run(model.network, block_diffusion_layout(tokens, model.contract))
    return HiddenRows(hidden, output_head(model.network))
