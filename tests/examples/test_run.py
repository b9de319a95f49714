"""The quickstart from the shipped checkpoints to the report, at a few steps on a few functions."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from tide.cli.main import main
from tide.models import load_model, load_tokenizer
from tide.quickstart import run
from tide.quickstart.corpus import split_functions
from tide.quickstart.results import Results
from tide.quickstart.run import PIPELINES, Settings, quickstart

CHECKPOINTS = Path(__file__).parents[2] / "examples/quickstart/checkpoints"


@pytest.fixture(scope="module")
def rows():
    train, held_out = split_functions()
    return train[::50], held_out[::4]


@pytest.fixture(autouse=True)
def small_corpus(monkeypatch, rows):
    monkeypatch.setattr(run, "split_functions", lambda: rows)


def test_the_whole_quickstart_and_its_second_call(tmp_path, monkeypatch):
    settings = Settings(steps=2, seeds=(0,), held_out=6)
    console = Console(file=io.StringIO(), width=100)
    results = quickstart(settings, tmp_path, console=console)
    assert [pipeline.name for pipeline in results.pipelines] == [spec.name for spec in PIPELINES]
    for pipeline, spec in zip(results.pipelines, PIPELINES, strict=True):
        assert tuple(pipeline.methods) == spec.methods
        for one in pipeline.runs:
            assert all(math.isfinite(value) for value in one.evaluation.nats_per_byte.values())
            # Two steps move a student, and hardly: it stays near the checkpoint that it started from.
            assert one.evaluation != pipeline.start_evaluation
            assert one.evaluation.bytes == pipeline.start_evaluation.bytes
            start = pipeline.start_evaluation.nats_per_byte["0.5"]
            assert one.evaluation.nats_per_byte["0.5"] == pytest.approx(start, rel=0.1)
            assert one.seconds > 0 and one.peak_memory_mib > 100 and one.tokens_per_second > 0
            assert [step for step, _ in one.held_out_curve] == [0, 1, 2]
            assert one.held_out_curve[-1][1] == pytest.approx(sum(one.evaluation.nats_per_byte.values()) / 3)
            assert len(one.completions) == 2 and all(c.reference for c in one.completions)
        assert pipeline.teacher_evaluation is not None
        teacher, start = pipeline.teacher_evaluation.nats_per_byte, pipeline.start_evaluation.nats_per_byte
        assert all(teacher[t] < start[t] for t in teacher)
    page = (tmp_path / "report.html").read_text()
    assert "tide_cross" in page and "same tokenizer" in page.lower()
    printed = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert any(line.startswith("Report:") for line in printed)
    title = next(index for index, line in enumerate(printed) if line.startswith("cross tokenizer: teacher"))
    assert printed[title - 2 : title] == ["Bold: best method.", ""], "a line of air between two tables"
    assert max(map(len, console.file.getvalue().replace(str(tmp_path), "").splitlines())) <= 100

    monkeypatch.setattr(run, "run_job", lambda *args, **keywords: pytest.fail("everything was done already"))
    assert quickstart(settings, tmp_path, console=console).pipelines == results.pipelines
    assert Results.load(tmp_path / "results.json") == results
    with pytest.raises(ValueError, match=r"other settings \(steps\).*--fresh"):
        quickstart(Settings(steps=3, seeds=(0,), held_out=6), tmp_path, console=console)


def test_without_matplotlib_it_says_so_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)

    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_job", interrupted)
    console = Console(file=io.StringIO(), width=100)
    with pytest.raises(KeyboardInterrupt):
        quickstart(Settings(steps=2, seeds=(0,), held_out=6), tmp_path, console=console)
    assert 'No plots: matplotlib is not installed (pip install -e ".[plots]").' in console.file.getvalue()


def test_outside_a_clone_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--output-dir", str(tmp_path / "out")]) == 2
    assert "Run it in a clone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("steps", "seeds", "wrong"), [(0, None, "steps"), (None, -1, "seeds"), (3, 0, "seeds")]
)
def test_steps_and_seeds_are_counts(steps, seeds, wrong):
    got = steps if wrong == "steps" else seeds
    with pytest.raises(ValueError, match=rf"quickstart: {wrong} must be at least 1; got {got}\."):
        Settings.quick().changed(steps=steps, num_seeds=seeds)


@pytest.mark.parametrize(
    ("name", "vocabulary", "fewest", "most"),
    [
        ("teacher", 4096, 4e6, 8e6),
        ("student", 4096, 0.8e6, 1.2e6),
        ("student-small-vocab", 2048, 0.8e6, 1.2e6),
    ],
)
def test_the_shipped_checkpoints_are_what_the_readme_says(name, vocabulary, fewest, most):
    folder = CHECKPOINTS / name
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 16 * 2**20
    tokenizer = load_tokenizer(str(folder))
    assert len(tokenizer) == vocabulary and tokenizer.eos_token_id is not None
    model = load_model(str(folder), trainable=False)
    assert fewest <= model.num_parameters() <= most
    assert model.config.tie_word_embeddings
