"""Recipes that prepare the tiny checkpoints' rows, and what lies in a directory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.flow.recipes import tiny_values
from tide.config import Recipe
from tide.preparation import prepare as prepare_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints

prepare = partial(prepare_rows, shard_rows=4)


def recipe_of(checkpoints: TinyCheckpoints, tmp_path: Path, method: str = "tide_cross", **data) -> Recipe:
    """A recipe with `data.prepared`; `data` overrides that section."""
    values = tiny_values(checkpoints, tmp_path / "run", method)
    values["data"] |= {"prepared": str(tmp_path / "prepared"), **data}
    return Recipe.from_dict(values)


def files(folder: Path) -> dict[str, bytes]:
    """Contents by name."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
