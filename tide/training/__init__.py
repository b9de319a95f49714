"""Training: the distillation step, the module and the Trainer around it, and their assembly from a recipe."""

from tide.training.build import build_trainer
from tide.training.hf_trainer import DistillationTrainer
from tide.training.step import DistillationModule, distillation_step

__all__ = ["DistillationModule", "DistillationTrainer", "build_trainer", "distillation_step"]
