"""The commands: help, version, a check, a run with overrides, and completions."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

import tide
from tests.chat import examples_of
from tests.flow.recipes import tiny_recipe
from tests.tiny import ROWS, write_rows
from tide.cli import distill as distill_command
from tide.cli import prepare as prepare_command
from tide.cli.main import main
from tide.contract import Contract
from tide.data import TextRow
from tide.evaluation import held_out_likelihood
from tide.models import DiffusionModel, load_model, load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints

COMMANDS = ("recipe", "align", "prepare", "distill", "sample", "convert", "export")


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints that ends the program itself, with status 0."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(["--version"], capsys) == f"tide {tide.__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(["--help"], capsys)
    for name in COMMANDS:
        assert f"\n    {name}" in out


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_fits_in_100_columns(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = shown([*command, "--help"], capsys)
    assert out.startswith(" ".join(["usage: tide", *command]))
    assert max(map(len, out.splitlines())) <= 100


def test_every_option_of_a_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        "align": [
            "TEXT_OR_ROW",
            "--recipe",
            "--student",
            "--teacher",
            "--data",
            "--rows",
            "--show",
            "--html",
            "--plot",
        ],
        "prepare": ["RECIPE.yaml", "key=value", "--workers", "--overwrite"],
        "distill": ["RECIPE.yaml", "key=value", "--resume", "--check"],
        "sample": ["checkpoint", "PROMPT", "--prompt-file", "--chat", "--block-size", "--temperature"],
        "convert": ["MODEL", "OUTPUT", "--block-size", "--mask-token", "--dtype"],
        "export": ["STUDENT", "OUTPUT", "--format", "--dtype", "--block-size"],
    }
    for command, names in options.items():
        out = shown([command, "--help"], capsys)
        assert all(f"\n  {name}" in out for name in names), command


def test_prepared_data_is_trained_on(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(tiny_checkpoints, tmp_path / "run", "tide_cross").to_yaml())
    prepared = f"data.prepared={tmp_path / 'prepared'}"
    assert main(["distill", str(recipe), prepared]) == 2
    assert "is not there. Run `tide prepare` with the recipe" in capsys.readouterr().err
    assert main(["prepare", str(recipe), "--workers", "1", prepared]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'prepared'}: 8 rows, 8 examples") and out.endswith(", 1 shard\n")
    assert out.count("\n") == 1 and "already" not in err
    assert main(["prepare", str(recipe), "--workers", "1", prepared]) == 0
    again, err = capsys.readouterr()
    assert again == out
    assert err == f"tide prepare: {tmp_path / 'prepared'} was already prepared; nothing is made again\n"
    assert main(["distill", str(recipe), prepared]) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_prepare_counts_every_source_of_several(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(tiny_checkpoints, tmp_path / "run").to_yaml())
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n{"text": "import this"}\n')
    rows = str(tiny_checkpoints.rows)
    sources = [
        {"path": str(tmp_path / "b.jsonl"), "split": "test"},
        {"path": rows, "weight": 2, "answer_contains": "return"},
    ]
    arguments = [f"data.prepared={tmp_path / 'prepared'}", "data.train=null", f"data.sources={sources}"]
    assert main(["prepare", str(recipe), "--workers=1", *arguments]) == 0
    first, *rejected = capsys.readouterr().out.splitlines()
    rejected, lines = rejected[:2], rejected[2:]
    assert first.startswith(f"{tmp_path / 'prepared'}: 10 rows, 9 examples")
    (rejects,) = (tmp_path / "prepared").glob("*.rejects.jsonl")
    assert rejected == ["  1 rejected: empty answer", f"  rejected rows and their faults: {rejects}"]
    names = [f"{tmp_path / 'b.jsonl'} test", f"{rows} 'return'"]
    width = max(map(len, names))
    assert lines == [
        f"  {names[0]:<{width}}   2 rows,   1 kept,   1 rejected",
        f"  {names[1]:<{width}}   8 rows,   8 kept,   0 rejected",
    ]


@pytest.mark.parametrize("arguments", [[], ["distil"], ["distill"], ["sample", "somewhere"]])
def test_an_incomplete_command_shows_its_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: tide")


@pytest.mark.parametrize("command", ["distill", "prepare"])
def test_only_the_recipe_is_required(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"tide {command}: error: the following arguments are required: RECIPE.yaml"


def test_a_typo_in_a_recipe_is_answered_without_torch(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("methd: none\n")
    program = (
        "import sys\nfrom tide.cli.main import main\n"
        "status = main(['distill', 'recipe.yaml'])\n"
        "sys.exit(9 if {'torch', 'transformers'} & sys.modules.keys() else status)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 2, ran.stderr
    assert "nearest known key: method" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("method", "found"),
    [
        ("none", "method none, student's vocabulary 300; 8 rows, 8 examples"),
        ("tide_shared", "method tide_shared, student's vocabulary 300, teacher's vocabulary 300; 8 rows, "),
        ("tide_cross", "method tide_cross, student's vocabulary 300, teacher's vocabulary 340; 8 rows, "),
    ],
)
def test_check_prints_its_findings_and_writes_nothing(
    tiny_checkpoints: TinyCheckpoints,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    found: str,
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(tiny_checkpoints, tmp_path / "run", method).to_yaml())
    assert main(["distill", str(recipe), "--check"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{recipe}: fit to run; {found}")
    if method == "tide_cross":
        assert int(out.removesuffix(" chunks\n").split()[-1]) > 8
    assert not (tmp_path / "run").exists()


def test_overrides_win_over_the_file(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(tiny_checkpoints, tmp_path / "run").to_yaml())
    arguments = ["training.max_steps=2", f"training.output_dir={tmp_path / 'other'}", "objective.ce_weight=2"]
    assert main(["distill", str(recipe), *arguments]) == 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'other'}: 2 steps in " in out and "MiB" in out
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
    assert json.loads((tmp_path / "other" / "summary.json").read_text())["steps"] == 2
    written = tide.load_recipe(tmp_path / "other" / "recipe.yaml")
    assert (written.training.max_steps, written.objective.ce_weight) == (2, 2.0)


def test_overrides_may_come_in_any_order(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(tiny_checkpoints, tmp_path / "run").to_yaml())
    last = f"data.max_length={8 * 9}"
    for arguments in (
        [str(recipe), "--check", "method=kl", last],
        ["--check", str(recipe), "method=kl", last],
        [str(recipe), "method=none", "--check", "method=kl", "--resume", last],  # The later one wins.
    ):
        teacher = f"teacher={{path: '{tiny_checkpoints.teacher}', contract_values: {{block_size: 8}}}}"
        assert main(["distill", *arguments, teacher]) == 0
        said = "method kl, student's vocabulary 300, teacher's vocabulary 300; 8 rows, 8 examples, "
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["distill", "recipe.yaml", "--chek", "method=kl"], "--chek"),
        (["distill", "recipe.yaml", "--check", "method"], "method"),
        (["distill", "recipe.yaml", "--method=kl"], "--method=kl"),
        (["sample", "somewhere", "x", "--block-size=3", "a=1"], "a=1"),
    ],
)
def test_arguments_that_are_not_overrides_are_refused(
    arguments: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"usage: tide {arguments[0]} ")
    assert err.endswith(f"tide {arguments[0]}: error: unrecognized arguments: {wrong}\n")


def test_held_out_text_is_measured_at_the_end(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = write_rows(tmp_path / "held_out.jsonl", ROWS[:3])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(tiny_checkpoints, tmp_path / "run", "kl").to_yaml())
    assert main(["distill", str(recipe), f"data.held_out={held_out}"]) == 0
    out, err = capsys.readouterr()
    heading, start, teacher, bound, following = out.splitlines()[-5:]
    assert "evaluating the start and the teacher on 3 held-out texts\n" in err
    assert "evaluating the student on 3 held-out texts\n" in err
    student, tokenizer = (
        load(str(tmp_path / "run")) for load in (partial(load_model, trainable=False), load_tokenizer)
    )
    examples = examples_of(ROWS[:3], tokenizer, max_length=48, block_size=8)
    model = DiffusionModel(student, Contract(tokenizer.mask_token_id, block_size=8))
    expected = held_out_likelihood(model, tokenizer, examples)
    printed = f"{expected.bound.nats_per_byte:.4f} ± {expected.bound.standard_error:.4f}"
    assert heading == "held out, 3 texts: bound of nats per byte ± standard error"
    assert bound.startswith(f"  student {printed}")
    assert following == f'next: tide sample {tmp_path / "run"} "PROMPT"'
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary, references = written["held_out"], written["references"]
    for line, name in ((start, "start"), (teacher, "teacher")):
        assert line.startswith(f"  {name:8}{references[name]['bound']['nats_per_byte']:.4f} ± ")
    assert references["start"]["bound"] != references["teacher"]["bound"] != summary["bound"]
    assert summary["bound"] == pytest.approx(expected.bound.model_dump(), rel=1e-5)
    assert [*summary["nats_per_byte"].values()] == pytest.approx([*expected.nats_per_byte.values()], rel=1e-5)


def test_held_out_text_that_does_not_fit_the_teacher_is_found_by_check(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = write_rows(tmp_path / "held_out.jsonl", [TextRow("a long question " * 20, "yes")])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(tiny_checkpoints, tmp_path / "run", "calm").to_yaml())
    lengths = "data.max_length=4096", "data.teacher_max_length=48"
    assert main(["distill", str(recipe), "--check", f"data.held_out={held_out}", *lengths]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Correct the data, or raise data.teacher_max_length.")


def test_a_finished_run_is_reported_as_finished(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(tiny_checkpoints, tmp_path / "run").to_yaml())
    assert main(["distill", str(recipe)]) == 0
    line, following = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / 'run'}: 3 steps in ")
    assert main(["distill", str(recipe), "--resume"]) == 0
    line = line.replace(": 3 steps", ": already finished: 3 steps")
    assert capsys.readouterr().out.splitlines() == [line, following]


def test_an_interrupt_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(distill_command, "run", interrupted)
    assert main(["distill", "recipe.yaml"]) == 130
    assert capsys.readouterr().err == "\ntide distill: interrupted\n"
    monkeypatch.setattr(prepare_command, "run", interrupted)
    assert main(["prepare", "recipe.yaml"]) == 130
    err = capsys.readouterr().err
    assert err == "\ntide prepare: interrupted. Run the same command again to go on.\n"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("sample somewhere x", ["--max-new-tokens", "--block-size", "--steps-per-block"]),
        ("prepare recipe.yaml", ["--workers"]),
        ("align x", ["--rows", "--show", "--chunk-max-tokens", "--chunk-max-bytes"]),
    ],
)
@pytest.mark.parametrize("value", ["0", "-2", "many"])
def test_a_wrong_count_is_named_by_its_option(
    capsys: pytest.CaptureFixture[str], command: str, options: list[str], value: str
) -> None:
    for option in options:
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), f"{option}={value}"])
        assert ended.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == (
            f"tide {command.split()[0]}: error: argument {option}: "
            f"expected a whole number of at least 1, got '{value}'"
        )
