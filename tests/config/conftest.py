"""A small valid recipe, and its way through a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tide.config import Recipe, RecipeError, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MINIMAL = """\
method: tide_shared
student:
  path: models/student
teacher:
  path: models/teacher
data:
  train: data/train.jsonl
training:
  output_dir: runs/one
  max_steps: 100
"""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def minimal() -> str:
    """Ten lines that load; line numbers in the tests count from its `method`."""
    return MINIMAL


@pytest.fixture
def load() -> Callable[..., Recipe]:
    """Load a recipe's text from the file r.yaml."""

    def load(text: str | bytes, overrides: Sequence[str] = ()) -> Recipe:
        Path("r.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_recipe("r.yaml", overrides)

    return load


@pytest.fixture
def errors(load: Callable[..., Recipe]) -> Callable[..., list[str]]:
    """The lines of the error that a recipe's text gives."""

    def errors(text: str | bytes, overrides: Sequence[str] = ()) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(text, overrides)
        lines = str(caught.value).splitlines()
        assert len(lines) == len(caught.value.problems), "a problem takes one line"
        return lines

    return errors
