"""Keys that pass through to TrainingArguments, and the length of training."""

from __future__ import annotations

from dataclasses import fields

import pytest
from transformers import TrainingArguments

from tide.config import TrainingConfig
from tide.config.aliases import REFUSED
from tide.training.build import OTHER_MEANING, RENAMED


def test_a_key_is_an_argument_of_transformers_or_has_another_meaning():
    arguments = {argument.name for argument in fields(TrainingArguments)}
    own = {RENAMED.get(name, name) for name in TrainingConfig.model_fields} - OTHER_MEANING
    refused = {name.removeprefix("training.") for name in REFUSED}
    assert own <= arguments and refused <= arguments
    assert not refused & own


def test_a_key_is_passed_on_and_others_are_left_to_transformers(load, minimal):
    recipe = load(f"{minimal}  adam_beta2: 0.95\n  lr_scheduler_kwargs: {{min_lr: 0.1}}\n")
    assert recipe.training.adam_beta2 == 0.95 and recipe.training.optim is None
    written = recipe.to_dict()["training"]
    assert written["adam_beta2"] == 0.95 and "optim" not in written
    assert load(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("  adam_beta_2: 0.9", "training.adam_beta_2", "nearest known key: training.adam_beta2"),
        ("  adam_beta2: x", "training.adam_beta2", "at least 0 and at most 1"),
        ("  save_strategy: best", "training.save_strategy", "one of steps, epoch, no"),
        ("  eval_strategy: steps", "training.eval_strategy", "training.eval_steps"),
        ("  fp16: true", "training.fp16", "set training.precision"),
        ("  hub_token: x", "training.hub_token", "HF_TOKEN"),
        ("  num_train_epochs: 3", "training.max_steps", "both 100 and training.num_train_epochs 3"),
        ("  num_train_epochs: 0", "training.num_train_epochs", "above 0"),
    ],
)
def test_a_wrong_argument_is_named(problem, minimal, line, key, words):
    found = problem(f"{minimal}{line}\n")
    assert found.key == key and words in found.message


def test_epochs_take_the_place_of_steps(load, problem, minimal):
    recipe = load(minimal, ["training.max_steps=null", "training.epochs=2"])
    assert (recipe.training.max_steps, recipe.training.num_train_epochs) == (None, 2.0)
    assert load(recipe.to_yaml()) == recipe
    found = problem(minimal.replace("  max_steps: 100\n", ""))
    assert (found.place.line, found.key) == (8, "training.max_steps")
    assert "add max_steps or num_train_epochs" in found.message
