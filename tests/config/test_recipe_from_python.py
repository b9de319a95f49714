"""Recipes made in Python are checked like those from files, and own what they hold."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from tide.config import DataConfig, ModelConfig, Recipe, RecipeError, TrainingConfig


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


class TestRecipesFromPython:
    def valid(self) -> Recipe:
        return Recipe(
            method="none",
            student=ModelConfig("s"),
            data=DataConfig(train="t.jsonl"),
            training=TrainingConfig(output_dir="o", max_steps=1),
        )

    def test_numbers_take_their_declared_type(self):
        training = TrainingConfig(output_dir="o", max_steps=1, learning_rate="1e-3")
        recipe = dataclasses.replace(self.valid(), training=training)
        assert recipe.training.learning_rate == 1e-3 and type(recipe.training.learning_rate) is float

    def test_an_invalid_recipe_cannot_be_made(self):
        with pytest.raises(RecipeError) as caught:
            dataclasses.replace(self.valid(), method="kl")
        assert str(caught.value) == (
            "recipe: teacher: method kl needs a teacher; add teacher: with its path, or set method: none"
        )
        with pytest.raises(RecipeError, match="recipe: student: expected a section of keys"):
            dataclasses.replace(self.valid(), student="s")

    def test_a_recipe_keeps_no_list_of_its_caller(self):
        report_to = ["tensorboard"]
        training = TrainingConfig(output_dir="o", max_steps=1, report_to=report_to)
        recipe = dataclasses.replace(self.valid(), training=training)
        report_to.append("wandb")
        recipe.to_dict()["training"]["report_to"].append("wandb")
        assert recipe.training.report_to == ["tensorboard"]

    def test_from_dict_reads_plain_values_and_leaves_them_alone(self):
        values = self.valid().to_dict()
        values["training"]["learning_rate"] = "5e-5"
        del values["teacher"]
        assert Recipe.from_dict(values) == self.valid()
        assert values["training"]["learning_rate"] == "5e-5" and "teacher" not in values

    def test_from_dict_names_keys_that_are_not_text(self):
        with pytest.raises(RecipeError, match=r"recipe: 7: unknown key"):
            Recipe.from_dict(self.valid().to_dict() | {7: 1})
