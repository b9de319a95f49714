"""Variables of chat templates: names and plain values under a model, from files and overrides."""

from __future__ import annotations

import math

import pytest

from tide.config import Recipe, RecipeError

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
    ("lines", "words"),
    [
        ("  template_arguments: [1]\n", "names with a text, number, true or false each, got [1]"),
        ("  template_arguments: x\n", "got 'x'"),
        ("  template_arguments: null\n", "got null; give a value, or leave the key out"),
        ("  template_arguments:\n    a: [1]\n", "for 'a', got {'a': [1]}"),
        ("  template_arguments:\n    a: null\n", "for 'a', got {'a': None}"),
        ("  template_arguments:\n    a: 1\n    a: 2\n", "given twice"),
        ("  template_arguments:\n    a: !!python/name:x 1\n", "write the plain value"),
        ("  template_argument: {}\n", "nearest known key: student.template_arguments"),
    ],
)
def test_a_wrong_value_is_refused(problem, minimal, lines, words):
    assert words in problem(given(minimal, "  path: models/student\n" + lines)).message


def test_an_override_below_a_name_is_refused(problem, minimal):
    assert "unknown key" in problem(minimal, ["student.template_arguments.a.b=1"]).message


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "chat_template", "tools", "documents"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_taken_name_is_refused(problem, minimal, side, name):
    found = problem(minimal, [f"{side}.template_arguments={{{name}: x}}"])
    assert found.key == f"{side}.template_arguments" and f"{name!r} is set where" in found.message


@pytest.mark.parametrize("name", ["", "enable-thinking", "1st", "a b", "a.b"])
def test_a_name_that_is_no_identifier_is_refused(problem, minimal, name):
    found = problem(minimal, [f"student.template_arguments={{'{name}': x}}"])
    assert f"{name!r} cannot name a variable" in found.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**63, -(2**64), 10**400, 10**18, 1e18])
def test_a_number_that_yaml_would_change_is_refused(load, minimal, value):
    values = load(minimal).to_dict()
    values["student"]["template_arguments"] = {"depth": value}
    with pytest.raises(RecipeError, match=r"student\.template_arguments: a number is finite"):
        Recipe.from_dict(values)


@pytest.mark.parametrize("written", ["1e999", "18446744073709551616", "9223372036854775807"])
def test_numbers_of_a_file_lose_no_digits(problem, load, minimal, written):
    found = problem(minimal, [f"student.template_arguments.depth={written}"])
    assert "quote it" in found.message
    recipe = load(minimal, [f"student.template_arguments.depth='{written}'"])
    assert recipe.student.template_arguments == {"depth": written}


def test_long_numbers_come_back_whole(load, minimal):
    recipe = load(minimal, ["student.template_arguments={a: 999999999999999999, b: -1.5}"])
    assert recipe.student.template_arguments == {"a": 10**18 - 1, "b": -1.5}
    assert load(recipe.to_yaml()) == recipe
