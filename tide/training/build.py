"""Recipe -> trainer: the parts of a run, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide.data import Collator
from tide.losses.objective import Objective
from tide.masking import Noiser
from tide.methods import METHODS
from tide.training.arguments import training_arguments
from tide.training.hf_trainer import DistillationTrainer
from tide.training.step import DistillationModule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerFast, TrainerCallback

    from tide.batch import Example
    from tide.config import Recipe
    from tide.data import ShardedExamples
    from tide.models import DiffusionModel


def build_trainer(
    recipe: Recipe,
    examples: Sequence[Example] | ShardedExamples,
    *,
    student: DiffusionModel,
    student_tokenizer: PreTrainedTokenizerFast,
    teacher: DiffusionModel | None,
    teacher_tokenizer: PreTrainedTokenizerFast | None,
    shared_vocab_size: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> DistillationTrainer:
    """Everything but the loop itself.

    Args:
        recipe: checked.
        examples: prepared for this recipe's tokenizers and lengths.
        student, teacher: loaded; the teacher frozen.
        shared_vocab_size: width of the common vocabulary, where the heads differ.
        callbacks: the Trainer's.
    """
    if recipe.training.gradient_checkpointing:
        student.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    objective = Objective(METHODS[recipe.method], recipe.objective, shared_vocab_size=shared_vocab_size)
    return DistillationTrainer(
        DistillationModule(student, teacher, objective),
        noiser=Noiser(
            recipe.masking,
            METHODS[recipe.method],
            student_mask_id=student.contract.mask_id,
            teacher_mask_id=None if teacher is None else teacher.contract.mask_id,
        ),
        collator=Collator(
            student_pad_id=_pad_id(student_tokenizer),
            teacher_pad_id=None if teacher_tokenizer is None else _pad_id(teacher_tokenizer),
            pad_to_multiple_of=student.contract.block_size,
        ),
        args=training_arguments(recipe),
        train_dataset=examples,
        processing_class=student_tokenizer,
        callbacks=list(callbacks),
    )


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    # Nothing reads padding, so any id of the vocabulary serves.
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
