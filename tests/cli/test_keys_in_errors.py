"""Errors about files and models that a recipe names: each command names the key, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.flow.recipes import tiny_values
from tests.tiny import make_tokenizer
from tide.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tiny import TinyCheckpoints


@pytest.fixture
def error_line(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The one line of a command on a good recipe in which one value is changed."""

    def run(command: str, key: str, value: object) -> str:
        values: Any = tiny_values(tiny_checkpoints, tmp_path / "run", "tide_cross")
        values["data"]["prepared"] = str(tmp_path / "shards") if command == "prepare" else None
        section, _, name = key.partition(".")
        if name.startswith("sources"):
            del values["data"]["train"]
        values[section][name] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        arguments = {"distill": ["distill", str(path), "--check"], "align": ["align", "--recipe", str(path)]}
        assert main(arguments.get(command, [command, str(path)])) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = [line for line in err.splitlines() if line.startswith(f"tide {command}: ")]
        return line.removeprefix(f"tide {command}: ")

    return run


@pytest.mark.parametrize("command", ["prepare", "distill", "align"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.train", "no.jsonl", "data.train: open_source: no file or directory at 'no.jsonl'"),
        (
            "data.sources",
            [{"path": "no.jsonl"}],
            "data.sources.0.path: open_source: no file or directory at 'no.jsonl'",
        ),
        ("teacher.tokenizer", "./no", "teacher.tokenizer: load_tokenizer: no folder './no' here"),
    ],
)
def test_sources_and_tokenizers_are_named_by_key(
    error_line, command: str, key: str, value: object, message: str
) -> None:
    assert error_line(command, key, value).startswith(message)


def test_the_second_source_is_named_by_number(error_line, tiny_checkpoints: TinyCheckpoints) -> None:
    rows = str(tiny_checkpoints.rows)
    sources = [{"path": rows}, {"path": rows, "answer_contains": "nowhere to be found"}]
    line = error_line("distill", "data.sources", sources)
    assert line.startswith("data.sources.1.answer_contains: with_answer: no answer in the 8 rows")
    line = error_line("distill", "data.sources", [{"path": rows}, {"path": "no/*.jsonl"}])
    assert line.startswith("data.sources.1.path: open_source: no file of a known kind matches 'no/*.jsonl'")


def test_models_and_held_out_text_are_named_by_key(error_line, tmp_path: Path) -> None:
    line = error_line("distill", "student.path", "./no")
    assert line.startswith("student.path: load_config: no folder './no' here")
    assert error_line("align", "student.path", "./no").startswith(
        "student.path: load_tokenizer: no folder './no'"
    )
    line = error_line("distill", "data.held_out", "no.jsonl")
    assert line.startswith("data.held_out: open_source: no file or directory at 'no.jsonl'")
    make_tokenizer(300, mask=None).save_pretrained(tmp_path / "bare")
    line = error_line("prepare", "student.tokenizer", str(tmp_path / "bare"))
    assert line.startswith("student.tokenizer: load_tokenizer: the tokenizer at ")


def test_a_command_names_itself_once(error_line) -> None:
    assert error_line("distill", "training.report_to", ["nosuch"]).startswith(
        "training.report_to: transformers knows no tracker 'nosuch'."
    )
