"""Variables of chat templates: names and plain values under a model, from files and overrides."""

from __future__ import annotations

import inspect
import math

import pytest
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tide.config import Recipe, RecipeError
from tide.config.checks import TAKEN_NAMES

GIVEN = """\
  path: models/student
  template_arguments:
    enable_thinking: false
    date_string: 26 Jul 2024
"""
VALUES = {"enable_thinking": False, "date_string": "26 Jul 2024"}


def given(minimal: str, lines: str = GIVEN) -> str:
    return minimal.replace("  path: models/student\n", lines)


def test_names_and_values_are_read_and_written(load, minimal):
    recipe = load(given(minimal))
    assert recipe.student.template_arguments == VALUES
    assert recipe.teacher is not None and recipe.teacher.template_arguments == {}
    assert load(recipe.to_yaml()) == recipe
    recipe.to_dict()["student"]["template_arguments"]["more"] = 1
    assert recipe.student.template_arguments == VALUES


def test_overrides_set_one_or_all(load, minimal):
    one = load(given(minimal), ["student.template_arguments.enable_thinking=true"])
    assert one.student.template_arguments == VALUES | {"enable_thinking": True}
    new = load(minimal, ["teacher.template_arguments.depth=3"])
    assert new.teacher.template_arguments == {"depth": 3}
    every = load(given(minimal), ["student.template_arguments={a: 1.5, b: x}"])
    assert every.student.template_arguments == {"a": 1.5, "b": "x"}
    assert load(given(minimal), ["student.template_arguments={}"]).student.template_arguments == {}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("  template_arguments: [1]\n", "expected names with a text, number, true or false each, got [1]"),
        ("  template_arguments: x\n", "expected names with a text, number, true or false each, got 'x'"),
        ("  template_arguments:\n    a: [1]\n", "each, got 'a': [1]"),
        ("  template_arguments:\n    a: null\n", "each, got 'a': null"),
        ("  template_arguments: null\n", "got null; give a value, or leave the key out"),
        ("  template_arguments:\n    a: 1\n    a: 2\n", "student.template_arguments.a: given twice"),
        ("  template_arguments:\n    a: !!python/name:x 1\n", "is not read here; write the plain value"),
        ("  template_argument: {}\n", "nearest known key: student.template_arguments"),
    ],
)
def test_what_is_no_name_with_a_value_is_refused(errors, minimal, lines, said):
    (line,) = errors(given(minimal, "  path: models/student\n" + lines))
    assert said in line


def test_an_override_below_a_name_is_refused(errors, minimal):
    (line,) = errors(minimal, ["student.template_arguments.a.b=1"])
    assert "unknown key" in line


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "chat_template", "tools", "documents"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_names_that_are_taken_are_refused(errors, minimal, side, name):
    override = f"{side}.template_arguments={{{name}: x}}"
    assert errors(minimal, [override]) == [
        f"override {override!r}: {side}.template_arguments: {name!r} is set where the template is applied, "
        "not by a recipe; leave it out, and give variables of the template's own, such as enable_thinking"
    ]


def test_every_parameter_of_transformers_is_taken():
    parameters = {
        name
        for function in (PreTrainedTokenizerBase.apply_chat_template, render_jinja_template)
        for name in inspect.signature(function).parameters
    }
    assert parameters <= TAKEN_NAMES


@pytest.mark.parametrize("name", ["", "enable-thinking", "1st", "a b", "a.b"])
def test_what_is_no_name_is_refused(errors, minimal, name):
    (line,) = errors(minimal, [f"student.template_arguments={{'{name}': x}}"])
    assert f"student.template_arguments: {name!r} is no name of a template's variable; write letters" in line


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**63, -(2**64), 10**400, 10**18, 1e18])
def test_numbers_that_would_not_come_back_are_refused(load, minimal, value):
    values = load(minimal).to_dict()
    values["student"]["template_arguments"] = {"depth": value}
    with pytest.raises(
        RecipeError, match=r"student\.template_arguments: a number is finite, with at most 18"
    ):
        Recipe.from_dict(values)


@pytest.mark.parametrize("written", ["1e999", "18446744073709551616", "9223372036854775807"])
def test_numbers_of_a_file_lose_no_digits(errors, load, minimal, written):
    (line,) = errors(minimal, [f"student.template_arguments.depth={written}"])
    assert "Put it in quotes if it is meant as text" in line
    recipe = load(minimal, [f"student.template_arguments.depth='{written}'"])
    assert recipe.student.template_arguments == {"depth": written}


def test_long_numbers_come_back_whole(load, minimal):
    recipe = load(minimal, ["student.template_arguments={a: 999999999999999999, b: -1.5}"])
    assert recipe.student.template_arguments == {"a": 10**18 - 1, "b": -1.5}
    assert load(recipe.to_yaml()) == recipe
