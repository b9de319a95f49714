"""A run may go on past its end where that changes nothing before it, and evaluates as it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from tests.flow.recipes import tiny_recipe, tiny_values
from tests.tiny import ROWS, write_rows
from tide import distill
from tide.config import Recipe
from tide.training import DistillationTrainer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints

CONSTANT = {"lr_scheduler": "constant_with_warmup", "warmup_steps": 2, "warmup_ratio": 0.1, "batch_size": 2}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_an_extended_run_is_one_that_was_longer_from_the_start(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    long = tiny_recipe(tiny_checkpoints, tmp_path / "long", "tide_cross", max_steps=6, **CONSTANT)
    short = tiny_recipe(tiny_checkpoints, tmp_path / "run", "tide_cross", max_steps=4, **CONSTANT)
    distill(long)
    distill(short)
    result = distill(short.replace(training={"max_steps": 6}), resume=True)
    assert (result.steps, result.already_finished) == (6, False)
    expected, extended = weights(tmp_path / "long"), weights(tmp_path / "run")
    assert all(torch.equal(expected[name], extended[name]) for name in expected)
    assert distill(short.replace(training={"max_steps": 6}), resume=True).already_finished


@pytest.mark.parametrize(
    ("method", "training", "reason"),
    [
        ("kl", {"lr_scheduler": "cosine"}, "the learning rate of 'cosine'"),
        ("kl", {"warmup_steps": None}, "the warm-up of warmup_ratio"),
        ("tidal", {}, "lambda"),
    ],
)
def test_a_run_whose_steps_depend_on_their_number_is_not_extended(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str, training: dict, reason: str
) -> None:
    recipe = tiny_recipe(
        tiny_checkpoints, tmp_path / "run", method, **{"max_steps": 1, **CONSTANT, **training}
    )
    distill(recipe)
    longer = recipe.replace(training={"max_steps": 2})
    with pytest.raises(
        ValueError, match=rf"at training.max_steps \(in every step, {reason} depends on max_steps\)"
    ):
        distill(longer, resume=True)


def test_an_extension_that_fails_loses_nothing(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", max_steps=2, **CONSTANT)
    distill(recipe)
    before = (tmp_path / "run" / "summary.json").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(DistillationTrainer, "compute_loss", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            distill(recipe.replace(training={"max_steps": 4}), resume=True)
    assert distill(recipe, resume=True).already_finished
    assert (tmp_path / "run" / "summary.json").read_text() == before


def test_a_run_whose_checkpoints_are_all_damaged_is_left_alone(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", max_steps=2, save_steps=1, **CONSTANT)
    distill(recipe)
    for manifest in (tmp_path / "run").glob("checkpoint-*/manifest.json"):
        manifest.unlink()
    (tmp_path / "run" / "summary.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ValueError, match=r"^distill: every checkpoint in .* is damaged, or has no manifest"):
        distill(recipe, resume=True)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert {path for path in before if path.is_file()} == {path for path in after if path.is_file()}
    assert all(before[path] == after[path] for path in before if path.is_file())


def test_evaluating_as_it_goes_changes_no_step(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    values = tiny_values(tiny_checkpoints, tmp_path / "run", max_steps=4)
    plain = distill(Recipe.from_dict(values))
    values["training"] |= {"output_dir": str(tmp_path / "evaluated"), "eval_steps": 2}
    with pytest.raises(ValueError, match=r"training\.eval_steps: .*data\.held_out"):
        Recipe.from_dict(values)
    values["data"]["held_out"] = str(write_rows(tmp_path / "held_out.jsonl", ROWS[:3]))
    lines: list[str] = []
    result = distill(Recipe.from_dict(values), log=lines.append)
    found = [entry["eval_bound"] for entry in result.log_history if "eval_bound" in entry]
    assert len(found) == 2 and found[1] == result.held_out.bound.nats_per_byte != found[0]
    assert len([line for line in lines if "eval_bound" in line]) == 2
    assert [e["loss"] for e in plain.log_history if "loss" in e] == [
        e["loss"] for e in result.log_history if "loss" in e
    ]
    expected, evaluated = weights(tmp_path / "run"), weights(tmp_path / "evaluated")
    assert all(torch.equal(expected[name], evaluated[name]) for name in expected)
