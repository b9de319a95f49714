"""The quickstart from the shipped checkpoints to the report, at a few steps on a few functions."""

from __future__ import annotations

import io
import math
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console

from examples.quickstart import run
from examples.quickstart.__main__ import main
from examples.quickstart.commands import Commands
from examples.quickstart.corpus import split_functions
from examples.quickstart.output import claim
from examples.quickstart.results import BASELINE, LONGER, Results
from examples.quickstart.run import PIPELINES, Settings, quickstart
from tide.models import load_model, load_tokenizer

CHECKPOINTS = Path(__file__).parents[2] / "examples/quickstart/checkpoints"
SMALL = Settings(steps=2, seeds=(0,), held_out=6, evaluations=1)


@pytest.fixture(scope="module")
def rows():
    train, held_out = split_functions()
    return train[::50], held_out[::4]


@pytest.fixture(autouse=True)
def small_corpus(monkeypatch, rows):
    monkeypatch.setattr(run, "split_functions", lambda: rows)


@pytest.fixture
def in_this_process(monkeypatch):
    """Commands run here, one by one: sixteen processes would each import torch."""

    def command(commands, module, *arguments, log, watch=None):
        log.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        output = io.StringIO()
        with log.open("a") as errors, redirect_stdout(output), redirect_stderr(errors):
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as end:
                assert not end.code, log.read_text()
        return output.getvalue()

    monkeypatch.setattr(Commands, "run", command)
    monkeypatch.setattr(Commands, "side_by_side", lambda commands, functions, jobs: [f() for f in functions])


@pytest.mark.usefixtures("in_this_process")
def test_the_whole_quickstart_and_its_second_call(tmp_path, monkeypatch):
    assert_whole(tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_quickstart_in_processes(tmp_path, monkeypatch):
    assert_whole(tmp_path, monkeypatch)


def assert_whole(tmp_path, monkeypatch):
    same, cross = PIPELINES
    specs = (same._replace(methods=same.methods[-1:]), cross._replace(methods=cross.methods[::2]))
    monkeypatch.setattr(run, "PIPELINES", specs)
    console = Console(file=io.StringIO(), width=100)
    results = quickstart(SMALL, tmp_path, console=console)
    assert [pipeline.name for pipeline in results.pipelines] == [spec.name for spec in specs]
    for pipeline, spec in zip(results.pipelines, specs, strict=True):
        longer = (LONGER,) if BASELINE in spec.methods else ()
        assert sorted(pipeline.methods) == sorted(spec.methods + longer)
        start = pipeline.student.evaluation
        for one in (one for one in pipeline.runs if one.method != LONGER):
            assert all(math.isfinite(value) for value in one.evaluation.nats_per_byte.values())
            # Two steps hardly move a student from its checkpoint.
            assert one.evaluation != start and one.evaluation.num_bytes == start.num_bytes
            assert one.evaluation.loss == pytest.approx(start.loss, rel=0.1)
            assert one.seconds > 0 and one.peak_memory_mib > 100 and one.tokens_per_second > 0
            assert [step for step, _ in one.held_out_curve] == [0, 2]
            assert one.held_out_curve[-1][1] == pytest.approx(one.evaluation.loss)
            assert [step for step, _ in one.curves["cross_entropy"]] == [1, 2]
            assert len(one.completions) == 2
            for completion in one.completions:
                assert completion.reference and completion.prompt not in completion.completion
        assert pipeline.teacher.evaluation.loss < start.loss
    page = (tmp_path / "report.html").read_text()
    assert "tide_cross" in page and "same tokenizer" in page.lower()
    assert not list(tmp_path.glob("*/*/checkpoint-*"))
    printed = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert any(line.startswith("Report:") for line in printed)
    assert any(line.startswith("cross tokenizer: teacher") for line in printed)
    assert max(map(len, console.file.getvalue().replace(str(tmp_path), "").splitlines())) <= 100

    monkeypatch.setattr(Commands, "run", lambda *args, **keywords: pytest.fail("everything was done already"))
    assert quickstart(SMALL, tmp_path, console=console).pipelines == results.pipelines
    assert Results.load(tmp_path / "results.json") == results
    with pytest.raises(ValueError, match=r"other settings \(steps\).*--fresh"):
        quickstart(SMALL._replace(steps=3), tmp_path, console=console)
    claim(tmp_path, fresh=True)
    assert not list(tmp_path.iterdir()), "a whole quickstart is known by its names"


def test_missing_matplotlib_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)

    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(Commands, "run", interrupted)
    console = Console(file=io.StringIO(), width=100)
    with pytest.raises(KeyboardInterrupt):
        quickstart(SMALL, tmp_path, console=console)
    assert 'pip install -e ".[plots]"' in console.file.getvalue()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("mine", ["mine.txt", "data/train.jsonl", "same/none-seed0/model.safetensors"])
def test_a_folder_of_other_files_is_refused(tmp_path, fresh, mine):
    (tmp_path / mine).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mine).write_text("precious")
    with pytest.raises(ValueError, match=r"holds files of no quickstart, .*--output-dir"):
        quickstart(SMALL, tmp_path, fresh=fresh)
    assert contents(tmp_path) == {tmp_path / mine: b"precious"}


def test_fresh_removes_a_quickstart_and_nothing_else(tmp_path, monkeypatch):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(Commands, "run", interrupted)
    console = Console(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        quickstart(SMALL, tmp_path, console=console)
    run = tmp_path / "same" / "none-seed0"
    (run / "checkpoint-1").mkdir(parents=True)
    (run / "checkpoint-1" / "optimizer.pt").touch()
    for mine in ("notes.txt", "same/none-seed0/checkpoint-best-12"):
        (tmp_path / mine).touch()
        before = contents(tmp_path)
        with pytest.raises(ValueError, match=rf"{mine}' is not a quickstart's, so --fresh removes nothing"):
            quickstart(SMALL, tmp_path, fresh=True, console=console)
        assert contents(tmp_path) == before
        (tmp_path / mine).unlink()
    with pytest.raises(KeyboardInterrupt):
        quickstart(SMALL._replace(steps=3), tmp_path, fresh=True, console=console)
    assert not run.exists() and Results.load(tmp_path / "results.json").settings["steps"] == "3"


def test_outside_a_clone_it_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["quickstart", "--output-dir", str(tmp_path / "out")])
    assert main() == 2
    assert "root of a clone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--steps", "--seeds", "--jobs"])
def test_counts_are_checked(option, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["quickstart", option, "0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and f"argument {option}: expected a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "vocabulary", "fewest", "most"),
    [
        ("teacher", 4096, 4e6, 8e6),
        ("student", 4096, 0.8e6, 1.2e6),
        ("student-small-vocab", 2048, 0.8e6, 1.2e6),
    ],
)
def test_the_shipped_checkpoints_have_the_documented_sizes(name, vocabulary, fewest, most):
    folder = CHECKPOINTS / name
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 16 * 2**20
    tokenizer = load_tokenizer(str(folder))
    assert len(tokenizer) == vocabulary and tokenizer.eos_token_id is not None
    model = load_model(str(folder), trainable=False)
    assert fewest <= model.num_parameters() <= most
    assert model.config.tie_word_embeddings
