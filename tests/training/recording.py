"""What a trainer drew, was given and was about to apply, kept for comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tide.batch import Batch, NoisedBatch
    from tide.losses.objective import ObjectiveOutput
    from tide.training import DistillationTrainer


class Recorder(TrainerCallback):
    """Records a trainer's noise, objective and gradients, in the order of its micro-steps and steps.

    Attributes:
        batches, noised, outputs: by micro-step.
        gradients: by step, after accumulation and before clipping; by name of the student's parameter.
    """

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.batches: list[Batch] = []
        self.noised: list[NoisedBatch] = []
        self.outputs: list[ObjectiveOutput] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.student = trainer.module.student
        noiser, objective = trainer.noiser, trainer.module.objective

        def noise(batch: Batch, generator: torch.Generator) -> NoisedBatch:
            self.batches.append(batch)
            self.noised.append(noiser(batch, generator))
            return self.noised[-1]

        def evaluate(*arguments: Any) -> ObjectiveOutput:
            self.outputs.append(objective(*arguments))
            return self.outputs[-1]

        trainer.noiser, trainer.module.objective = noise, evaluate
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, *arguments: object, **kwargs: object) -> None:
        """Called by the trainer."""
        self.gradients.append(
            {name: parameter.grad.clone() for name, parameter in self.student.named_parameters()}
        )

    @property
    def times(self) -> list[list[float]]:
        """Diffusion times of every micro-step: the first thing that noise draws."""
        return [noised.t.tolist() for noised in self.noised]


def recorded(trainer: DistillationTrainer, **arguments: Any) -> Recorder:
    """Trains to the end."""
    recorder = Recorder(trainer)
    trainer.train(**arguments)
    return recorder
