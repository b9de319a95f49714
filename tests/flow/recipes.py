"""Recipes over the tiny checkpoints, and trainers built from them as `distill` builds its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tide.config import Recipe
from tide.methods import METHODS
from tide.pipeline import load_models, model_contracts
from tide.preparation import load_tokenizers, training_data
from tide.training import build_trainer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import TrainerCallback

    from tests.tiny import TinyCheckpoints
    from tide.training import DistillationTrainer


def tiny_values(
    checkpoints: TinyCheckpoints, output_dir: Path, method: str = "none", **training: Any
) -> dict[str, Any]:
    """A recipe's values: the student, the teacher that fits the method, eight rows.

    `training` overrides that section.
    """
    needs = METHODS[method].teacher
    teacher = {"shared": checkpoints.teacher, "any": checkpoints.other_teacher}.get(needs or "")
    return {
        "method": method,
        "student": {"path": str(checkpoints.student)},
        "teacher": teacher and {"path": str(teacher), "contract_values": {"block_size": 8}},
        "data": {"train": str(checkpoints.rows), "max_length": 48},
        "masking": {"block_size": 8},
        "training": {
            "output_dir": str(output_dir),
            "max_steps": 3,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "warmup_ratio": 0.0,
            "lr_scheduler": "constant_with_warmup",
            "logging_steps": 1,
            "save_steps": 1000,
            **training,
        },
    }


def tiny_recipe(
    checkpoints: TinyCheckpoints, output_dir: Path, method: str = "none", **training: Any
) -> Recipe:
    """The same, as a recipe."""
    return Recipe.from_dict(tiny_values(checkpoints, output_dir, method, **training))


def statuses(lines: Sequence[str]) -> list[str]:
    """Lines of a run without those that each has: what it loads, and figures of steps."""
    return [line for line in lines if not line.startswith(("loading ", "step "))]


def trainer_of(recipe: Recipe, callbacks: Sequence[TrainerCallback] = ()) -> DistillationTrainer:
    """A trainer that has not started."""
    tokenizers = load_tokenizers(recipe)
    models = load_models(recipe, model_contracts(recipe, tokenizers))
    return build_trainer(
        recipe,
        training_data(recipe, tokenizers).examples,
        student=models["student"],
        student_tokenizer=tokenizers.student,
        teacher=models.get("teacher"),
        teacher_tokenizer=tokenizers.teacher,
        shared_vocab_size=tokenizers.shared_vocab_size,
        callbacks=callbacks,
    )
