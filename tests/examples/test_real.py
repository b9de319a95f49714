"""The parts of examples/real.py that need no packages of weights."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from examples import real
from examples.quickstart.corpus import FunctionRow
from examples.quickstart.results import Evaluation
from tide.config import load_recipe
from tide.evaluation import HeldOutLikelihood
from tide.pipeline import RunSummary

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", real.RECIPES)
def test_the_recipes_name_what_the_program_writes(name):
    recipe = load_recipe(ROOT / real.RECIPES[name])
    assert recipe.teacher is not None and recipe.teacher.contract == "ar"
    assert Path(recipe.teacher.path) in {real.FOLDER / file for file in real.WEIGHTS}
    assert Path(recipe.student.path) == real.FOLDER / "start"
    assert Path(recipe.data.train or "") == real.FOLDER / "data" / "train.jsonl"
    assert Path(recipe.data.held_out or "") == real.FOLDER / "data" / "held_out.jsonl"
    assert Path(recipe.training.output_dir) == real.FOLDER / name


def carry(site: Path, name: str, **files: bytes) -> None:
    """Install a package with a GGUF file or a part of one."""
    folder = site / name
    folder.mkdir(parents=True)
    record = [f"{name}/__init__.py,,"]
    for suffix, content in files.items():
        (folder / f"model.gguf{suffix}").write_bytes(content)
        record.append(f"{name}/model.gguf{suffix},,")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join(record) + "\n")


def test_parts_of_weights_are_joined_in_order(tmp_path, monkeypatch):
    carry(tmp_path / "site", "second", **{".part01": b"CD"})
    carry(tmp_path / "site", "first", **{".part00": b"AB"})
    carry(tmp_path / "site", "whole", **{"": b"ABCD"})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for packages in (["second", "first"], ["whole"]):
        file = tmp_path / "runs" / "model.gguf"
        real.write_weights(file, packages)
        assert file.read_bytes() == b"ABCD"
    with pytest.raises(ValueError, match="package absent is not installed"):
        real.write_weights(tmp_path / "other.gguf", ["whole", "absent"])
    assert not (tmp_path / "other.gguf").exists()


def test_held_out_functions_are_short_and_spread():
    rows = [FunctionRow(f"m{number}", "def f():\n", "    pass\n") for number in range(100)]
    long = [FunctionRow("long", "def g():\n", "    " + real.MAX_BYTES * "x")]
    assert real.choose_held_out(long + rows) == rows[: 3 * real.NUM_HELD_OUT : 3]
    assert real.choose_held_out(long + rows[:1]) == rows[:1]


def test_figures_are_a_table_of_at_most_100_columns():
    likelihood = {
        "bound": {"nats_per_byte": 1.5, "standard_error": 0.1, "mask_error": 0.01},
        "nats_per_byte": {0.25: 1.25, 0.5: 1.5, 0.75: 1.75},
        "accuracy": {0.25: 0.25, 0.5: 0.5, 0.75: 0.75},
        "num_tokens": 9,
        "num_bytes": 30,
        "num_texts": 2,
    }
    logs = [{"tokens_per_second": 10.0}, {"tokens_per_second": 30.0}, {"train_runtime": 1.0}]
    run = RunSummary(
        method="tide_cross",
        steps=3,
        seconds=61.2,
        peak_memory_mib=4500.4,
        held_out=HeldOutLikelihood.model_validate(likelihood),
        log_history=logs,
    )
    console = Console(file=io.StringIO(), width=100)
    console.print(real.figures(Evaluation.model_validate(likelihood), {"cross": run}))
    before, after = console.file.getvalue().splitlines()[-3:-1]
    assert before.split() == ["before", "1.250", "1.500", "1.750", "1.500", "50.0"]
    assert after.split() == ["cross:", "tide_cross", *before.split()[1:], "20", "3", "61", "4500"]


def test_outside_a_clone_it_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["real"])
    assert real.main() == 2
    assert "root of a clone" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
