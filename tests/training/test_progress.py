"""What a run shows of its steps."""

from __future__ import annotations

import re

import pytest

from tests.flow.recipes import tiny_recipe
from tide.pipeline import distill
from tide.training.progress import step_line


def test_a_line_of_figures_fits_a_terminal():
    logs = {
        "loss": 12.3456,
        "grad_norm": 0.00012345,
        "learning_rate": 6e-4,
        "cross_entropy": 11.98765,
        "reverse_calm": 0.0123456,
        "active_chunks": 31.25,
        "student_tokens": 712.0,
        "tokens_per_second": 12345.6,
        "epoch": 1.5,
    }
    line = step_line(30, 12000, logs)
    expected = "step    30/12000  loss 12.3  cross_entropy 12  reverse_calm 0.0123  lr 0.0006  grad 0.000123"
    assert line == f"{expected}  tok/s 12,346"
    assert len(line) <= 110


def test_a_run_shows_its_steps_as_lines_and_nothing_of_transformers(tiny_checkpoints, tmp_path, capfd):
    lines: list[str] = []
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", "tidal", max_steps=4, logging_steps=2)
    distill(recipe, log=lines.append, progress=True)
    steps = [line for line in lines if line.startswith("step ")]
    assert [
        re.match(r"step (\d)/4  loss [\d.]+  cross_entropy [\d.]+  tidal ", line)[1] for line in steps
    ] == [
        "2",
        "4",
    ]
    assert lines[0].startswith("loading ") and len(lines) == len(steps) + 1
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_bar(terminal, tiny_checkpoints, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    distill(tiny_recipe(tiny_checkpoints, tmp_path / "run"), progress=True)
    assert ("3/3" in capfd.readouterr().err) == terminal
