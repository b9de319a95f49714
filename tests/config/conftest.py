"""A small valid recipe, and its way through a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tide.config import Recipe, RecipeError, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tide.config import Problem

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
def problems(load: Callable[..., Recipe]) -> Callable[..., tuple[Problem, ...]]:
    """The problems of a recipe's text, each printed on one line."""

    def problems(text: str | bytes, overrides: Sequence[str] = ()) -> tuple[Problem, ...]:
        with pytest.raises(RecipeError) as caught:
            load(text, overrides)
        found = caught.value.problems
        assert len(str(caught.value).splitlines()) == len(found)
        return found

    return problems


@pytest.fixture
def problem(problems: Callable[..., tuple[Problem, ...]]) -> Callable[..., Problem]:
    """The only problem of a recipe's text."""

    def problem(text: str | bytes, overrides: Sequence[str] = ()) -> Problem:
        found = problems(text, overrides)
        assert len(found) == 1, found
        return found[0]

    return problem
