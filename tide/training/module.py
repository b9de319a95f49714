"""What data-parallel wrappers wrap: a module whose forward is the whole step, loss included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from tide.training.step import distillation_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tide.batch import NoisedBatch
    from tide.losses.objective import Objective, ObjectiveOutput


class DistillationModule(nn.Module):
    """A student with what teaches it. Only the student is a submodule: the teacher is neither trained, saved
    nor wrapped.

    Args:
        student: the model to train.
        teacher: frozen, or None.
        objective: the sum of terms.
        block_size: tokens per diffusion block.
    Raises:
        ValueError: a parameter of the teacher requires a gradient.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None,
        objective: Objective,
        *,
        block_size: int,
    ) -> None:
        super().__init__()
        if teacher is not None and any(parameter.requires_grad for parameter in teacher.parameters()):
            raise ValueError(
                "DistillationModule: the teacher would train: some of its parameters require gradients. "
                "Freeze it with teacher.requires_grad_(False), and teacher.eval()."
            )
        self.student = student
        self._teacher = (teacher,)  # In a tuple, so that nn.Module does not register it.
        self.objective = objective
        self.block_size = block_size

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The frozen teacher."""
        return self._teacher[0]

    def forward(self, noised: NoisedBatch, progress: float) -> ObjectiveOutput:
        """Loss and metrics of one noised batch; `progress` is the share of training done."""
        return distillation_step(
            self.student, self.teacher, noised, self.objective, block_size=self.block_size, progress=progress
        )
