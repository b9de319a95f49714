"""The reference of all keys, on a terminal and in docs/recipe.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tide.cli.main import main
from tide.config import Recipe
from tide.config.aliases import ALIASES
from tide.config.reading import declared_keys
from tide.config.reference import WIDTH, as_markdown, as_text, keys_by_section

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_alone_lists_every_section(capsys):
    assert main(["recipe"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    for section in ("student:, teacher:", "data:", "masking:", "objective:", "training:"):
        assert any(line.startswith(section) for line in lines), section


def test_docs_recipe_is_the_output_of_the_command(capsys):
    assert main(["recipe", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "recipe.md").read_text()


def test_every_key_has_a_meaning_and_every_alias_is_listed():
    keys = [key for _, keys in keys_by_section().values() for key in keys]
    assert all(key.meaning for key in keys)
    listed = {name for key in keys for name in key.names}
    assert {name.rpartition(".")[2] for name in ALIASES} <= listed
    sections = {*Recipe.model_fields} - {"method"}
    assert {key.rpartition(".")[2] for key in declared_keys(Recipe)} - sections - {""} <= listed


def test_the_text_fits_a_terminal_and_shows_one_key_or_section(capsys):
    assert max(map(len, as_text().splitlines())) <= WIDTH
    for key in ("training.lr", "learning_rate"):
        assert main(["recipe", key]) == 0
        out = capsys.readouterr().out
        assert "  learning_rate (or lr): a number above 0; default 5e-05\n" in out and "warmup" not in out
    masking = as_text("masking")
    assert "block_size" in masking and "learning_rate" not in masking
    with pytest.raises(ValueError, match="'nosuch' is not a section or key"):
        as_text("nosuch")


def test_markdown_has_a_table_for_each_section():
    for name in ("student", "data", "masking", "objective", "training", "data.sources[N]"):
        assert f"`{name}`" in as_markdown()
