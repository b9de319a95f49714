"""The module that data-parallel wrappers wrap: its forward is the whole step, loss included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from tide.models import DiffusionModel
from tide.training.step import distillation_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tide.batch import NoisedBatch
    from tide.losses.objective import Objective, ObjectiveOutput


class DistillationModule(nn.Module):
    """A student with its teacher. Only the student's network is a submodule: trained, saved and wrapped.

    Args:
        student: the model to train.
        teacher: frozen, or None.
        objective: cross-entropy and a distillation term.
    Raises:
        ValueError: a parameter of the teacher requires a gradient.
    """

    def __init__(self, student: DiffusionModel, teacher: DiffusionModel | None, objective: Objective) -> None:
        super().__init__()
        if teacher is not None and any(p.requires_grad for p in teacher.network.parameters()):
            raise ValueError(
                "DistillationModule: parameters of the teacher require gradients, so it would train. "
                "Freeze it: teacher.network.requires_grad_(False).eval()."
            )
        self.student: PreTrainedModel = student.network
        self.contract = student.contract
        self._teacher = teacher  # not an nn.Module, so its network is no submodule
        self.objective = objective

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The frozen teacher's network."""
        return None if self._teacher is None else self._teacher.network

    def forward(self, noised: NoisedBatch, progress: float) -> ObjectiveOutput:
        """Loss and metrics of one noised batch; `progress` is the share of training done."""
        student = DiffusionModel(self.student, self.contract)
        return distillation_step(student, self._teacher, noised, self.objective, progress)
