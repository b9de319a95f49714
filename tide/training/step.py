"""One distillation step, whole: noised batch -> masked rows of both models -> objective.

batch --Noiser--> noised --hidden_rows--> student, teacher rows --Objective--> loss
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.batch import HiddenRows
from tide.models import hidden_rows, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tide.batch import NoisedBatch, NoisedTokens
    from tide.losses.objective import Objective, ObjectiveOutput


def distillation_step(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    noised: NoisedBatch,
    objective: Objective,
    *,
    block_size: int,
    progress: float,
) -> ObjectiveOutput:
    """Loss and metrics of one noised batch.

    Args:
        student: trained.
        teacher: frozen; None where the objective has none. It sees its own views of the text: under CompDemo
            two complementary ones, across tokenizers one with whole chunks masked.
        noised: on the models' device.
        objective: the sum of terms.
        block_size: tokens per diffusion block.
        progress: share of training done, in [0, 1].
    """
    student_rows = _masked_rows(student, noised.student, block_size)
    teacher_rows = None
    if teacher is not None and noised.teacher is not None:
        with torch.no_grad():
            teacher_rows = _masked_rows(teacher, noised.teacher, block_size)
    return objective(student_rows, teacher_rows, noised, progress)


def _masked_rows(model: PreTrainedModel, tokens: NoisedTokens, block_size: int) -> HiddenRows:
    return HiddenRows(hidden_rows(model, tokens, block_size=block_size), output_head(model))
