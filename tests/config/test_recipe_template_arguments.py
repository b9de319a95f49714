"""Variables of chat templates: names and plain values under a model, from files and overrides."""

from __future__ import annotations

import pytest

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
