"""Gradient accumulation: a step's gradient is the mean of its micro-batches' gradients.

So 2 micro-batches of 4 make the gradient of one batch of 8 with the same noise where the objective is a mean
over sequences (normalizers "sequence" and "batch"), and for "token" where the micro-batches have equally many
tokens in the loss mask; else each micro-batch, and not each token, counts the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.flow.recipes import tiny_recipe, tiny_values, trainer_of
from tests.tiny import write_rows
from tests.training.recording import Recorder, recorded
from tide.batch import NoisedBatch, NoisedTokens
from tide.config import Recipe
from tide.data import TextRow
from tide.models import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from tests.tiny import TinyCheckpoints
    from tide.batch import Batch


def mask_of_content(batch: Batch, generator: torch.Generator) -> NoisedBatch:
    """Noise that is a function of each text alone: every token of the loss mask with an even id, at t = ½."""
    student = batch.student
    masked = student.loss_mask & (student.token_ids % 2 == 0)
    rows = masked.flatten().nonzero().flatten()
    views = student.token_ids.masked_fill(masked, 1)[:, None]
    t = torch.full((len(student.token_ids),), 0.5)
    return NoisedBatch(
        student=NoisedTokens(student.token_ids, student.valid, views, rows, torch.zeros_like(rows)),
        teacher=None,
        t=t,
        diffusion_weight=1 / t,
        loss_mask=student.loss_mask,
        student_chunks=student.chunks,
        teacher_chunks=None,
        chunk_mask=batch.chunk_exists,
    )


def one_step(recipe: Recipe, batch_size: int, accumulate: int, **objective: object) -> Recorder:
    """The record of a single step without clipping."""
    training = {"batch_size": batch_size, "gradient_accumulation_steps": accumulate}
    training |= {"max_steps": 1, "max_grad_norm": 0.0}
    trainer = trainer_of(recipe.replace(training=training, objective=objective))
    trainer.noiser = mask_of_content
    return recorded(trainer)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference over all parameters, in units of the largest entry of `one`."""
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


@pytest.mark.parametrize("method", ["none", "tide_shared", "tide_cross"])
def test_a_steps_gradient_is_the_mean_of_its_micro_batches(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str
) -> None:
    recipe = tiny_recipe(
        tiny_checkpoints,
        tmp_path,
        method,
        max_steps=1,
        batch_size=2,
        gradient_accumulation_steps=3,
        max_grad_norm=0.0,
    )
    trainer = trainer_of(recipe)
    objective = trainer.module.objective
    record = recorded(trainer)
    # The same noise through a module that nothing has trained.
    module = trainer_of(recipe).module
    assert len(record.noised) == 3
    for noised in record.noised:
        (module(noised, module.layouts(noised), 0.0).loss / 3).backward()
    expected = {name: parameter.grad for name, parameter in module.student.named_parameters()}
    assert module.objective == objective
    assert distance(expected, record.gradients[0]) < 1e-6


@pytest.mark.parametrize("normalizer", ["sequence", "batch"])
def test_two_fours_are_one_eight_where_the_loss_is_a_mean_over_sequences(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, normalizer: str
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path)
    whole = one_step(recipe, 8, 1, ce_normalizer=normalizer)
    parts = one_step(recipe, 4, 2, ce_normalizer=normalizer)
    assert (len(whole.noised), len(parts.noised)) == (1, 2)
    assert distance(whole.gradients[0], parts.gradients[0]) < 1e-5


def test_per_token_two_fours_are_one_eight_where_they_have_equally_many_tokens(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    texts = ["import sys, json, os, re, math\n" * 3, "def first(values):\n    return values[0]\n" * 3]
    rows = write_rows(
        tmp_path / "rows.jsonl", [TextRow("", text[start:]) for start in range(4) for text in texts]
    )
    values = tiny_values(tiny_checkpoints, tmp_path / "run")
    values["data"] = {"train": str(rows), "max_length": 16}
    recipe = Recipe.from_dict(values)
    whole, parts = one_step(recipe, 8, 1), one_step(recipe, 4, 2)
    assert [int(noised.loss_mask.sum()) for noised in parts.noised] == [64, 64]
    assert distance(whole.gradients[0], parts.gradients[0]) < 1e-5


def test_per_token_each_micro_batch_counts_the_same(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path)
    whole, parts = one_step(recipe, 8, 1), one_step(recipe, 4, 2)
    counts = [int(noised.loss_mask.sum()) for noised in parts.noised]
    assert counts[0] != counts[1]
    assert distance(whole.gradients[0], parts.gradients[0]) > 1e-2
    # Weighted by their tokens, the micro-batches' gradients are those of the whole batch.
    module = trainer_of(recipe).module
    for noised, count in zip(parts.noised, counts, strict=True):
        (module(noised, module.layouts(noised), 0.0).loss * count / sum(counts)).backward()
    by_token = {name: parameter.grad for name, parameter in module.student.named_parameters()}
    assert distance(whole.gradients[0], by_token) < 1e-5


def test_the_last_short_step_of_an_epoch_is_a_mean_over_what_it_has(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    # Eight rows in batches of three: micro-batches of 3, 3 and 2, two a step.
    recipe = tiny_recipe(
        tiny_checkpoints,
        tmp_path,
        max_steps=2,
        batch_size=3,
        gradient_accumulation_steps=2,
        max_grad_norm=0.0,
        learning_rate=1e-12,  # The weights stay, so both gradients are of the same model.
    )
    record = recorded(trainer_of(recipe))
    assert [len(noised.t) for noised in record.noised] == [3, 3, 2]
    module = trainer_of(recipe).module
    noised = record.noised[2]
    module(noised, module.layouts(noised), 0.5).loss.backward()
    expected = {name: parameter.grad for name, parameter in module.student.named_parameters()}
    assert distance(expected, record.gradients[1]) < 1e-5


def test_gradient_checkpointing_changes_nothing(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    plain, checkpointed = (
        recorded(
            trainer_of(
                tiny_recipe(tiny_checkpoints, tmp_path, "kl", max_steps=1, gradient_checkpointing=flag)
            )
        )
        for flag in (False, True)
    )
    assert distance(plain.gradients[0], checkpointed.gradients[0]) < 1e-6


def test_gradients_are_clipped_to_the_recipes_norm(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    record = recorded(trainer_of(tiny_recipe(tiny_checkpoints, tmp_path, max_steps=1, max_grad_norm=0.25)))
    norm = torch.stack([gradient.square().sum() for gradient in record.gradients[0].values()]).sum().sqrt()
    assert float(norm) == pytest.approx(0.25, rel=1e-4)


def test_loaded_students_start_alike(tiny_checkpoints: TinyCheckpoints) -> None:
    """What the comparisons above stand on."""
    one, other = (load_model(str(tiny_checkpoints.student), trainable=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
