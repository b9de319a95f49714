"""tide convert and tide export: their output, and errors of one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tide.cli.main import main
from tide.contract import Contract
from tide.models import contract_of, load_config, load_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints


def test_a_checkpoint_is_converted_and_exported(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, served = str(tmp_path / "student"), str(tmp_path / "served")
    arguments = ["--block-size", "16", "--mask-token", "<|hidden|>", "--dtype", "float32"]
    assert main(["convert", str(tiny_checkpoints.student), student, *arguments]) == 0
    parameters = load_model(student, trainable=False).num_parameters()
    assert capsys.readouterr().out.splitlines() == [
        f"{student}: {parameters:,} parameters",
        "  mask token <|hidden|>, id 300, 1 row added to the embeddings",
        "  block size 16",
    ]
    assert contract_of(load_config(student)) == Contract(300, 16)

    assert main(["export", student, served, "--format", "sdar"]) == 0
    out, err = capsys.readouterr()
    parameters = load_model(served, trainable=False).num_parameters()
    assert out.splitlines() == [
        f"{served}: sdar, {parameters:,} parameters in bfloat16",
        "  mask token <|hidden|>, id 300; block size 16",
        "serve with SGLang:",
        f"  python -m sglang.launch_server --model-path {served} --trust-remote-code \\",
        f"    --dllm-algorithm LowConfidence --dllm-algorithm-config {served}/sglang.yaml",
        "serve with LMDeploy:",
        f"  lmdeploy serve api_server {served} --backend pytorch --dllm-block-length 16",
    ]
    assert "tide export: warning: SGLang and LMDeploy mask with id 151669" in err

    assert main(["export", student, str(tmp_path / "dllm"), "--format", "a2d-qwen3", "--dtype=float32"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "in float32" in out
    assert "tide export: warning: dllm masks with <|mask|>" in err


def test_the_defaults_are_block_32_and_the_tokenizers_mask(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(tiny_checkpoints.student), str(tmp_path / "student")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  mask token <|mask|>, id 1, no row added to the embeddings",
        "  block size 32",
    ]


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("convert", ["--mask-token", "<|end|>"], "the mask token needs a text of its own"),
        ("export", ["--format", "sdar"], "config.json records no block_size"),
    ],
)
def test_bad_input_is_one_line(
    command: str,
    options: list[str],
    message: str,
    tiny_checkpoints: TinyCheckpoints,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "output"
    assert main([command, str(tiny_checkpoints.student), str(output), *options]) == 2
    assert not output.exists()
    output.write_text("a file")
    assert main([command, str(tiny_checkpoints.student), str(output), *options]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"tide {command}: ") and message in first
    assert second == f"tide {command}: {str(output)!r} is not an empty folder. Give a new one."


def test_a_block_size_that_is_not_recorded_is_an_option(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    arguments = ["--format", "a2d-qwen3", "--block-size", "8"]
    assert main(["export", str(tiny_checkpoints.student), str(tmp_path / "output"), *arguments]) == 0
    assert contract_of(load_config(str(tmp_path / "output"))).block_size == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "somewhere"], "the following arguments are required: OUTPUT"),
        (["convert", "a", "b", "--block-size", "0"], "expected a whole number of at least 1, got '0'"),
        (["export", "a", "b"], "the following arguments are required: --format"),
        (["export", "a", "b", "--format", "gguf"], "invalid choice: 'gguf'"),
        (["convert", "a", "b", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", [["convert"], ["export", "--format", "sdar"]])
def test_a_missing_model_is_one_line(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, str(tmp_path / "nowhere"), str(tmp_path / "output")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"tide {command[0]}: load_config: no folder")
