"""Files that are not a recipe: one problem, with the line and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tide.config import RecipeError, load_recipe


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "empty; give at least method"),
        ("# nothing\n", None, "empty"),
        ("null\n", None, "empty"),
        ("- a\n", None, "a mapping of keys to values; got ['a']"),
        ("text\n", None, "a mapping of keys to values; got 'text'"),
        ("!x {a: 1}\n", 1, "the tag !x"),
        ("a: 1\nb: [1, 2\n", 3, "not valid YAML: while parsing a flow sequence"),
        ("a: 1\n b: 2\n", 2, "not valid YAML: mapping values are not allowed here; check indentation"),
        ("a:\n\tb: 1\n", 2, "not valid YAML"),
        ("a: &x 1\nb: *x\n", 2, "aliases (*name) are not read"),
        ("a: &x [*x]\n", 1, "aliases (*name) are not read"),
        ("a: 1\n---\nb: 1\n", 2, "expected a single document"),
        ("a: \x01\n", None, "(character 3); remove"),
        (b"a: \xff\n", None, "not UTF-8 text (byte 3)"),
        ("a: " + "[" * 1000, None, "nested too deeply"),
    ],
)
def test_a_broken_file_is_named_with_its_line(problem, text, line, words):
    found = problem(text)
    assert (found.place.source, found.place.line) == ("r.yaml", line)
    assert words in found.message


def test_a_missing_file_and_a_directory_are_named():
    Path("folder").mkdir()
    for path, words in (("nowhere.yaml", "no such file"), (Path("folder"), "cannot be read")):
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert str(caught.value).startswith(f"{path}: {words}")


def test_a_byte_order_mark_is_not_content(load, minimal):
    assert load(b"\xef\xbb\xbf" + minimal.encode()) == load(minimal)
