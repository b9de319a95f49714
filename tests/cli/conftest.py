"""The width that help is read in, and a recipe to damage."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.cli.bench import Bench
from tests.flow.recipes import tiny_values
from tests.tiny import TinyCheckpoints
from tide import pipeline

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def bench(
    tiny_checkpoints: TinyCheckpoints,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    copies = TinyCheckpoints(
        student=shutil.copytree(tiny_checkpoints.student, tmp_path / "student"),
        teacher=shutil.copytree(tiny_checkpoints.teacher, tmp_path / "teacher"),
        other_teacher=tiny_checkpoints.other_teacher,
        rows=shutil.copy(tiny_checkpoints.rows, tmp_path / "rows.jsonl"),
    )
    monkeypatch.setattr(
        pipeline, "load_model", lambda *args, **kwargs: pytest.fail("weights were read before the error")
    )
    return Bench(tmp_path, tiny_values(copies, tmp_path / "run", "kl"), capfd)
