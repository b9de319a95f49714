"""Training: the distillation step, the module and the Trainer around it, and their assembly from a recipe.

The step needs torch and transformers alone; the names of the Trainer load more when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tide.training.step import DistillationModule, distillation_step

if TYPE_CHECKING:
    from tide.training.build import build_trainer
    from tide.training.hf_trainer import DistillationTrainer

__all__ = ["DistillationModule", "DistillationTrainer", "build_trainer", "distillation_step"]

_HOMES = {"DistillationTrainer": "tide.training.hf_trainer", "build_trainer": "tide.training.build"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
