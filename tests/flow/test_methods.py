"""Every method, from a recipe's text to a student on disk."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from tests.flow.recipes import tiny_recipe, trainer_of
from tide import distill, load_recipe
from tide.methods import METHODS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints
    from tide import DistillResult, Recipe
    from tide.batch import NoisedBatch
    from tide.training import DistillationTrainer

TERMS = {
    "none": set(),
    "kl": {"forward_kl"},
    "reverse_kl": {"reverse_kl"},
    "taid": {"tidal", "lambda"},
    "tidal": {"tidal", "lambda"},
    "tide_shared": {"tidal", "lambda"},
    "calm": {"calm", "active_chunks"},
    "tide_cross": {"reverse_calm", "active_chunks"},
    "tide_shared_chunks": {"tidal_chunks", "lambda", "active_chunks"},
}


@pytest.fixture(scope="module")
def runs(
    tiny_checkpoints: TinyCheckpoints, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Recipe, DistillResult, dict[str, torch.Tensor]]]:
    """Of every method: the recipe, three steps by it, and the student's weights."""
    runs = {}
    for method in METHODS:
        folder = tmp_path_factory.mktemp(method)
        file = folder / "recipe.yaml"
        file.write_text(tiny_recipe(tiny_checkpoints, folder / "run", method).to_yaml())
        recipe = load_recipe(file)
        runs[method] = (recipe, distill(recipe), load_file(folder / "run" / "model.safetensors"))
    return runs


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_trains_its_student(tiny_checkpoints: TinyCheckpoints, runs, method: str) -> None:
    recipe, result, end = runs[method]
    folder = result.output_dir
    assert (result.finished, result.steps, str(folder)) == (True, 3, recipe.training.output_dir)
    assert result.seconds > 0 and result.peak_memory_mib > 100

    logs = [entry for entry in result.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [1, 2, 3]
    for entry in logs:
        assert TERMS[method] | {"cross_entropy", "tokens_per_second"} <= entry.keys()
        assert all(math.isfinite(value) for value in entry.values())

    start = load_file(tiny_checkpoints.student / "model.safetensors")
    assert end.keys() == start.keys()
    assert all(not torch.equal(end[name], start[name]) for name in start)

    assert load_recipe(folder / "recipe.yaml") == recipe
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["method"], summary["steps"]) == (method, 3)
    assert summary["log_history"] == result.log_history
    assert not list(folder.glob("*.new"))


def test_every_method_ends_at_other_weights(runs) -> None:
    """With equal data and noise."""
    for name in runs["none"][2]:
        ends = {tuple(end[name].flatten().tolist()) for _, _, end in runs.values()}
        assert len(ends) == len(METHODS), name


def test_the_student_overfits_eight_rows(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path, max_steps=40, batch_size=8, learning_rate=5e-3)
    logs = [entry for entry in distill(recipe).log_history if "loss" in entry]
    by_step = [entry["cross_entropy"] for entry in logs]
    assert len(by_step) == 40
    first, last = sum(by_step[:5]) / 5, sum(by_step[-5:]) / 5
    assert first > 4.5  # Near log 300 = 5.7.
    assert last < first - 2.0


def fixed_noise(trainer: DistillationTrainer) -> NoisedBatch:
    """All rows at t = ½, always the same."""
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])["batch"]
    return trainer.noiser(batch, torch.Generator().manual_seed(99), torch.full((8,), 0.5))


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[] if name in ("tide_shared", "tide_cross") else pytest.mark.slow)
        for name in METHODS
        if name != "none"
    ],
)
def test_a_term_alone_brings_the_student_to_its_teacher(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path, method, max_steps=30, batch_size=8, learning_rate=5e-3)
    recipe = recipe.replace(objective={"ce_weight": 0.0, "chunk_divergence": "kl"})
    trainer = trainer_of(recipe)
    noised = fixed_noise(trainer)
    layouts = trainer.module.layouts(noised)
    trained = trainer.module.objective
    # TIDAL on chunks keeps the entropy of its target, which is the student's own in part.
    measured = replace(trained, method=METHODS["calm" if method == "tide_shared_chunks" else method])

    def divergence() -> float:
        trainer.module.objective = measured
        loss = float(trainer.module(noised, layouts, 1.0).loss.detach())
        trainer.module.objective = trained
        return loss

    before = divergence()
    trainer.train()
    assert 0 < divergence() < 0.8 * before
