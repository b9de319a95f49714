"""Recipe -> trainer: the parts of a run, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide.data import Collator
from tide.losses.objective import Objective, method_named
from tide.masking import Noiser
from tide.methods import METHODS
from tide.training.arguments import training_arguments
from tide.training.hf_trainer import DistillationTrainer
from tide.training.module import DistillationModule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

    from tide.batch import Example
    from tide.config import Recipe
    from tide.data import ShardedExamples


def build_objective(recipe: Recipe, *, shared_vocab_size: int | None) -> Objective:
    """The recipe's method with its settings."""
    settings = recipe.objective
    return Objective(
        method=method_named(
            recipe.method, lambda_axis=settings.lambda_axis, timestep_weight=settings.timestep_weight
        ),
        temperature=settings.temperature,
        chunk_temperature=settings.chunk_temperature,
        ce_weight=settings.ce_weight,
        distill_weight=settings.distill_weight,
        lambda_init=settings.lambda_init,
        lambda_max=settings.lambda_max,
        lambda_decay=settings.lambda_decay,
        chunk_eps=settings.chunk_eps,
        chunk_divergence=settings.chunk_divergence,
        ce_normalizer=settings.ce_normalizer,
        shared_vocab_size=shared_vocab_size,
    )


def build_noiser(recipe: Recipe, *, student_mask_id: int, teacher_mask_id: int | None) -> Noiser:
    """Noise of the student, and of the teacher as the method wants it shown."""
    return Noiser(
        student_mask_id=student_mask_id,
        teacher_mask_id=teacher_mask_id,
        time_epsilon=recipe.masking.time_epsilon,
        student_masking=recipe.masking.student_masking,
        across_tokenizers=METHODS[recipe.method].across_tokenizers,
        comp_demo=METHODS[recipe.method].comp_demo,
        demo_ratio=recipe.masking.demo_ratio,
    )


def build_trainer(
    recipe: Recipe,
    examples: Sequence[Example] | ShardedExamples,
    *,
    student: PreTrainedModel,
    student_tokenizer: PreTrainedTokenizerFast,
    teacher: PreTrainedModel | None,
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
        student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    objective = build_objective(recipe, shared_vocab_size=shared_vocab_size)
    module = DistillationModule(student, teacher, objective, block_size=recipe.masking.block_size)
    teacher_mask_id = None if teacher_tokenizer is None else teacher_tokenizer.mask_token_id
    return DistillationTrainer(
        module,
        noiser=build_noiser(
            recipe, student_mask_id=student_tokenizer.mask_token_id, teacher_mask_id=teacher_mask_id
        ),
        collator=Collator(
            student_pad_id=_pad_id(student_tokenizer),
            teacher_pad_id=None if teacher_tokenizer is None else _pad_id(teacher_tokenizer),
            pad_to_multiple_of=recipe.masking.block_size,
        ),
        args=training_arguments(recipe),
        train_dataset=examples,
        processing_class=student_tokenizer,
        callbacks=list(callbacks),
    )


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    # Nothing reads padding, so any id of the vocabulary serves.
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
