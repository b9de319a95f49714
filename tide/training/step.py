"""One distillation step: noised batch, laid out -> masked rows of both models -> objective.

`DistillationModule` is the step as the module that data-parallel wrappers wrap, loss included.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from tide.batch import HiddenRows
from tide.layouts import batch_layouts
from tide.models import DiffusionModel, output_head, run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tide.batch import Layout, Layouts, NoisedBatch
    from tide.losses.objective import Objective, ObjectiveOutput


def distillation_step(
    student: DiffusionModel,
    teacher: DiffusionModel | None,
    noised: NoisedBatch,
    layouts: Layouts,
    objective: Objective,
    progress: float,
) -> ObjectiveOutput:
    """Compute the loss and metrics of one noised batch.

    Args:
        student: trained.
        teacher: frozen; None without distillation. It reads its own views of the text: two complementary ones
            under CompDemo, one with whole chunks masked across tokenizers.
        noised: on the models' device.
        layouts: of `noised`, by the models' contracts (`tide.layouts.batch_layouts`); on their device.
        objective: cross-entropy and a distillation term.
        progress: share of training done, in [0, 1].
    """
    student_rows = _hidden_rows(student, layouts.student)
    teacher_rows = None
    if teacher is not None and layouts.teacher is not None:
        with torch.no_grad():
            teacher_rows = _hidden_rows(teacher, layouts.teacher).on_device(student_rows.hidden.device)
    return objective(student_rows, teacher_rows, noised, progress)


def _hidden_rows(model: DiffusionModel, layout: Layout) -> HiddenRows:
    # A teacher may have a device of its own.
    hidden = run(model.network, layout.on_device(model.network.device))
    return HiddenRows(hidden, output_head(model.network) if model.head is None else model.head)


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

    def place_teacher(self, device: torch.device) -> None:
        """Move the teacher to the losses' device; of one that transformers placed, copy the head there."""
        if self._teacher is not None:
            network = self._teacher.network
            if getattr(network, "hf_device_map", None) is None:
                network.to(device)
            self._teacher = replace(self._teacher, head=output_head(network).on_device(device))

    def layouts(self, noised: NoisedBatch) -> Layouts:
        """What both models read of a noised batch on the host."""
        teacher = None if self._teacher is None else self._teacher.contract
        return batch_layouts(noised, self.contract, teacher)

    def forward(self, noised: NoisedBatch, layouts: Layouts, progress: float) -> ObjectiveOutput:
        """Loss and metrics of one noised batch; `progress` is the share of training done."""
        student = DiffusionModel(self.student, self.contract)
        return distillation_step(student, self._teacher, noised, layouts, self.objective, progress)
