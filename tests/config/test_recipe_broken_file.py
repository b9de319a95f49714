"""Files that are no recipe at all: one line, with the place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tide.config import RecipeError, load_recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "r.yaml: the recipe is empty; give at least method, student, data and training"),
        ("# nothing\n", "r.yaml: the recipe is empty; give at least method, student, data and training"),
        ("null\n", "r.yaml: the recipe is empty; give at least method, student, data and training"),
        (
            "- a\n",
            "r.yaml: a recipe is a mapping of keys to values; got ['a'] (a list). Write key: value lines",
        ),
        ("!x {a: 1}\n", "r.yaml:1: the tag !x is not read here; write the plain value"),
        ("text\n", "r.yaml: a recipe is a mapping of keys to values; got 'text'. Write key: value lines"),
        (
            "a: 1\nb: [1, 2\n",
            "r.yaml:3: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got ",
        ),
        (
            "a: 1\n b: 2\n",
            "r.yaml:2: not valid YAML: mapping values are not allowed here; check indentation, colons",
        ),
        (
            "a:\n\tb: 1\n",
            "r.yaml:2: not valid YAML: while scanning for the next token, found character '\\t' that",
        ),
        (
            "a: &x 1\nb: *x\n",
            "r.yaml:2: not a recipe: aliases (*name) are not read; write one plain document",
        ),
        ("a: &x [*x]\n", "r.yaml:1: not a recipe: aliases (*name) are not read; write one plain document"),
        (
            "a: 1\n---\nb: 1\n",
            "r.yaml:2: not a recipe: expected a single document in the stream, but found another",
        ),
        ("a: \x01\n", "r.yaml: not valid YAML: special characters are not allowed (character 3); remove"),
        (b"a: \xff\n", "r.yaml: not UTF-8 text (byte 3); save the recipe as UTF-8"),
        (
            "a: " + "[" * 1000,
            "r.yaml: not a recipe: nested too deeply; a recipe has sections with keys, and no more",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line(errors, text, expected):
    found = errors(text)
    assert len(found) == 1 and found[0].startswith(expected), found


def test_a_missing_file_and_a_directory():
    with pytest.raises(RecipeError) as caught:
        load_recipe("nowhere.yaml")
    assert str(caught.value) == (
        "nowhere.yaml: no such file; give the path of a recipe (relative to the current directory)"
    )
    Path("folder").mkdir()
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("folder"))
    assert (
        str(caught.value) == "folder: cannot be read (Is a directory); give the path of a readable YAML file"
    )


def test_a_byte_order_mark_is_not_content(load, minimal):
    assert load(b"\xef\xbb\xbf" + minimal.encode()) == load(minimal)
