"""Recipes made in Python are checked like those from files, and share nothing with their caller."""

from __future__ import annotations

import pickle

import pytest
from pydantic import ValidationError

from tide.config import DataConfig, ModelConfig, Recipe, RecipeError, TrainingConfig


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        method="none",
        student=ModelConfig(path="s"),
        data=DataConfig(train="t.jsonl"),
        training=TrainingConfig(output_dir="o", max_steps=1),
    )


def test_an_error_carries_its_problems_through_pickling():
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({"method": "kl"})
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ValueError) and again.problems == caught.value.problems
    assert [problem.key for problem in again.problems] == ["student", "data", "training", "teacher"]
    assert str(again) == str(caught.value)


def test_long_values_are_cut():
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({"method": "x" * 5000, "k" * 5000: 1})
    assert max(map(len, str(caught.value).splitlines())) < 300


def test_a_recipe_goes_through_pickling(recipe):
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_numbers_take_their_declared_type():
    rate = TrainingConfig(output_dir="o", max_steps=1, learning_rate="1e-3").learning_rate
    assert rate == 1e-3 and type(rate) is float


def test_an_invalid_recipe_cannot_be_made(recipe):
    for change in (
        lambda: recipe.replace(method="kl"),
        lambda: recipe.model_copy(update={"method": "kl"}),
        lambda: Recipe(**{**dict(recipe), "method": "kl"}),
    ):
        with pytest.raises(RecipeError, match="recipe: teacher: method kl needs a teacher"):
            change()
    with pytest.raises(RecipeError, match="recipe: student: expected a section of keys"):
        recipe.replace(student="s")
    with pytest.raises(ValidationError):
        recipe.training.model_copy(update={"max_steps": 0})


def test_a_changed_copy_keeps_the_rest(recipe):
    changed = recipe.replace(training={"seed": 3}, teacher={"path": "t"}, method="kl")
    assert changed.training == recipe.training.model_copy(update={"seed": 3})
    assert (changed.method, changed.teacher, changed.student) == ("kl", ModelConfig(path="t"), recipe.student)
    assert recipe.training.seed == 0


def test_a_recipe_keeps_no_list_of_its_caller(recipe):
    report_to = ["tensorboard"]
    changed = recipe.replace(training={"report_to": report_to})
    report_to.append("wandb")
    changed.to_dict()["training"]["report_to"].append("wandb")
    assert changed.training.report_to == ["tensorboard"]


def test_from_dict_reads_plain_values_and_leaves_them_alone(recipe):
    values = recipe.to_dict()
    values["training"]["learning_rate"] = "5e-5"
    del values["teacher"]
    assert Recipe.from_dict(values) == recipe
    assert values["training"]["learning_rate"] == "5e-5" and "teacher" not in values


def test_keys_that_are_not_text_are_unknown(recipe):
    with pytest.raises(RecipeError, match=r"recipe: 7: unknown key"):
        Recipe.from_dict(recipe.to_dict() | {7: 1})
